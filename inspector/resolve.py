"""A request -> a `ResolvedRun`: everything that is not the model's own matter is decided here, once.

Nothing downstream reads the environment, fills a default or checks again. No torch is loaded, so that what is wrong
with a request shows before any work is done. What the run itself refuses (a dtype that a kernel does not take, a model
without an implementation) shows where it runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from inspector.errors import UsageError
from inspector.hardware.platform import Platform, build_platform, parse_torch
from inspector.memory.allocator.settings import AllocatorSettings
from inspector.records.hardware import Gpu
from inspector.records.recipe import Recipe
from inspector.records.request import Request
from inspector.records.source import SourceFiles
from inspector.records.tape import WorkloadInfo
from inspector.workloads.registry import find_workload

__all__ = ["ALLOCATOR_VARIABLE", "ResolvedRun", "find_allocator_settings", "resolve_run", "settle_recipe"]

# In the order in which torch 2.13 looks at them for CUDA (c10/cuda/CUDAAllocatorConfig.h, `instance`).
ALLOCATOR_VARIABLE = "PYTORCH_CUDA_ALLOC_CONF"
_VARIABLES = (ALLOCATOR_VARIABLE, "PYTORCH_ALLOC_CONF")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedRun:
    """What is to be predicted: a model with its adapter, a workload and its recipe, on a platform under an allocator.

    `request` names the model and the forms of its weights, and its recipe is settled. `files` are what the source
    delivered, None for a live object. `gpu` is the card that the prediction is for, None where none was named;
    `platform` is that card's with the torch that was asked for.
    """

    request: Request
    files: SourceFiles | None = None
    workload: WorkloadInfo
    gpu: Gpu | None
    platform: Platform
    allocator: AllocatorSettings

    @property
    def recipe(self) -> Recipe:
        """Return the recipe as it was settled; what depends on the model is filled in when it runs."""
        return self.request.recipe

    def with_gpu(self, gpu: Gpu) -> ResolvedRun:
        """Return the same run on another card."""
        return dataclasses.replace(self, gpu=gpu, platform=build_platform(gpu, self.platform.torch_version))

    def with_request(self, request: Request) -> ResolvedRun:
        """Return the run of another request of the same inspection: another recipe, adapter or form of the weights.

        The allocator stays that of this run.
        """
        recipe = dataclasses.replace(settle_recipe(request.recipe), alloc_conf=self.recipe.alloc_conf)
        return dataclasses.replace(self, request=dataclasses.replace(request, recipe=recipe))


def resolve_run(request: Request, gpu: Gpu | None, environment: Mapping[str, str]) -> ResolvedRun:
    """Return the run that a request asks for on a card; raise UsageError where none could be as it says."""
    workload = find_workload(request.workload)
    _refuse_what_is_not_read(request, workload)
    allocator, recipe = find_allocator_settings(settle_recipe(request.recipe), environment)
    torch_version = None if request.torch is None else parse_torch(request.torch)
    return ResolvedRun(
        request=dataclasses.replace(request, recipe=recipe),
        workload=workload,
        gpu=gpu,
        platform=build_platform(gpu, torch_version),
        allocator=allocator,
    )


def settle_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe with the KV cache settled; raise UsageError where no step could run as it says."""
    if recipe.use_reentrant and not recipe.gradient_checkpointing:
        raise UsageError("`use_reentrant` says how to checkpoint: add `gradient_checkpointing`, or drop it.")
    # Trainer sets config.use_cache to TrainingArguments.use_cache, which is off; blocks that are computed again fill no
    # cache at all (transformers/utils/generic.py, merge_with_config_defaults).
    return dataclasses.replace(recipe, use_cache=bool(recipe.use_cache) and not recipe.gradient_checkpointing)


def find_allocator_settings(recipe: Recipe, environment: Mapping[str, str]) -> tuple[AllocatorSettings, Recipe]:
    """Return the settings of the caching allocator, and the recipe with their text where they are not torch's defaults.

    The recipe's own text goes before the environment's, as torch reads it.
    """
    source, text = "`alloc_conf`", recipe.alloc_conf
    for variable in _VARIABLES:
        if text is None:
            source, text = variable, environment.get(variable)
    try:
        settings = AllocatorSettings.parse(text or "")
    except UsageError as error:
        raise UsageError(f"{source}: {error}; correct it.") from error
    text = text if settings != AllocatorSettings() else None
    return settings, dataclasses.replace(recipe, alloc_conf=text)


def _refuse_what_is_not_read(request: Request, workload: WorkloadInfo) -> None:
    """Raise UsageError for a setting that means nothing to the workload: in silence it would read as heeded."""
    defaults = Recipe()
    for field in dataclasses.fields(Recipe):
        asked = getattr(request.recipe, field.name)
        if field.name not in workload.recipe_fields and asked != getattr(defaults, field.name):
            raise UsageError(f"`{field.name}` means nothing to the workload {workload.name}: drop it.")

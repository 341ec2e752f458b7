"""A request -> a `ResolvedRun`: everything that is not the model's own matter is decided here, once.

Nothing downstream reads the environment, fills a default or checks again. No torch is loaded, so that what is wrong
with a request shows before any work is done. What the run itself refuses (a dtype that a kernel does not take, a model
without an implementation) shows where it runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inspector.compat.deepspeed import has_deepspeed
from inspector.errors import UsageError
from inspector.hardware.memory_size import parse_margin
from inspector.hardware.platform import Platform, build_platform, parse_torch
from inspector.hardware.spread import MOST_RANKS, refuse_spread
from inspector.memory.allocator.settings import AllocatorSettings
from inspector.memory.verdict import find_overhead, find_usable_bytes
from inspector.quantization.declared import find_declared
from inspector.quantization.formats import find_format
from inspector.records.hardware import Gpu
from inspector.records.recipe import Attention, Offload, Recipe, find_prompt_len
from inspector.records.request import LoraOptions, Preparation, Quantization, QuantStorage, Request, Sharding
from inspector.records.source import SourceFiles
from inspector.records.steps.ranks import Ddp, DeviceMap, Fsdp1, Fsdp2, Launch, TensorParallel, Zero
from inspector.records.steps.stages import name_stages
from inspector.records.tape import WorkloadInfo
from inspector.records.training_file import Origin
from inspector.workloads.registry import find_workload

__all__ = [
    "ALLOCATOR_VARIABLE",
    "MOST_RANKS",
    "ResolvedRun",
    "find_allocator_settings",
    "find_packing",
    "is_packed",
    "resolve_run",
    "settle_recipe",
]

# In the order in which torch 2.13 looks at them for CUDA (c10/cuda/CUDAAllocatorConfig.h, `instance`).
ALLOCATOR_VARIABLE = "PYTORCH_CUDA_ALLOC_CONF"
_STAGES = {Sharding.ZERO1: 1, Sharding.ZERO2: 2, Sharding.ZERO3: 3}
# What FSDP1 calls a strategy that it follows within each machine.
_HYBRID = {"FULL_SHARD": "HYBRID_SHARD", "SHARD_GRAD_OP": "HYBRID_SHARD_ZERO2"}
_VARIABLES = (ALLOCATOR_VARIABLE, "PYTORCH_ALLOC_CONF")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedRun:
    """What is to be predicted: a model with its adapter, a workload and its recipe, on a platform under an allocator.

    `request` is what was asked for, with the allocator settings of the environment where it names none, and with no
    preparation of packed weights for a run that generates; `recipe` is its recipe as it is settled. `files` are
    what the source delivered, None for a live object. `gpu` is the card that the prediction is for, None where none
    was named, `cards` how many of it the run has, and `rank` which of their ranks it is; with `is_rank` one card is a
    rank, too. `platform` is that card's with the torch that was asked for. `scan_passes` is how many passes loops over
    positions make at most, all where that is None.
    """

    request: Request
    files: SourceFiles | None = None
    workload: WorkloadInfo
    gpu: Gpu | None
    cards: int = 1
    rank: int = 0
    is_rank: bool = False
    platform: Platform
    scan_passes: int | None = None

    @property
    def recipe(self) -> Recipe:
        """Return the recipe with everything filled in but what the workload decides by the model's class."""
        is_prepared = self.workload.trains and is_packed(self) and self.request.preparation == Preparation.PEFT
        recipe = settle_recipe(self.request.recipe, is_prepared=is_prepared)
        is_default = self.allocator == AllocatorSettings()
        recipe = dataclasses.replace(recipe, alloc_conf=None if is_default else recipe.alloc_conf)
        if not self.workload.generates:
            return recipe
        read = {} if self.files is None else self.files.decoding or {}
        decoding = {**read, **(recipe.generation or {})} or None
        return dataclasses.replace(recipe, prompt_len=find_prompt_len(recipe), generation=decoding)

    @property
    def margin_bytes(self) -> int | None:
        """Return how much of a card is to stay free, None for what is not known of it."""
        return None if self.request.margin is None else parse_margin(self.request.margin)

    @property
    def allocator(self) -> AllocatorSettings:
        """Return the settings of the caching allocator."""
        return AllocatorSettings.parse(self.request.recipe.alloc_conf or "")

    @property
    def launch(self) -> Launch | None:
        """Return how the run is spread over its cards, None for one card, and where ranks are not traced."""
        if self.request.device_map is not None:
            return self._place_modules()
        if self.request.tensor_parallel is not None or self.request.expert_parallel is not None:
            return self._cut_layers(self.request.tensor_parallel or 1, self.request.expert_parallel or 1)
        recipe = self.request.recipe
        sharding, settings = self.request.sharding, self.request.sharding_settings or {}
        is_sharded = sharding in (Sharding.FSDP, Sharding.FSDP1)
        is_zero = sharding in _STAGES and self._runs_deepspeed(settings)
        is_known = (is_sharded or is_zero or sharding is None) and recipe.stage is None and recipe.offload is None
        replicas = self.request.nodes or 1
        is_known = is_known and self.cards % replicas == 0 and (replicas == 1 or self.cards > replicas)
        is_known = is_known and (self.cards <= MOST_RANKS or sharding is None)
        if self.cards < (1 if self.is_rank else 2) or not is_known or not self.workload.trains:
            return None
        if is_sharded and find_packing(self) == (Quantization.INT8, "int8"):
            return None  # its weights stop there: their scales are lost with their class
        if sharding in _STAGES:
            return Zero(world_size=self.cards, stage=_STAGES[Sharding(sharding)], config=settings.get("config"))
        if not is_sharded:
            return Ddp(world_size=self.cards, find_unused_parameters=settings.get("find_unused_parameters"))
        kind = Fsdp1 if sharding == Sharding.FSDP1 else Fsdp2
        known = {item.name for item in dataclasses.fields(kind)}
        chosen = {name: value for name, value in settings.items() if name in known}
        if replicas > 1:
            chosen["replicas"] = replicas
        if replicas > 1 and kind is Fsdp1:
            strategy = chosen.get("sharding_strategy", "FULL_SHARD")
            chosen["sharding_strategy"] = _HYBRID.get(strategy, strategy)
        return kind(world_size=self.cards, **chosen)

    def _cut_layers(self, count: int, experts: int) -> TensorParallel | None:
        """Return how layers and experts are spread over cards, None where that is not traced."""
        recipe, is_sharded = self.request.recipe, self.request.sharding == Sharding.FSDP
        is_known = self.workload.trains and recipe.stage is None and recipe.offload is None and not is_packed(self)
        is_even = not (self.cards % count or self.cards % experts or (experts > 1 and experts % count))
        if not is_even or (self.cards > count and not is_sharded) or not is_known or self.cards > MOST_RANKS:
            return None
        return TensorParallel(world_size=self.cards, tensor_parallel=count, expert_parallel=experts)

    def _place_modules(self) -> DeviceMap | None:
        """Return the cards that modules are placed on, None where no card was named."""
        asked = self.request.device_map
        if self.gpu is None or asked is None:
            return None
        usable = find_usable_bytes(self.gpu, find_overhead(self.gpu).bytes)
        return DeviceMap(world_size=self.cards, device_map=asked, card_bytes=usable)

    def _runs_deepspeed(self, settings: Mapping[str, Any]) -> bool:
        """Tell whether DeepSpeed is there to run a stage, on weights in float of which nothing waits on a disk."""
        zero = (settings.get("config") or {}).get("zero_optimization") or {}
        parts = [zero.get(name) for name in ("offload_optimizer", "offload_param")]
        devices = [part.get("device") for part in parts if isinstance(part, Mapping)]
        is_on_disk = any(device not in (None, "none", "cpu") for device in devices)
        return has_deepspeed() and not is_on_disk and not is_packed(self)

    def list_defaults(self) -> tuple[str, ...]:
        """Return the fields of the recipe that the workload reads and that are as they would be by default.

        Of a training file they are those that neither the file says nor an option.
        """
        names = [item.name for item in dataclasses.fields(Recipe) if item.name in self.workload.recipe_fields]
        source = self.request.source
        if source is not None and source.file is not None:
            said = {item.becomes for item in source.file.fields if item.origin is not Origin.DEFAULT}
            return tuple(name for name in names if name not in said)
        default = dataclasses.replace(self, request=dataclasses.replace(self.request, recipe=Recipe())).recipe
        recipe = self.recipe
        return tuple(name for name in names if getattr(recipe, name) == getattr(default, name))

    def with_gpu(self, gpu: Gpu, cards: int = 1) -> ResolvedRun:
        """Return the same run on another card, or on several of a kind."""
        platform = build_platform(gpu, self.platform.torch_version)
        rank = self.rank if cards == self.cards else 0
        return dataclasses.replace(self, gpu=gpu, cards=cards, rank=rank, platform=platform)

    def with_cards(self, count: int) -> ResolvedRun:
        """Return the same run on another number of its cards."""
        return dataclasses.replace(self, cards=count, rank=0)

    def with_rank(self, rank: int) -> ResolvedRun:
        """Return the same run as another of its ranks."""
        return dataclasses.replace(self, rank=rank)

    def with_request(self, request: Request) -> ResolvedRun:
        """Return the run of another request of the same inspection: another recipe, adapter or form of the weights."""
        return dataclasses.replace(self, request=request)

    def with_sizes(self, batch_size: int, seq_len: int | None) -> ResolvedRun:
        """Return the same run with other sizes of its batch."""
        recipe = dataclasses.replace(self.request.recipe, batch_size=batch_size, seq_len=seq_len)
        return self.with_request(dataclasses.replace(self.request, recipe=recipe))


def resolve_run(request: Request, gpu: Gpu | None, environment: Mapping[str, str], cards: int = 1) -> ResolvedRun:
    """Return the run that a request asks for on a card, or several; raise UsageError where none could be as it says."""
    workload = find_workload(request.workload)
    _refuse_what_is_not_read(request, workload)
    recipe = request.recipe
    if recipe.use_reentrant and recipe.gradient_checkpointing is False:
        raise UsageError("`use_reentrant` says how to checkpoint: add `gradient_checkpointing`, or drop it.")
    if not workload.generates:
        _refuse_long_parts(recipe)
    refuse_spread(request, cards, trains=workload.trains)
    recipe = dataclasses.replace(recipe, alloc_conf=find_allocator_settings(recipe.alloc_conf, environment))
    torch_version = None if request.torch is None else parse_torch(request.torch)
    if request.margin is not None:
        parse_margin(request.margin)
    # Nobody prepares for training what generates.
    preparation = Preparation.NONE if workload.generates else request.preparation
    return ResolvedRun(
        request=dataclasses.replace(request, recipe=recipe, preparation=preparation),
        workload=workload,
        gpu=gpu,
        cards=cards,
        platform=build_platform(gpu, torch_version),
    )


def is_packed(run: ResolvedRun) -> bool:
    """Tell whether bitsandbytes packs the base weights, as it was asked for or as the checkpoint declares it."""
    if run.request.quantization is not None:
        return run.request.quantization != Quantization.NONE
    declared = None if run.files is None else find_declared(run.files.config)
    return isinstance(declared, Mapping) and find_format(declared) == "bitsandbytes"


def find_packing(run: ResolvedRun) -> tuple[str, str] | None:
    """Return how bitsandbytes packs the base weights, and the dtype of what holds them; None where it does not."""
    if not is_packed(run):
        return None
    request = run.request
    if request.quantization is not None:
        is_int8 = request.quantization == Quantization.INT8
        return str(request.quantization), "int8" if is_int8 else str(request.quant_storage or QuantStorage.UINT8)
    declared = None if run.files is None else find_declared(run.files.config)
    assert isinstance(declared, Mapping), "what is packed and was not asked for is declared"
    if declared.get("load_in_8bit"):
        return Quantization.INT8, "int8"
    kind, storage = declared.get("bnb_4bit_quant_type", "fp4"), declared.get("bnb_4bit_quant_storage", "uint8")
    return str(kind), str(storage)


def settle_recipe(recipe: Recipe, *, is_prepared: bool = False) -> Recipe:
    """Return the recipe with checkpointing and the KV cache settled; raise UsageError where no step could run so.

    `is_prepared` says that PEFT's `prepare_model_for_kbit_training` runs before, with its defaults: it switches
    checkpointing on with no keyword, which torch reads as reentrant (peft/utils/other.py; torch/utils/checkpoint.py,
    `use_reentrant is None`). A Trainer that is not told to checkpoint leaves that as it is; one that is told to has its
    own keywords, not reentrant (transformers/modeling_utils.py, `_activation_checkpointing_enable`).
    """
    checkpointing, reentrant = recipe.gradient_checkpointing, recipe.use_reentrant
    if checkpointing is None:
        checkpointing = is_prepared
        reentrant = checkpointing if reentrant is None else reentrant
    if recipe.checkpoint_keeps is not None:
        _check_selective(recipe, bool(checkpointing))
        reentrant = False
    is_kept_on_host = recipe.offload == Offload.CHECKPOINTS
    for name, asked in (
        ("use_reentrant", reentrant),
        ("checkpoint_every", recipe.checkpoint_every),
        ("checkpoint_keeps", recipe.checkpoint_keeps),
        ("offload", is_kept_on_host),
    ):
        if asked and not checkpointing:
            raise UsageError(f"`{name}` says how to checkpoint: add `gradient_checkpointing`, or drop it.")
    # Trainer sets config.use_cache to TrainingArguments.use_cache, which is off; blocks that are computed again fill no
    # cache at all (transformers/utils/generic.py, merge_with_config_defaults).
    return dataclasses.replace(
        recipe,
        gradient_checkpointing=checkpointing,
        use_reentrant=bool(reentrant),
        use_cache=bool(recipe.use_cache) and not checkpointing,
    )


def _check_selective(recipe: Recipe, checkpointing: bool) -> None:
    """Raise UsageError where checkpointed blocks cannot keep the output of attention."""
    if checkpointing and recipe.use_reentrant:
        raise UsageError("`checkpoint_keeps` needs a checkpoint that is not reentrant: drop `use_reentrant`, or it.")
    if recipe.attention == Attention.FLASH_ATTENTION_2:
        raise UsageError(
            '`checkpoint_keeps` is traced with the kernels of `attention="sdpa"`, not with flash_attention_2: use that '
            "attention, or drop it."
        )


def find_allocator_settings(asked: str | None, environment: Mapping[str, str]) -> str | None:
    """Return the settings of the caching allocator as text: those that were asked for, else the environment's.

    Raises UsageError, which names where they stand, for settings that torch does not have.
    """
    source, text = "`alloc_conf`", asked
    for variable in _VARIABLES:
        if text is None:
            source, text = variable, environment.get(variable)
    try:
        AllocatorSettings.parse(text or "")
    except UsageError as error:
        raise UsageError(f"{source}: {error}; correct it.") from error
    return text


def _refuse_long_parts(recipe: Recipe) -> None:
    """Raise UsageError for a prompt or an answer that leaves nothing of its row."""
    for name in ("prompt_len", "completion_len"):
        length = getattr(recipe, name)
        if length is not None and recipe.seq_len is not None and length >= recipe.seq_len:
            raise UsageError(
                f"`{name}` is {length:,} of the {recipe.seq_len:,} tokens of a sequence; give less, or a larger "
                "`seq_len`."
            )


def _refuse_what_is_not_read(request: Request, workload: WorkloadInfo) -> None:
    """Raise UsageError for a setting that has no effect on the workload: in silence it would read as heeded."""
    if workload.generates and request.source is not None and request.source.file is not None:
        raise UsageError(
            "`generate` has no recipe of training, and MODEL is a training file: name the model that generates, and "
            "its adapter in `peft`."
        )
    defaults = Recipe()
    for field in dataclasses.fields(Recipe):
        asked = getattr(request.recipe, field.name)
        if field.name not in workload.recipe_fields and asked != getattr(defaults, field.name):
            if field.name == "seq_len" and workload.generates:
                raise UsageError("`seq_len` belongs to training: give `prompt_len` and `new_tokens` for a generation.")
            generation = workload.trains and field.name in find_workload("generate").recipe_fields
            instead = "add `workload=generate`, or drop it" if generation else "drop it"
            raise UsageError(f"`{field.name}` has no effect on the workload {workload.name}: {instead}.")
    if workload.trains and request.recipe.prompt_len is not None and request.recipe.stage is None:
        raise UsageError(
            f"`prompt_len` applies to {name_stages('prompt_len')}, or `workload=generate`: add one of them, or drop it."
        )
    if workload.generates and request.preparation not in (Preparation.PEFT, Preparation.NONE):
        raise UsageError("`preparation` is about training: a generation prepares nothing; drop it.")
    if request.context and not workload.generates:
        raise UsageError("`context` belongs to a generation: add `workload=generate`, or drop it.")
    peft = request.peft
    if workload.generates and isinstance(peft, LoraOptions) and peft.dropout:
        raise UsageError("the dropout of an adapter has no effect on a generation, which drops nothing: leave it out.")

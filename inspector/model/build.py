"""The model stage: source files or a live object -> the counted model, with its adapter.

This is the one door of `inspector.model`: the pipeline calls `count_model` and gets plain records back.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import constants as hub_constants
from peft import PeftConfig, PeftModel
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from inspector.checks import describe_value
from inspector.errors import InspectorError, UsageError, one_line
from inspector.model.adapter.attach import attach_adapter
from inspector.model.adapter.config import names_layers, read_peft_config
from inspector.model.adapter.describe import describe_adapter
from inspector.model.adapter.mixed import put_in_mixed
from inspector.model.adapter.notices import collect_adapter_notices
from inspector.model.adapter.rank import collect_rank_notices
from inspector.model.census import (
    BaseCount,
    assign_roles,
    count_base,
    count_in_float,
    count_trained_tensors,
    take_census,
)
from inspector.model.changes.adapter_settings import check_adapter_settings
from inspector.model.changes.configured import change_configuration, refuse_built
from inspector.model.changes.partial import change_model
from inspector.model.changes.preparation import cast_adapter, let_inputs_require_gradients, prepare_base
from inspector.model.changes.value_head import add_value_head, scores_sequences
from inspector.model.checkpoint.beside import Beside, add_comparison
from inspector.model.checkpoint.packing import mark_packed, note_packing
from inspector.model.checkpoint.quantized import collect_stored_notices, describe_stored
from inspector.model.configuration import SIZES_ASSUMED, read_configuration
from inspector.model.depth.built import BuiltModel, Depths
from inspector.model.depth.counts import extrapolate_counts, may_count_shallow
from inspector.model.depth.records import NotPeriodicError
from inspector.model.depth.skeletons import Skeletons
from inspector.model.depth.worded import drop_facts
from inspector.model.diffusion.components import add_components
from inspector.model.diffusion.denoiser import describe_denoiser
from inspector.model.live import check_meta, count_attached, count_module, describe_model
from inspector.model.quantize import (
    BnbPlan,
    collect_experts_notices,
    describe_quantization,
    plan_quantization,
    quantize_model,
)
from inspector.model.skeleton import build_skeleton, choose_class, choose_dtype, choose_reward_class, give_one_score
from inspector.quantization.bitsandbytes.stand_in import stand_in_for_bitsandbytes
from inspector.quantization.declared import find_declared
from inspector.records.diffusion import StoredPipeline
from inspector.records.model import Counted, ModelFacts
from inspector.records.notice import Notice
from inspector.records.request import AdapterDtype, Preparation, Request
from inspector.records.source import Published, ServedFrom, SourceFiles
from inspector.runtime.patches import replace_attribute, restore_changes
from inspector.runtime.quiet import silence_output

__all__ = ["BuiltModel", "Depths", "build_shallow", "build_whole", "count_depths", "count_model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """What is counted: how to build it in float (anew each time), what it is, and what then happens to it.

    `build_as_stored` leaves out what the recipe changes. `plan` says how bitsandbytes quantizes it, `stored` what its
    checkpoint declares of another format.
    """

    build: Callable[[], PreTrainedModel]
    build_as_stored: Callable[[], PreTrainedModel]
    facts: ModelFacts
    plan: BnbPlan | None = None
    stored: Mapping[str, Any] | None = None
    peft: Any = None
    published: Published | None = None
    pipeline: StoredPipeline | None = None
    notices: tuple[Notice, ...] = ()


def count_model(
    request: Request, files: SourceFiles | None, progress: Callable[[str], None] = lambda _stage: None
) -> tuple[Counted, BuiltModel | None]:
    """Return the counts of what `request` names: `files` of a source, or a live object when there are none.

    Second is the counted model itself, for a run to be traced; None where it is the caller's own. Where the source
    knows the stored tensors, they are set beside the model.

    Raises UsageError for a bad adapter, UnsupportedModelError for a model that cannot be built.
    """
    counted, depths = count_depths(request, files, progress, is_whole=True)
    return counted, None if depths is None else depths.models[None]


def count_depths(
    request: Request,
    files: SourceFiles | None,
    progress: Callable[[str], None] = lambda _stage: None,
    *,
    is_whole: bool = False,
) -> tuple[Counted, Depths | None]:
    """Return the same counts, and the models that they are of: two shallow ones where these say as much (`depth`)."""
    with silence_output(), _limit_requests(allowed=not request.offline):
        if files is None and request.quantization is not None and not isinstance(request.model, PretrainedConfig):
            raise UsageError("`quantization` is for models that are built here: pass a configuration or an id instead.")
        if isinstance(request.model, PeftModel):
            counted = count_attached(request)
            return dataclasses.replace(counted, notices=drop_facts(counted.notices)), None
        if isinstance(request.model, nn.Module) and not isinstance(request.model, PreTrainedModel):
            return count_module(request), None
        subject = _read(request, files)
        counted, depths = _count(request, subject, is_whole=is_whole or not may_count_shallow(request))
        counted = dataclasses.replace(counted, notices=drop_facts(counted.notices))
        if subject.pipeline is not None:
            counted = add_components(counted, subject.pipeline)
        if files is not None and files.checkpoint is not None and files.checkpoint.tensors is not None:
            progress("comparing the checkpoint with the model")
            beside = Beside(build=subject.build_as_stored, plan=subject.plan, config=files.config)
            counted = add_comparison(counted, beside, files.checkpoint.tensors)
        return counted, depths


def build_whole(request: Request, files: SourceFiles | None) -> BuiltModel:
    """Return the model that `count_model` counts, without counting; raises what `count_model` raises."""
    return _build(request, files, lambda subject: subject.build)


def build_shallow(
    request: Request,
    files: SourceFiles | None,
    extra_periods: int = 0,
    open_skeletons: Callable[[Callable[[], PreTrainedModel]], Skeletons] = Skeletons,
) -> tuple[BuiltModel, int]:
    """Return the model with few of its repeated layers, and how many periods of them are missing (`model.truncate`).

    `extra_periods` more than the fewest possible stay. Nothing is missing where the adapter tells single layers apart.
    `open_skeletons` may return those of an earlier call.
    """
    missing = 0

    def choose(subject: _Subject) -> Callable[[], PreTrainedModel]:
        nonlocal missing
        if _tells_layers_apart(subject):
            return subject.build
        skeletons = open_skeletons(subject.build)
        missing = skeletons.missing
        return functools.partial(skeletons.take, extra_periods)

    return _build(request, files, choose), missing


def _build(
    request: Request, files: SourceFiles | None, choose: Callable[[_Subject], Callable[[], PreTrainedModel]]
) -> BuiltModel:
    """Build the model of a request, by what `choose` returns, and attach its adapter."""
    if isinstance(request.model, PeftModel):
        raise UsageError("a PeftModel is not built anew: pass its base model and its configuration instead.")
    with silence_output(), _limit_requests(allowed=not request.offline), contextlib.ExitStack() as stack:
        subject = _read(request, files)
        config = None if subject.peft is None else read_peft_config(subject.peft, subject.facts.model_class)[0]
        build, plan = choose(subject), subject.plan
        if config is None:
            model = build() if plan is None else quantize_model(build(), plan)
            return _wrap(request, model, count_base(model))
        if plan is not None:
            stack.enter_context(stand_in_for_bitsandbytes())
        prepared_build = build if plan is None else functools.partial(_build_prepared, request, build, plan)
        return _wrap(request, *_attach(request, prepared_build, config))


def _tells_layers_apart(subject: _Subject) -> bool:
    """Tell whether an adapter may be another one in other layers of one kind."""
    return subject.peft is not None and names_layers(read_peft_config(subject.peft, subject.facts.model_class)[0])


def _attach(request: Request, build: Callable[[], PreTrainedModel], config: PeftConfig) -> tuple[PeftModel, BaseCount]:
    """Attach the adapter of a request in the dtype that it is trained in; second is the count of the base alone."""
    attached, base = attach_adapter(build, config, autocast_adapter_dtype=request.autocast_adapter_dtype)
    cast_adapter(attached, AdapterDtype(request.adapter_dtype))
    add_value_head(attached, request.recipe)
    if request.preparation == Preparation.AXOLOTL:
        let_inputs_require_gradients(attached)
    return attached, base


def _wrap(request: Request, model: PreTrainedModel | PeftModel, base: BaseCount) -> BuiltModel:
    """Return a model as it runs, with its adapter where it has one, with the count of its base."""
    preparation = Preparation(request.preparation)
    return BuiltModel(model=model, roles=assign_roles(model, base), preparation=preparation)


@contextlib.contextmanager
def _limit_requests(*, allowed: bool) -> Iterator[None]:
    """Keep transformers and PEFT from the network as HF_HUB_OFFLINE does; not all of their calls take an argument."""
    with restore_changes():
        replace_attribute(hub_constants, "HF_HUB_OFFLINE", hub_constants.HF_HUB_OFFLINE or not allowed)
        yield


def _count(request: Request, subject: _Subject, *, is_whole: bool) -> tuple[Counted, Depths]:
    """Count a model by two shallow ones where these say what the whole one holds, and else by the whole one.

    What a checkpoint says of its own format may name layers.
    """
    count = _count_base if subject.peft is None else _count_with_adapter
    is_of_format = subject.stored is not None or (subject.plan is not None and subject.plan.from_checkpoint)
    if is_whole or is_of_format or _tells_layers_apart(subject):
        counted, built = count(request, subject)
        return counted, Depths(models={None: built})
    skeletons = Skeletons(subject.build)
    if skeletons.cut is None:
        counted, built = count(request, dataclasses.replace(subject, build=skeletons.take_whole))
        return counted, Depths(models={None: built, 0: built})
    try:
        builds = [functools.partial(skeletons.take, extra_periods) for extra_periods in (0, 1)]
        (shallow, built), (deeper, further) = (
            count(request, dataclasses.replace(subject, build=build)) for build in builds
        )
        counted = extrapolate_counts((shallow, built.model), (deeper, further.model), skeletons.cut)
        return counted, Depths(models={0: built, 1: further}, skeletons=skeletons)
    except (InspectorError, NotPeriodicError):  # what the whole model says is the one to tell
        counted, built = count(request, subject)
        return counted, Depths(models={None: built})


def _count_base(request: Request, subject: _Subject) -> tuple[Counted, BuiltModel]:
    """Count a model without an adapter: what its class does not freeze trains."""
    model = subject.build()
    base = count_base(model)
    in_float = count_in_float(base)
    facts, of_weights = None, []
    if subject.plan is not None:
        model = quantize_model(model, subject.plan)
        of_weights = collect_experts_notices(model, subject.plan, is_prepared=False)
        facts = describe_quantization(model, subject.plan, sum(in_float["base_dtypes"].values()))
        base = count_base(model)
    elif subject.stored is not None:
        facts = describe_stored(model, subject.stored)
        of_weights = collect_stored_notices(facts)
    counted = Counted(
        model=subject.facts,
        census=take_census(model, base, published=subject.published, depth=request.depth),
        **in_float,
        trained_tensors=count_trained_tensors(model),
        quantization=facts,
        notices=(*subject.notices, *of_weights),
    )
    return counted, _wrap(request, model, base)


def _count_with_adapter(request: Request, subject: _Subject) -> tuple[Counted, BuiltModel]:
    """Count a model before and after PEFT attaches the adapter that was asked for."""
    config, config_notices = read_peft_config(subject.peft, subject.facts.model_class)
    build, in_float, quantization, of_weights = subject.build, None, None, []
    with contextlib.ExitStack() as stack:
        if subject.plan is not None:
            stack.enter_context(stand_in_for_bitsandbytes())
            model = subject.build()
            in_float = count_in_float(count_base(model))
            model = quantize_model(model, subject.plan)
            quantization = describe_quantization(model, subject.plan, sum(in_float["base_dtypes"].values()))
            quantization = dataclasses.replace(quantization, preparation=str(request.preparation))
            of_weights = collect_experts_notices(
                model, subject.plan, is_prepared=request.preparation != Preparation.NONE
            )
            build = functools.partial(_build_prepared, request, subject.build, subject.plan)
        attached, base = _attach(request, build, config)
        if subject.stored is not None:
            stored = describe_stored(subject.build(), subject.stored)
            quantization, of_weights = mark_packed(stored, attached, request)
        facts = dataclasses.replace(
            describe_adapter(attached, config),
            autocast_adapter_dtype=request.autocast_adapter_dtype,
            dtype=str(request.adapter_dtype),
        )
        notices = collect_adapter_notices(attached, config, facts, base)
    counted = Counted(
        model=subject.facts,
        census=take_census(attached, base, published=subject.published, depth=request.depth),
        **(in_float or count_in_float(base)),
        trained_tensors=count_trained_tensors(attached),
        adapter=facts,
        quantization=quantization,
        notices=(*subject.notices, *of_weights, *config_notices, *notices, *collect_rank_notices(attached)),
    )
    return counted, _wrap(request, attached, base)


def _build_prepared(request: Request, build: Callable[[], PreTrainedModel], plan: BnbPlan) -> PreTrainedModel:
    """Build a model whose weights are quantized, prepared for an adapter."""
    return prepare_base(quantize_model(build(), plan), Preparation(request.preparation))


def _read(request: Request, files: SourceFiles | None) -> _Subject:
    """Read what a request names, and refuse settings of an adapter where there is none."""
    subject = _read_source(request, files) if files is not None else _read_object(request)
    method = None if subject.plan is None else subject.plan.method
    check_adapter_settings(request, has_adapter=subject.peft is not None, method=method)
    return subject


def _read_source(request: Request, files: SourceFiles) -> _Subject:
    """Read the configuration that a source delivered."""
    if files.adapter_config is not None and request.peft is not None:
        base = "the config.json in it alone" if files.id == files.adapter_id else f"its base model {files.id}"
        raise UsageError(f"{files.adapter_id} is an adapter already: name {base} to put another adapter on it.")
    if files.pipeline is not None:
        build, facts, peft = describe_denoiser(request, files)
        parts, said = files.pipeline, tuple(files.notices)
        return _Subject(build=build, build_as_stored=build, facts=facts, peft=peft, pipeline=parts, notices=said)
    config, notices = read_configuration(
        files, trust_remote_code=request.trust_remote_code, assume_defaults=request.assume_defaults
    )
    config.sentence_pooling, config.sentence_modules = files.pooling, files.sentence_modules  # an embedding model's
    config.processor_settings = files.processor  # for the batch of a model of images or sound
    assumed = [notice for notice in notices if notice.code == SIZES_ASSUMED]
    notices = [notice for notice in notices if notice not in assumed]
    trains_rewards = scores_sequences(request.recipe)
    if trains_rewards:
        give_one_score(config)
    if trains_rewards and request.model_class is None:
        model_class, class_notices = choose_reward_class(config)
    else:
        model_class, class_notices = choose_class(
            config, files, request.model_class, trust_remote_code=request.trust_remote_code
        )
    change_configuration(config, model_class, request.recipe)
    dtype, dtype_notices = choose_dtype(config, request.dtype, files.checkpoint_dtype)
    declared = find_declared(files.config)
    plan = plan_quantization(files.config, request.quantization, request.double_quant, dtype, request.quant_storage)
    facts = ModelFacts(
        id=files.id,
        revision=files.revision,
        model_class=model_class.__name__,
        model_type=str(files.config.get("model_type") or config.model_type),
        dtype=str(dtype).removeprefix("torch."),
        source=files.served_from,
        adapter_id=files.adapter_id,
    )
    # The class may write into its configuration, so each build gets one of its own.
    build = functools.partial(_build_anew, config, model_class, dtype, files.id)
    peft = put_in_mixed(request.peft if files.adapter_config is None else files.adapter_config, files.mixed_adapters)
    return _Subject(
        build=lambda: note_packing(change_model(build(), request.recipe, has_adapter=peft is not None), declared),
        build_as_stored=build,
        facts=facts,
        plan=plan,
        stored=declared if plan is None and isinstance(declared, Mapping) else None,
        peft=peft,
        published=None if request.recipe.add_tokens or request.recipe.labels else files.published,
        notices=(*assumed, *files.notices, *notices, *class_notices, *dtype_notices),
    )


def _read_object(request: Request) -> _Subject:
    """Take a live configuration or a live model on the meta device; neither is changed."""
    if isinstance(request.model, PretrainedConfig):
        fields = request.model.to_dict()
        name = request.model.name_or_path or type(request.model).__name__
        files = SourceFiles(id=name, served_from=ServedFrom.LOCAL, config=fields)
        return _read_source(request, files)
    if not isinstance(request.model, PreTrainedModel):
        if isinstance(request.model, nn.Module):
            name = one_line(type(request.model).__name__, 60)
            raise UsageError(
                f"no step of {name} is traced, which is not a transformers model; drop `fit` for the counts."
            )
        raise UsageError(
            f"`model` is {describe_value(request.model)}; give a Hub id, a path, a PretrainedConfig, or a transformers "
            "model on the meta device."
        )
    check_meta(request.model)
    refuse_built(request.recipe)
    build = functools.partial(copy.deepcopy, request.model)
    return _Subject(
        build=lambda: change_model(build(), request.recipe, has_adapter=request.peft is not None),
        build_as_stored=build,
        facts=describe_model(request.model),
        peft=request.peft,
    )


def _build_anew(config: PretrainedConfig, *arguments: Any) -> PreTrainedModel:
    """Build a skeleton from a copy of a configuration."""
    return build_skeleton(copy.deepcopy(config), *arguments)

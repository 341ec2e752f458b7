"""Any workload on a model on meta -> its tape: loading, the batch, the state, the steps.

What cannot be traced (no batch, control flow that reads floating-point data) raises `NotTraceableError` with the cause.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import weakref
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from inspector.compat.numbers import find_number
from inspector.errors import InspectorError, one_line
from inspector.hardware.platform import Platform
from inspector.model.adapter.butterfly import stand_in_for_extension
from inspector.model.adapter.peft_names import find_owner
from inspector.model.build import BuiltModel
from inspector.records.model import Role
from inspector.records.recipe import AdapterState, Recipe, find_prompt_len
from inspector.records.tape import Category, Event, Phase
from inspector.runtime.patches import restore_changes
from inspector.trace.categories import Categories
from inspector.trace.meta_cache import Results
from inspector.trace.rules.any_device import treat_meta_as_device
from inspector.trace.rules.assumed import find_byte_patches
from inspector.trace.rules.autocast import apply_autocast_rules
from inspector.trace.rules.cuda import apply_cuda_rules
from inspector.trace.rules.flash_attn import provide_flash_attention
from inspector.trace.rules.matching import match_in_turn
from inspector.trace.rules.moe_routing import loops_over_experts
from inspector.trace.rules.sparse import stand_in_for_sparse_matrices
from inspector.trace.rules.token_choice import ListIndices, read_tokens, see_made_tensors
from inspector.trace.scan_kernels import provide_scan_kernels
from inspector.trace.scan_loops import shorten_scans
from inspector.trace.shadow import LARGEST_SHADOW, use_one_thread
from inspector.trace.target import trace_for
from inspector.trace.tracer import Tracer
from inspector.workloads.base import NotTraceableError, Workload, base_model
from inspector.workloads.batch import find_plain_token
from inspector.workloads.generate.notices import hears
from inspector.workloads.inputs import Input, make_item
from inspector.workloads.layer_drop import hide_most_frames, keep_all_layers
from inspector.workloads.loading import attach_adapter, list_in_load_order
from inspector.workloads.packed import leave_packed
from inspector.workloads.quantized_load import apply_quantized_rules, is_quantized, load_quantized
from inspector.workloads.tasks.adapters import finds_tokens

__all__ = [
    "build_categories",
    "check_run",
    "choose_autocast",
    "hold_loss_sum",
    "make_batch",
    "match_predictions",
    "prepare_run",
    "refuse_what_stops",
    "trace_run",
]


def trace_run(
    workload: Workload,
    built: BuiltModel,
    recipe: Recipe,
    platform: Platform,
    *,
    until: Phase | None = None,
    results: Results | None = None,
    states: list[Any] | None = None,
    idle: set[str] | None = None,
    assumed: set[str] | None = None,
    make_tracer: Callable[..., Tracer] = Tracer,
    watch: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    attaches_on_card: bool = False,
    scan_passes: int | None = None,
    scan_lengths: set[int] | None = None,
) -> list[Event]:
    """Return the tape of loading the model and of all steps of a resolved `recipe` on `platform`.

    With `until` it ends where that phase begins for the first time. `results` is what ops returned in other traces, for
    those that share it. The state of the run is added to `states`, and to `idle` the names in the base model of trained
    parameters that have no gradient when the first backward pass is over. The codes of what was assumed of numbers are
    added to `assumed`. `make_tracer` makes what records, and `watch` holds while the steps run. `attaches_on_card` says
    whether an adapter is made where the model is, or comes to the card with it. The loops of scans make `scan_passes`
    passes, all where that is None, and how many each has is added to `scan_lengths`. The model is changed. Raises
    UsageError where the real libraries refuse the recipe, NotTraceableError where the run stops for another reason.
    """
    check_run(workload, built, recipe)
    with provide_flash_attention(platform, recipe.attention), use_one_thread():
        kept = [] if states is None else states
        tracers: list[Tracer] = []

        def make(*args: Any, **kwargs: Any) -> Tracer:
            tracers.append(make_tracer(*args, **kwargs))
            return tracers[-1]

        lengths = set[int]() if scan_lengths is None else scan_lengths

        @contextlib.contextmanager
        def hold() -> Iterator[None]:
            with shorten_scans(base_model(built.model), scan_passes, lengths), watch():
                yield

        load = _load_and_attach if attaches_on_card else _hold_weights
        tape = _trace(workload, built, recipe, platform, until, results, kept, idle, make, hold, load)
        if assumed is not None:
            assumed.update(*(tracer.assumptions.used for tracer in tracers))
        return tape


def check_run(workload: Workload, built: BuiltModel, recipe: Recipe) -> None:
    """Raise NotTraceableError where a run cannot be traced, before anything is done."""
    workload.check(built.model, recipe)
    length = find_prompt_len(recipe) if workload.info.generates else recipe.seq_len or 1
    if recipe.batch_size * length > LARGEST_SHADOW:
        raise NotTraceableError(
            f"batches of more than {LARGEST_SHADOW:,} tokens are not traced: use a smaller `batch_size`"
        )


def prepare_run(workload: Workload, built: BuiltModel, recipe: Recipe) -> BuiltModel:
    """Set a model up for a run; what that adds is none of what was counted."""
    workload.prepare(built.model, recipe)
    names = (name for name, _ in built.model.named_parameters())
    return dataclasses.replace(built, roles=dict.fromkeys(names, Role.OTHER) | dict(built.roles))


@contextlib.contextmanager
def refuse_what_stops(workload: Workload, built: BuiltModel, recipe: Recipe) -> Iterator[None]:
    """Raise NotTraceableError for whatever stops a run inside the block: 400 model classes run their forward there."""
    try:
        yield
    except (InspectorError, NotTraceableError):
        raise
    except Exception as error:
        advice = workload.explain_stop(built, recipe, error)
        name, cause = type(base_model(built.model)).__name__, one_line(f"{type(error).__name__}: {error}")
        raise NotTraceableError(f"{name} stopped the trace ({cause}){advice}") from error


def match_predictions(rules: contextlib.ExitStack, tracer: Tracer, batch: Mapping[str, Any]) -> bool:
    """Match predictions with objects in turn where a batch lists these, and tell whether it does."""
    matches = any(isinstance(item, list) for item in batch.values())
    if matches:
        rules.enter_context(match_in_turn(tracer.assumptions.note_matching))
    return matches


def build_categories(workload: Workload, model: Any, state: Any = None) -> Categories:
    """Return the categories of a run of `workload` on `model`; the `state` of one that generates is its cache."""
    heads = (base_model(model), *workload.find_companions(model).values())
    return Categories(
        trained=() if workload.info.generates else tuple(filter(_is_trained, model.parameters())),
        heads=tuple(owner.get_output_embeddings() for owner in heads),
        kept=workload.info.kept,
        list_cached=functools.partial(workload.list_state, state) if workload.info.generates else None,
    )


def _is_trained(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad


class _PhaseReachedError(Exception):
    """The run has come to where its trace was to end, with the tape until then."""

    def __init__(self, tape: list[Event]) -> None:
        super().__init__()
        self.tape = tape


def _trace(
    workload: Workload,
    built: BuiltModel,
    recipe: Recipe,
    platform: Platform,
    until: Phase | None,
    results: Results | None,
    states: list[Any],
    idle: set[str] | None,
    make_tracer: Callable[..., Tracer],
    watch: Callable[[], contextlib.AbstractContextManager[None]],
    load: Callable[[Tracer, BuiltModel], None],
) -> list[Event]:
    """Prepare the model and run the steps; what torch and the kernels refuse is refused here."""
    model, base = built.model, base_model(built.model)
    built = prepare_run(workload, built, recipe)
    names: dict[nn.Module, str] = {module: name for name, module in base.named_modules()}
    companions = workload.find_companions(model)
    for prefix, companion in companions.items():
        names |= {module: f"{prefix}.{name}".rstrip(".") for name, module in companion.named_modules()}
    generates = workload.info.generates
    state = workload.make_state(model, recipe, on_gpu=False) if generates else None
    categories, balances = build_categories(workload, model, state), loops_over_experts(base)
    token = find_plain_token(base) if generates else None
    # The modules of an adapter that is merged end before the run does.
    is_merged = recipe.adapter == AdapterState.MERGED
    known: MutableMapping[nn.Module, str] = weakref.WeakKeyDictionary(names) if is_merged else names
    del names
    media = workload.find_media(model, recipe)
    tracer = make_tracer(
        platform,
        known,
        categories,
        balances_experts=balances,
        token=token,
        results=results,
        holds_all=media is not None and media.holds_all,
        patches=find_byte_patches(base),
    )
    with restore_changes(), contextlib.ExitStack() as rules:
        if workload.info.trains:
            built = dataclasses.replace(built, roles=rules.enter_context(leave_packed(built, platform, known)))
        keep_all_layers(base)
        hide_most_frames(base)
        if is_quantized(base):
            rules.enter_context(apply_quantized_rules(platform))
            load_quantized(tracer, built)
            if workload.info.trains and recipe.loop == "trainer":
                tracer.empty_cache()  # Trainer's first act (trainer.py, `free_memory`); packing leaves much
        else:
            load(tracer, built)
        for prefix, companion in companions.items():
            for name, tensor in companion.named_parameters():
                tracer.hold([tensor], Category.WEIGHTS, f"{prefix}.{name.rpartition('.')[0]}")
            for name, tensor in companion.named_buffers():
                tracer.hold([tensor], Category.BUFFERS, f"{prefix}.{name.rpartition('.')[0]}")
        rules.enter_context(refuse_what_stops(workload, built, recipe))
        try:
            loss_sum = hold_loss_sum(tracer, workload, recipe)
            batch = make_batch(tracer, workload, model, recipe)
            for context in (
                trace_for(platform),
                apply_cuda_rules(platform, recipe.sdpa_backend),
                choose_autocast(recipe),
                treat_meta_as_device(),
                stand_in_for_extension(),
                stand_in_for_sparse_matrices(),
                provide_scan_kernels(base, recipe.kernels),
                watch(),
                tracer,
            ):
                rules.enter_context(context)
            if match_predictions(rules, tracer, batch) or generates or media is not None or finds_tokens(model):
                rules.enter_context(see_made_tensors(tracer.see_made))
            if generates:
                rules.enter_context(read_tokens(tracer.shadows))
                if hears(base):
                    rules.enter_context(ListIndices())
            else:
                state = workload.make_state(model, recipe, on_gpu=False)
                tracer.hold(workload.list_state(state), Category.OPTIMIZER)
            states.append(state)
            state_of_loop = workload.run(model, batch, state, _enter_until(tracer, until, base, idle), recipe, loss_sum)
            # Taken while the batch, the state and what the loop holds are alive, as they are between two steps.
            tape = tracer.tape()
            del state_of_loop
            return tape
        except _PhaseReachedError as reached:
            return reached.tape


def _hold_weights(tracer: Tracer, built: BuiltModel) -> None:
    """Record the loading of a model; afterwards nothing here holds a tensor of it."""
    _hold(tracer, built, list_in_load_order(built))


def _load_and_attach(tracer: Tracer, built: BuiltModel) -> None:
    """Record the loading of a model, and what PEFT makes beside it on the card."""
    _hold(tracer, built, list_in_load_order(built, adapter=False))
    attach_adapter(tracer, built)


def _hold(tracer: Tracer, built: BuiltModel, items: Iterator[tuple[str, Tensor, Category]]) -> None:
    """Record tensors that are made, and keep the numbers that buffers hold."""
    for name, tensor, category in items:
        tracer.hold([tensor], category, find_owner(built.model, name))
        if category is Category.BUFFERS and (number := find_number(tensor)) is not None:
            tracer.shadows.set(tensor, number.clone())


def _enter_until(
    tracer: Tracer, until: Phase | None, base: nn.Module, idle: set[str] | None
) -> Callable[[Phase, int], None]:
    """Return what enters a phase, ends the trace where that is the last one wanted, and notes what has no gradient."""

    def enter(phase: Phase, step: int) -> None:
        tracer.enter(phase, step)
        if idle is not None and phase is Phase.OPTIMIZER and step == 1:
            idle.update(name for name, item in base.named_parameters() if item.requires_grad and item.grad is None)
        if phase is until:
            raise _PhaseReachedError(tracer.tape())

    return enter


def choose_autocast(recipe: Recipe) -> contextlib.AbstractContextManager[None]:
    """Return the rules that autocast needs: without it no op goes through them. PEFT's LoRA-FA has one of its own."""
    is_on = recipe.mixed_precision != "no" or recipe.optimizer == "lorafa"
    return apply_autocast_rules() if is_on else contextlib.nullcontext()


def hold_loss_sum(tracer: Tracer, workload: Workload, recipe: Recipe) -> Tensor | None:
    """Make the sum of losses on meta, and record it."""
    loss_sum = workload.make_loss_sum(torch.device("meta"), recipe)
    tracer.hold([] if loss_sum is None else [loss_sum], Category.LOGITS_AND_LOSS)
    return loss_sum


def make_batch(tracer: Tracer, workload: Workload, model: Any, recipe: Recipe) -> dict[str, Any]:
    """Make the inputs of a batch on meta; integers have values for whatever reads them."""
    made: list[Tensor] = []

    def make(item: Input) -> Tensor:
        tensor = item.on("meta")
        if (item.is_read or not item.dtype.is_floating_point) and math.prod(item.shape) <= LARGEST_SHADOW:
            tracer.shadows.set(tensor, item.list_values())
        made.append(tensor)
        return tensor

    batch = {name: make_item(item, make) for name, item in workload.make_inputs(model, recipe).items()}
    tracer.hold(made, Category.INPUTS)
    return batch

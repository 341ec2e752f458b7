"""What could be increased where a step fits with room: larger batches, longer sequences, fewer savings, each traced.

Sizes are doubled once, which says that there is room and not how much: `--fit` finds the largest. A change that the
model or the step refuses is left out, and so is one that does not fit. So is one that takes less in all than the step
as it is, which may be where the allocator reserves fewer segments for a larger rank: it would turn nothing up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from inspector.errors import InspectorError, NotTraceableError
from inspector.planning.changes import IN_FLOAT, WITHOUT_ADAPTER, apply_change, is_stored_quantized
from inspector.planning.quantities import set_value
from inspector.predict.predictor import Predictor
from inspector.records.fit import Advice, Fit, Purpose
from inspector.records.recipe import find_prompt_len
from inspector.records.request import LoraOptions, Request
from inspector.resolve import ResolvedRun, is_packed
from inspector.runtime.stage import Stage
from inspector.training_files.changes import spell_change

__all__ = ["MOST_TRIALS", "find_increases", "list_increases"]

Progress = Callable[[str], None]

MOST_TRIALS = 6
# What to say of a change, and the request with it.
_Increase = tuple[str, Request]


def _double_batch(run: ResolvedRun) -> _Increase:
    """Double the micro-batch; where gradients are accumulated, half as often."""
    recipe = run.recipe
    change = {"batch_size": 2 * recipe.batch_size}
    text = f"--batch-size {2 * recipe.batch_size}"
    if recipe.gradient_accumulation % 2 == 0:
        change["gradient_accumulation"] = recipe.gradient_accumulation // 2
        text += f" --gradient-accumulation {recipe.gradient_accumulation // 2}"
    return text, apply_change(run.request, change)


def _double_seq_len(run: ResolvedRun) -> _Increase | None:
    length = None if run.workload.generates else run.recipe.seq_len
    return None if length is None else (f"--seq-len {2 * length}", apply_change(run.request, {"seq_len": 2 * length}))


def _double_prompt(run: ResolvedRun) -> _Increase | None:
    length = 2 * find_prompt_len(run.recipe)
    if not run.workload.generates:
        return None
    return f"--prompt-len {length}", apply_change(run.request, {"prompt_len": length})


def _keep_activations(run: ResolvedRun) -> _Increase | None:
    if not run.recipe.gradient_checkpointing:
        return None
    asked = run.request.recipe.gradient_checkpointing
    off = {"gradient_checkpointing": False, **dict.fromkeys(("use_reentrant", "checkpoint_every", "checkpoint_keeps"))}
    if run.recipe.offload == "checkpoints":
        off["offload"] = None
    text = "without --gradient-checkpointing" if asked and not is_packed(run) else "--no-gradient-checkpointing"
    return text, apply_change(run.request, off)


def _unpack_weights(run: ResolvedRun) -> _Increase | None:
    request = run.request
    if request.quantization in (None, "none"):
        return None
    text = "--quantization none" if request.double_quant is None else "without --quantization and --double-quant"
    return text, apply_change(request, IN_FLOAT)


def _double_rank(run: ResolvedRun) -> _Increase | None:
    """Double the rank, where the adapter was given with one."""
    request, peft = run.request, run.request.peft
    if isinstance(peft, LoraOptions):
        rank = 2 * (peft.r or 8)
        return f"--lora {_format_lora(dataclasses.replace(peft, r=rank))}", set_value(request, "rank", rank)
    given = peft.get("r") if isinstance(peft, Mapping) else getattr(peft, "r", None)
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        return None
    return f"r {2 * given} in the PEFT configuration", set_value(request, "rank", 2 * given)


def _train_whole_model(run: ResolvedRun) -> _Increase | None:
    """Train the weights themselves."""
    request = run.request
    if request.peft is None:
        return None
    change = {**WITHOUT_ADAPTER, **IN_FLOAT}
    text = "without --lora" if isinstance(request.peft, LoraOptions) else "without --peft"
    return text if request.quantization is None else f"{text} and --quantization", apply_change(request, change)


_INCREASES: tuple[Callable[[ResolvedRun], _Increase | None], ...] = (
    *(
        _double_batch,
        _double_seq_len,
        _double_prompt,
        _keep_activations,
        _unpack_weights,
        _double_rank,
        _train_whole_model,
    ),
)


def list_increases(run: ResolvedRun) -> list[_Increase]:
    """Return the increases that apply to a run: the options to show, and the request with them."""
    found = [increase for increase in (make(run) for make in _INCREASES) if increase is not None]
    if not run.workload.trains:  # what trains makes no difference
        found = [increase for increase in found if increase[1].peft == run.request.peft]
    if is_stored_quantized(run.files):  # packed weights train with an adapter alone
        found = [increase for increase in found if increase[1].peft is not None or run.request.peft is None]
    return found


def find_increases(run: ResolvedRun, predictor: Predictor, progress: Progress) -> tuple[Advice, ...]:
    """Return the changes with which a run still fits its card, each made alone."""
    advice = []
    present_bytes = predictor.predict(run).total_bytes
    increases = list_increases(run)[:MOST_TRIALS]
    for index, (text, request) in enumerate(increases):
        title = "what could be turned up"
        progress(Stage(f"{title}, trace {index + 1}: {text}", heading=title, done=index, total=len(increases)))
        try:
            prediction = predictor.predict(run.with_request(request))
        except (NotTraceableError, InspectorError):
            continue
        # Sequences grow no further than the model's positions, and have no length where it takes no tokens.
        is_longer = request.recipe.seq_len != run.recipe.seq_len
        was_cut = is_longer and prediction.recipe.seq_len != request.recipe.seq_len
        if prediction.judge().outcome is Fit.YES and not was_cut and prediction.total_bytes >= present_bytes:
            in_file = spell_change(run.request, request)
            total_bytes = prediction.total_bytes
            advice.append(Advice(purpose=Purpose.TURN_UP, change=text, in_file=in_file, total_bytes=total_bytes))
    return tuple(advice)


def _format_lora(lora: LoraOptions) -> str:
    """Return the adapter as --lora takes it."""
    values = (("r", lora.r), ("alpha", lora.alpha), ("dropout", lora.dropout), ("bias", lora.bias))
    flags = (("dora", lora.dora), ("rslora", lora.rslora))
    words = [f"{name}={value}" for name, value in values if value is not None]
    return ",".join([*words, *(name for name, given in flags if given)])

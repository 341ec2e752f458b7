"""What would make a step fit: known changes of the recipe, each traced, in the order of the harm that they do.

The first ones change nothing of what is learned, the later ones do. A change that does not apply to the request, or
with which the step cannot run, is left out. `inspect plan` has candidates of its own, built from such changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from inspector.dtypes import FOUR_BIT
from inspector.errors import InspectorError
from inspector.planning.fewest_changes import MOST_TRIALS, Chosen, Outcome, find_fitting_changes
from inspector.predict import Prediction, Predictor
from inspector.quantization.declared import find_declared
from inspector.records.fit import Advice, Fit, Purpose
from inspector.records.recipe import Recipe, find_prompt_len
from inspector.records.request import AdapterDtype, LoraOptions, Preparation, Quantization, Request
from inspector.records.source import SourceFiles
from inspector.records.tape import WorkloadInfo
from inspector.resolve import ResolvedRun
from inspector.runtime.stage import Stage
from inspector.training_files.changes import can_spell, follow_packing, spell_change
from inspector.workloads.base import NotTraceableError

__all__ = [
    "LORA",
    "NF4",
    "WITHOUT_ADAPTER",
    "Change",
    "apply_change",
    "expand_segments",
    "find_advice",
    "format_options",
    "has_adapter",
    "is_stored_quantized",
    "list_changes",
]

Progress = Callable[[str], None]
# Fields of the request and of its recipe with their new values.
Change = Mapping[str, Any]
LORA = LoraOptions(r=16, targets="all-linear")
# The adapter on 4-bit weights is in float32 (model/build.py).
NF4: Change = {"quantization": "nf4", "double_quant": True, "autocast_adapter_dtype": True}
# What there is to say of an adapter means nothing without one.
WITHOUT_ADAPTER: Change = {
    "peft": None,
    "autocast_adapter_dtype": True,
    "adapter_dtype": AdapterDtype.AUTO,
    "preparation": Preparation.PEFT,
}
# Tokens of a prompt that go through a model at once where it is split.
_PROMPT_PIECE = 4096
_OF_A_RECIPE = frozenset(field.name for field in dataclasses.fields(Recipe))
_ADAMW = ("adamw_torch", "adamw_torch_fused")


def has_adapter(run: ResolvedRun) -> bool:
    """Tell whether an adapter is trained: one that was asked for, or the one that was named."""
    return run.request.peft is not None or (run.files is not None and run.files.adapter_config is not None)


def is_stored_quantized(files: SourceFiles | None) -> bool:
    """Tell whether the checkpoint declares a quantization."""
    return files is not None and find_declared(files.config) is not None


def expand_segments(run: ResolvedRun) -> Change | None:
    """Let segments grow: one stretch of addresses instead of pieces, which costs nothing (torch's own advice)."""
    if run.allocator.expandable_segments:
        return None
    settings = (run.request.recipe.alloc_conf, "expandable_segments:True")
    return {"alloc_conf": ",".join(filter(None, settings))}


def _fuse_optimizer(run: ResolvedRun) -> Change | None:
    recipe = run.recipe
    return {"optimizer": "adamw_torch_fused"} if recipe.optimizer == "adamw_torch" and not recipe.optim_args else None


def _checkpoint_gradients(run: ResolvedRun) -> Change | None:
    return None if run.recipe.gradient_checkpointing else {"gradient_checkpointing": True}


def _use_flash_attention(run: ResolvedRun) -> Change | None:
    return None if run.recipe.attention == "flash_attention_2" else {"attention": "flash_attention_2"}


def _shrink_batch(run: ResolvedRun) -> Change | None:
    """Accumulate gradients over micro-batches of one sequence: the same sequences per step."""
    batch_size = run.recipe.batch_size
    if batch_size == 1:
        return None
    return {"batch_size": 1, "gradient_accumulation": batch_size * run.recipe.gradient_accumulation}


def _use_eight_bit_optimizer(run: ResolvedRun) -> Change | None:
    return {"optimizer": "adamw_8bit"} if run.recipe.optimizer in _ADAMW and not run.recipe.optim_args else None


def _keep_adapter_dtype(run: ResolvedRun) -> Change | None:
    """Leave the adapter in the half precision of its base."""
    request = run.request
    is_upcast = request.autocast_adapter_dtype and request.adapter_dtype == AdapterDtype.AUTO
    applies = has_adapter(run) and is_upcast and request.quantization not in FOUR_BIT
    return {"autocast_adapter_dtype": False} if applies else None


def _pack_base(run: ResolvedRun) -> Change | None:
    """Keep the frozen base in 4 bits, scales packed too."""
    if not has_adapter(run) or is_stored_quantized(run.files):
        return None
    if run.request.quantization not in FOUR_BIT:
        return NF4
    return None if run.request.double_quant else {"double_quant": True}


def _shorten_sequences(run: ResolvedRun) -> Change | None:
    length = run.recipe.seq_len
    return {"seq_len": length // 2} if length is not None and length > 1 else None


def _split_prompt(run: ResolvedRun) -> Change | None:
    """Let the prompt go through the model in pieces: masks and products are smaller, the tokens the same."""
    recipe = run.recipe
    applies = run.workload.generates and recipe.prefill_chunk_size is None and recipe.cache != "none"
    return {"prefill_chunk_size": _PROMPT_PIECE} if applies and find_prompt_len(recipe) > _PROMPT_PIECE else None


def _pack_cache(run: ResolvedRun) -> Change | None:
    """Keep keys and values in float8, which changes what is generated a little."""
    return {"cache": "fp8"} if run.workload.generates and run.recipe.cache == "dynamic" else None


def _halve_prompts(run: ResolvedRun) -> Change | None:
    batch_size = run.recipe.batch_size
    return {"batch_size": batch_size // 2} if run.workload.generates and batch_size > 1 else None


def _add_lora(run: ResolvedRun) -> Change | None:
    return None if has_adapter(run) else {"peft": LORA}


def _add_lora_in_base_dtype(run: ResolvedRun) -> Change | None:
    return None if has_adapter(run) else {"peft": LORA, "autocast_adapter_dtype": False}


def _add_lora_on_packed_base(run: ResolvedRun) -> Change | None:
    return None if has_adapter(run) or is_stored_quantized(run.files) else {"peft": LORA, **NF4}


# Where a model is trained whole, adapters come last: they train something else.
_CHANGES: tuple[Callable[[ResolvedRun], Change | None], ...] = (
    expand_segments,
    _fuse_optimizer,
    _checkpoint_gradients,
    _use_flash_attention,
    _shrink_batch,
    _use_eight_bit_optimizer,
    _keep_adapter_dtype,
    _pack_base,
    _shorten_sequences,
    _split_prompt,
    _pack_cache,
    _halve_prompts,
    _add_lora,
    _add_lora_in_base_dtype,
    _add_lora_on_packed_base,
)


def list_changes(run: ResolvedRun) -> list[Change]:
    """Return the changes that apply to a run, the least harmful first, of fields that its workload reads."""
    changes = (make(run) for make in _CHANGES)
    found = [change for change in changes if change is not None and _is_read(change, run.workload)]
    return [change for change in found if can_spell(run.request, apply_change(run.request, change))]


def _is_read(change: Change, workload: WorkloadInfo) -> bool:
    """Tell whether a change means something to a workload; an adapter does to one that trains."""
    names = {name for name in change if name in _OF_A_RECIPE}
    return names <= workload.recipe_fields and (workload.trains or "peft" not in change)


def apply_change(request: Request, change: Change) -> Request:
    """Return the request with a change made."""
    recipe = {name: value for name, value in change.items() if name in _OF_A_RECIPE}
    others = {name: value for name, value in change.items() if name not in _OF_A_RECIPE}
    changed = dataclasses.replace(request, recipe=dataclasses.replace(request.recipe, **recipe), **others)
    return follow_packing(changed) if "quantization" in change else changed


def format_options(change: Change) -> str:
    """Return a change as options of the command; what it leaves at its default is not said."""
    return " ".join(filter(None, (_format_option(name, value) for name, value in change.items())))


def _format_option(name: str, value: object) -> str:
    if name == "autocast_adapter_dtype":
        return "" if value else "--no-autocast-adapter-dtype"
    if value in (AdapterDtype.AUTO, Preparation.PEFT):
        return ""
    if name == "gradient_checkpointing" and value is False:
        return "--no-gradient-checkpointing"
    if value in (None, False):
        return ""
    if isinstance(value, LoraOptions):
        return f"--lora r={value.r} --targets {value.targets}"
    option = f"--{name.replace('_', '-')}"
    return option if value is True else f"{option} {value}"


def find_advice(run: ResolvedRun, predictor: Predictor, progress: Progress) -> tuple[tuple[Advice, ...], int]:
    """Return changes with which a run fits its card, and the least total that any trial came to, in bytes.

    What the run refuses is no trace and does not count as one.
    """
    changes = list_changes(run)
    total_bytes = predictor.predict(run).total_bytes
    traces = 0
    least = total_bytes

    def merge(chosen: Chosen) -> Change:
        return {name: value for index in chosen for name, value in changes[index].items()}

    def try_changes(chosen: Chosen) -> Outcome:
        nonlocal traces, least
        changed = run.with_request(apply_change(run.request, merge(chosen)))
        is_new = not predictor.knows(changed)
        if is_new and traces == MOST_TRIALS:
            return None
        title = "what would make it fit"
        words = f"{title}, trace {traces + 1}: {format_options(merge(chosen))}"
        progress(Stage(words, heading=title, done=traces, total=MOST_TRIALS))
        try:
            prediction = predictor.predict(changed)
        except (NotTraceableError, InspectorError):  # flash attention in float32, for one
            return None
        traces += is_new
        least = min(least, prediction.total_bytes)
        return prediction.judge().outcome is Fit.YES, prediction.total_bytes

    found = find_fitting_changes(len(changes), total_bytes, try_changes)
    tight = _expand_tightly(run, predictor)
    sure = tuple(
        _advise(run, merge(chosen), predictor.predict(run.with_request(apply_change(run.request, merge(chosen)))))
        for chosen in found
    )
    free = () if tight is None else (tight,)
    return (*free, *(sure or _unpack_base(run, predictor))), least


def _unpack_base(run: ResolvedRun, predictor: Predictor) -> tuple[Advice, ...]:
    """Return the base in float with checkpointing, where that fits and nothing else does.

    Preparing packed weights makes whatever is not packed float32: experts, which transformers does not convert, are
    then larger than before.
    """
    if run.request.quantization in (None, Quantization.NONE):
        return ()
    change = {"quantization": None, "double_quant": None, "gradient_checkpointing": True}
    try:
        prediction = predictor.predict(run.with_request(apply_change(run.request, change)))
    except (NotTraceableError, InspectorError):
        return ()
    if prediction.judge().outcome is not Fit.YES:
        return ()
    text = f"--gradient-checkpointing without --quantization{' and --double-quant' if run.request.double_quant else ''}"
    return (dataclasses.replace(_advise(run, change, prediction), change=text),)


def _expand_tightly(run: ResolvedRun, predictor: Predictor) -> Advice | None:
    """Return growing segments, which cost nothing, where they alone make a run fit that does not, though tightly."""
    change = expand_segments(run)
    if change is None or predictor.predict(run).judge().outcome is not Fit.NO:
        return None
    prediction = predictor.predict(run.with_request(apply_change(run.request, change)))
    if prediction.judge().outcome is not Fit.TIGHT:
        return None
    return dataclasses.replace(_advise(run, change, prediction), is_tight=True)


def _advise(run: ResolvedRun, change: Change, prediction: Prediction) -> Advice:
    """Return a change that makes a run fit, as options and as fields of the run's training file."""
    return Advice(
        purpose=Purpose.FIT,
        change=format_options(change),
        in_file=spell_change(run.request, apply_change(run.request, change)),
        total_bytes=prediction.total_bytes,
    )

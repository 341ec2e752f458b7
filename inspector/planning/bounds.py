"""Why the figures of a run are a bound: of its weights, its training files and its batch."""

from __future__ import annotations

from collections.abc import Sequence

from inspector.dtypes import FOUR_BIT
from inspector.errors import one_line
from inspector.records.memory import StaticBytes
from inspector.records.model import Counted
from inspector.records.notice import LEFT_OUT, Notice
from inspector.records.training_file import Effect
from inspector.resolve import ResolvedRun

__all__ = ["bound_by_file", "bound_by_inputs", "count_packed_bytes", "find_upper_bound"]

# What a batch that leaves out what a model takes beside text makes of the figures.
_WITHOUT = {
    "images": "lower bound, text alone: images add what their tower keeps and the positions they take",
    "sound": "lower bound, text alone: sound adds what its tower keeps and the positions it takes",
    "boxes": "lower bound, without boxes: the place of each token on its page adds rows of embeddings",
}
# Names of a file that stand in a reason.
_MOST_NAMED = 3
_OF_BITSANDBYTES = (*FOUR_BIT, "int8")


def find_upper_bound(counted: Counted) -> str | None:
    """Return why the figures of a run are an upper bound, None where they are its own.

    Weights that are stored packed are traced in float. Where no adapter trains on them packed, that is what runs.
    """
    stored = counted.quantization
    if stored is None or stored.trains is False or stored.traced_packed or stored.method in _OF_BITSANDBYTES:
        return None
    return f"upper bound, dequantized: with its weights left in {stored.method} the step takes less"


def bound_by_file(run: ResolvedRun, effect: Effect) -> str | None:
    """Return why the figures of a run bound it: what its files ask for, is not traced and takes less, or more."""
    source = run.request.source
    records = () if source is None else (*((source.file,) if source.file else ()), *source.launch)
    names = [one_line(item.name, 40) for record in records for item in record.not_modelled if item.effect is effect]
    if not names:
        return None
    kind = "upper" if effect is Effect.LESS else "lower"
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    named = ", ".join(names[:_MOST_NAMED]) + more
    return f"{kind} bound: with {named}, not modelled, the step takes {effect.value}"


def bound_by_inputs(notices: Sequence[Notice]) -> str | None:
    """Return why figures are a lower bound where a batch leaves out what the model takes, None where it does not."""
    codes = {notice.code for notice in notices}
    return next((_WITHOUT[kind] for kind, code in LEFT_OUT.items() if code in codes), None)


def count_packed_bytes(counted: Counted, static: StaticBytes | None) -> int:
    """Return what training has in memory at least where its weights are left packed, 0 where their size is not known.

    That is the weights as they are stored, and the adapter with its gradients and the state of its optimizer.
    """
    stored = counted.quantization
    if find_upper_bound(counted) is None or stored is None or stored.loaded_bytes is None:
        return 0
    adapter = None if static is None else static.adapter
    if adapter is None:
        return stored.loaded_bytes
    return stored.loaded_bytes + adapter.trained_bytes + adapter.gradients_bytes + adapter.optimizer_bytes

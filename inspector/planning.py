"""`inspect plan`: ways to train one model on one card, each traced, with the largest batch or row that each allows.

Rows are full fine-tuning and an adapter, each with and without checkpointing, and with the optimizers that change
their memory. The files are read once; each row's model is built anew, because a trace changes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from inspector.advising import LORA, Change, changed, options_text
from inspector.errors import InspectorError, UnsupportedModelError, one_line
from inspector.fit_records import Gpu, PlanRow
from inspector.records import Request, SourceFiles
from inspector.searching import find_largest
from inspector.trace.training import NotTraceableError
from inspector.trials import Progress, Trials

__all__ = ["plan_rows"]

_FULL_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adamw_8bit")
# An adapter has little optimizer state, whose form hardly matters.
_ADAPTER_OPTIMIZERS = ("adamw_torch", "adamw_8bit")


def plan_rows(
    request: Request, files: SourceFiles | None, gpu: Gpu, quantity: str | None, progress: Progress
) -> tuple[PlanRow, ...]:
    """Return a row for each way to train; `quantity` is what to turn up, None for nothing.

    Raises UnsupportedModelError where no way could be traced.
    """
    trials = Trials(files, gpu)
    is_adapter = files is not None and files.adapter_config is not None
    ways = list(_ways(request, is_adapter=is_adapter))
    rows = []
    for index, (method, change) in enumerate(ways):
        said = f"{method} {options_text(change)}".strip()
        prefix = f"recipe {index + 1} of {len(ways)}, {said}"
        rows.append(
            _row(changed(request, change), method, options_text(change), gpu, quantity, trials, prefix, progress)
        )
    if all(row.total_bytes is None for row in rows):
        raise UnsupportedModelError(f"no step could be traced: {rows[0].refused}; use --count-only for the counts.")
    return tuple(rows)


def _ways(request: Request, *, is_adapter: bool) -> Iterator[tuple[str, Change]]:
    """Yield each way to train: its name and what it changes in the request, without the adapter."""
    adapter: Change = {} if is_adapter or request.peft is not None else {"peft": LORA}
    methods: list[tuple[str, Change, Sequence[str]]] = [("adapter", adapter, _ADAPTER_OPTIMIZERS)]
    if not is_adapter:
        methods.insert(0, ("full", {"peft": None}, _FULL_OPTIMIZERS))
    for method, base, optimizers in methods:
        for checkpointing in (False, True):
            for optimizer in optimizers:
                yield method, {**base, "gradient_checkpointing": checkpointing, "optimizer": optimizer}


def _row(
    request: Request,
    method: str,
    options: str,
    gpu: Gpu,
    quantity: str | None,
    trials: Trials,
    prefix: str,
    progress: Progress,
) -> PlanRow:
    """Trace one way, and turn up the quantity where that is asked for."""
    progress(prefix)
    try:
        trial = trials.run(request)
        search = None
        if quantity is not None:
            search = find_largest(request, quantity, gpu, trials, lambda stage: progress(f"{prefix}: {stage}"))
    except (NotTraceableError, InspectorError) as error:
        return PlanRow(method=method, options=options, refused=one_line(error, 300))
    verdict = trial.on(gpu)
    return PlanRow(
        method=method,
        options=options,
        fits=verdict.fits,
        peak_allocated_bytes=trial.timeline.peak_allocated_bytes,
        total_bytes=trial.total_bytes,
        headroom_bytes=verdict.headroom_bytes,
        largest=None if search is None else search.value or 0,
    )

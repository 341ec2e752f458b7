"""Whether a traced step runs on a GPU: the tape replayed with the memory that the GPU has for it.

What the allocator can reserve is the memory as torch reports it, less what the process takes outside the allocator: the
CUDA context and the code of libraries. A peak of reserved memory above that does not decide: an allocator that gets no
more memory first gives back what it only caches, and tries again. So the tape runs through the allocator under that
limit, and the step fits if no request fails. It fits for sure if it leaves at least what is not known of the card
(`memory.margin`), and is tight where it leaves less.

Where the context was not measured on a card, the largest measured one of its compute capability stands in, and where
none was, the largest measured on any card. Where only the driver's total or the nominal size is known, 652 MiB
are left to the driver: the most that it was seen to keep from torch on a card with GDDR memory (an A40 with ECC), as
all but two of these cards have. Each of these is told with the verdict.

Does not cover: other processes on the card, the desktop among them, and the fragments of memory that CUDA itself
leaves between segments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from inspector.hardware.catalogue import catalogue
from inspector.hardware.platform import Platform
from inspector.memory.replay import Replays
from inspector.records.fit import Fit, Uncertainty, Verdict
from inspector.records.hardware import Gpu, MemoryFigure, Overhead

__all__ = [
    "DRIVER_RESERVE_BYTES",
    "find_overhead",
    "find_usable_bytes",
    "judge_fit",
    "judge_untraced",
    "withdraw_no",
    "withdraw_yes",
]

DRIVER_RESERVE_BYTES = 652 * 2**20


def find_overhead(gpu: Gpu | None, measured: Sequence[Gpu] | None = None) -> Overhead:
    """Return what a process takes of `gpu` (None: of any) outside the allocator.

    `measured` are the GPUs whose context may stand in, by default those of the catalogue.
    """
    if gpu is not None and gpu.context_bytes is not None:
        return Overhead(bytes=gpu.context_bytes, source=f"measured on the {gpu.name} ({gpu.context_source})")
    known = [(other.context_bytes, other) for other in measured or catalogue() if other.context_bytes is not None]
    capability = None if gpu is None else gpu.compute_capability
    same = [(size, other) for size, other in known if capability and other.compute_capability == capability]
    size, other = max(same or known, key=lambda pair: pair[0])
    among = f"of compute capability {_format_version(capability)}" if same and capability else "on any card"
    return Overhead(bytes=size, source=f"not measured here: the largest known {among} is taken, the {other.name}'s")


def find_usable_bytes(gpu: Gpu, overhead_bytes: int, margin_bytes: int = 0, *, shared: float = 0.0) -> int:
    """Return what torch's allocator can reserve on `gpu`, where so much is to stay free.

    `shared` is the part of its memory that another engine has in the same process.
    """
    reserve = DRIVER_RESERVE_BYTES if gpu.memory_figure in (MemoryFigure.DRIVER, MemoryFigure.NOMINAL) else 0
    return max(gpu.memory_bytes - reserve - overhead_bytes - margin_bytes - int(shared * gpu.memory_bytes), 0)


def judge_fit(
    gpu: Gpu,
    replays: Replays,
    platform: Platform | None = None,
    *,
    margin_bytes: int | None = None,
    uncertainty: Sequence[Uncertainty] = (),
    shared: float = 0.0,
) -> Verdict:
    """Decide whether the step of `replays`, traced for `platform`, runs on `gpu`.

    `margin_bytes` of its memory are to stay free; else `uncertainty` says what may be missing. vLLM has the part of it
    that is `shared`.
    """
    context = find_overhead(gpu)
    usable = find_usable_bytes(gpu, context.bytes, margin_bytes or 0, shared=shared)
    headroom = _compute_headroom(replays, usable)
    outcome = Fit.NO
    if headroom >= 0:
        outcome = Fit.YES if headroom >= sum(item.bytes for item in uncertainty) else Fit.TIGHT
    return Verdict(
        gpu=gpu.name,
        memory_bytes=gpu.memory_bytes,
        overhead_bytes=context.bytes,
        usable_bytes=usable,
        outcome=outcome,
        headroom_bytes=headroom,
        lies_in_pieces=(headroom < 0 and replays.unlimited.peak_allocated_bytes <= usable) or None,
        margin_bytes=margin_bytes,
        uncertainty=tuple(uncertainty),
        assumptions=(*_list_assumptions(gpu, context, platform), *_describe_share(gpu, shared)),
    )


def judge_untraced(gpu: Gpu, reason: str, margin_bytes: int | None = None) -> Verdict:
    """Return the verdict on a step that could not be traced."""
    context = find_overhead(gpu)
    return Verdict(
        gpu=gpu.name,
        memory_bytes=gpu.memory_bytes,
        overhead_bytes=context.bytes,
        usable_bytes=find_usable_bytes(gpu, context.bytes, margin_bytes or 0),
        outcome=Fit.UNKNOWN,
        margin_bytes=margin_bytes,
        reason=reason,
        assumptions=tuple(_list_assumptions(gpu, context, None)),
    )


def _compute_headroom(replays: Replays, usable: int) -> int:
    """Return what stays unreserved of the usable bytes or, below 0, how many are missing at least.

    Missing is what the peak of allocated memory exceeds them by. Where it does not, the blocks that are alive leave no
    stretch that is long enough, and missing is what the request that failed wanted beyond them.
    """
    unlimited = replays.unlimited
    if unlimited.peak_reserved_bytes <= usable:
        return usable - unlimited.peak_reserved_bytes
    limited = replays.under(usable)
    if limited.failure is None:
        return usable - limited.peak_reserved_bytes
    failure = limited.failure
    return min(usable - unlimited.peak_allocated_bytes, usable - failure.reserved_bytes - failure.needed_bytes)


def _list_assumptions(gpu: Gpu, context: Overhead, platform: Platform | None) -> Iterator[str]:
    """Yield what was not measured on this very GPU."""
    if gpu.context_bytes is None:
        yield f"The CUDA context is {context.source}."
    if gpu.memory_figure is MemoryFigure.DRIVER:
        yield "Its memory is the driver's total, of which 652 MiB are taken to be out of torch's reach."
    elif gpu.memory_figure is MemoryFigure.NOMINAL:
        yield "Its memory is what it is sold with, of which 652 MiB are taken to be out of torch's reach."
    if platform is not None and platform.takes_lowest_address and gpu.descending_addresses is None:
        order = "below" if platform.descending_addresses else "above"
        yield (
            f"Its driver is taken to place a new segment {order} the last one, as a T4's does: the allocator of torch "
            f"{platform.torch_version[0]}.{platform.torch_version[1]} compares addresses, which moves what is reserved."
        )
    if gpu.approximates is not None:
        yield gpu.approximates


def _describe_share(gpu: Gpu, shared: float) -> Iterator[str]:
    """Yield what vLLM is taken to have of a card."""
    if shared:
        yield f"vLLM has {shared:.0%} of its memory, {int(shared * gpu.memory_bytes):,} bytes, in the same process."


def _format_version(capability: tuple[int, int]) -> str:
    """Return a compute capability as people write it."""
    return f"{capability[0]}.{capability[1]}"


def withdraw_no(verdict: Verdict, upper_bound: str, least_bytes: int) -> Verdict:
    """Return the verdict on figures that are an upper bound: what does not fit may do so all the same.

    It does not where the card has not even the `least_bytes`.
    """
    if verdict.outcome is not Fit.NO:
        return verdict
    if least_bytes > verdict.usable_bytes:
        return dataclasses.replace(verdict, headroom_bytes=verdict.usable_bytes - least_bytes, lies_in_pieces=None)
    return dataclasses.replace(verdict, outcome=Fit.UNKNOWN, headroom_bytes=None, reason=upper_bound)


def withdraw_yes(verdict: Verdict, reason: str) -> Verdict:
    """Return the verdict on figures of which the step takes more by whole models: what fits may not do so after all."""
    if not verdict.fits:
        return verdict
    return dataclasses.replace(verdict, outcome=Fit.UNKNOWN, headroom_bytes=None, reason=reason, advice=None)

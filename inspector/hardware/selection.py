"""The GPUs that a request is about: those that it names, or a few common ones; and notices about the choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inspector.errors import UsageError, quoted
from inspector.hardware.catalogue import Found, find_gpu, list_common_gpus
from inspector.hardware.memory_size import build_stated_gpu
from inspector.records.hardware import Gpu
from inspector.records.notice import Notice
from inspector.records.request import Request

__all__ = ["Selection", "select", "select_gpus"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The GPUs to give a verdict for; `named` tells whether the user chose them."""

    gpus: tuple[Gpu, ...]
    named: bool
    notices: tuple[Notice, ...] = ()

    @property
    def first(self) -> Gpu | None:
        """Return the GPU that the figures of a report are for, None for the default."""
        return self.gpus[0] if self.named else None


def select_gpus(request: Request) -> Selection:
    """Return the GPUs that a request is about; UsageError for a wrong name or size, before any work."""
    selection = select(request.gpus, request.gpu_memory)
    if request.fit is not None and not selection.named:
        raise UsageError(f"`fit` {request.fit} says what fits a GPU: add `gpu` or `gpu_memory`.")
    if selection.named and request.count_only:
        raise UsageError("whether a step fits a GPU is traced: drop `count_only`, or `gpu` and `gpu_memory`.")
    return selection


def select(names: Sequence[str], sizes: Sequence[str | int]) -> Selection:
    """Return the GPUs of these names, then of these memory sizes; UsageError for an unknown name or a wrong size."""
    found = [find_gpu(name) for name in names]
    gpus = tuple(dict.fromkeys((*(match.gpu for match in found), *map(build_stated_gpu, sizes))))
    if not gpus:
        return Selection(gpus=list_common_gpus(), named=False)
    notices = [_describe_ambiguity(name, match) for name, match in zip(names, found, strict=True) if match.others]
    return Selection(gpus=gpus, named=True, notices=tuple(notices))


def _describe_ambiguity(name: str, found: Found) -> Notice:
    """Return the notice that names the card that a name of several cards was taken for."""
    message = (
        f"{quoted(name, 60)} was taken for the {found.gpu.name}, which has the least memory; it may also mean "
        f"{' or '.join(found.others)}."
    )
    return Notice(code="gpu-ambiguous", message=message)

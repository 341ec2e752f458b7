"""The GPUs that a request is about: those that it names, or a few common ones; and notices about the choice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from inspector.errors import UsageError, quoted
from inspector.hardware.catalogue import Found, find_gpu, list_common_gpus
from inspector.hardware.memory_size import build_stated_gpu
from inspector.records.fit import Quantity
from inspector.records.hardware import Gpu
from inspector.records.notice import Notice
from inspector.records.request import Request

__all__ = ["Selection", "select", "select_gpus"]

_MOST_CARDS = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The GPUs to give a verdict for, and how many of each; `named` tells whether the user chose them."""

    gpus: tuple[Gpu, ...]
    named: bool
    counts: tuple[int, ...] = ()
    notices: tuple[Notice, ...] = ()

    @property
    def first(self) -> Gpu | None:
        """Return the GPU that the figures of a report are for, None for the default."""
        return self.gpus[0] if self.named else None


def select_gpus(request: Request) -> Selection:
    """Return the GPUs that a request is about; UsageError for a wrong name or size, before any work."""
    selection = select(request.gpus, request.gpu_memory, request.gpu_count)
    if request.fit is not None and not selection.named:
        raise UsageError(f"`fit` {request.fit} says what fits a GPU: add `gpu` or `gpu_memory`.")
    if request.fit == Quantity.GPUS and (len(selection.gpus) > 1 or max(selection.counts) > 1):
        raise UsageError("`fit` gpus searches the number of cards of one kind: give one `gpu` without a number.")
    if selection.named and request.count_only:
        raise UsageError("whether a step fits a GPU is traced: drop `count_only`, or `gpu` and `gpu_memory`.")
    if not selection.named and (request.gpu_count > 1 or request.sharding is not None):
        name = "gpu_count" if request.gpu_count > 1 else "sharding"
        raise UsageError(f"`{name}` is about cards: add `gpu`, as in `gpu=2x4090`.")
    return selection


def select(names: Sequence[str], sizes: Sequence[str | int], count: int = 1) -> Selection:
    """Return the GPUs of these names, then of these memory sizes, and how many of each.

    A name that is given twice and `2x4090` both mean two cards, `count` that many of each. Raises UsageError for an
    unknown name, a wrong size, and numbers that contradict each other.
    """
    counted = [_split_count(name) for name in names]
    found = [(number, find_gpu(name)) for number, name in counted]
    gpus: Counter[Gpu] = Counter()
    for number, match in found:
        gpus[match.gpu] += number
    gpus.update(map(build_stated_gpu, sizes))
    if not gpus:
        return Selection(gpus=list_common_gpus(), named=False)
    if count > 1 and max(gpus.values()) > 1:
        raise UsageError(f"`gpu_count` {count} contradicts the number of cards in `gpu`: give one of them.")
    notices = [
        _describe_ambiguity(name, match) for (_, name), (_, match) in zip(counted, found, strict=True) if match.others
    ]
    counts = tuple(count * number for number in gpus.values())
    return Selection(gpus=tuple(gpus), named=True, counts=counts, notices=tuple(notices))


def _split_count(name: str) -> tuple[int, str]:
    """Return the number and the name of `2x4090` or `8 x H100`, 1 where there is no number."""
    match = re.fullmatch(r"\s*(\d{1,9})\s*[xX×*]\s*(.+)", name)
    if match is None:
        return 1, name
    number = int(match[1])
    if not 1 <= number <= _MOST_CARDS:
        raise UsageError(f"`gpu` {quoted(name, 60)}: give 1 to {_MOST_CARDS:,} cards, as in `gpu=2x4090`.")
    return number, match[2]


def _describe_ambiguity(name: str, found: Found) -> Notice:
    """Return the notice that names the card that a name of several cards was taken for."""
    message = (
        f"{quoted(name, 60)} was taken for the {found.gpu.name}, which has the least memory; it may also mean "
        f"{' or '.join(found.others)}."
    )
    return Notice(code="gpu-ambiguous", message=message)

"""The GPUs that a request is about: those that it names, or a few common ones; and what to say about the choice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from inspector.errors import quoted
from inspector.hardware.catalogue import Found, common_gpus, find
from inspector.hardware.memory_size import stated_gpu
from inspector.records.hardware import DEFAULT_CAPABILITY, Gpu
from inspector.records.notice import Notice

__all__ = ["Selection", "select"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The GPUs to give a verdict for. `named` tells whether the user chose them; the first one is then traced for."""

    gpus: tuple[Gpu, ...]
    named: bool
    notices: tuple[Notice, ...] = ()

    @property
    def traced(self) -> Gpu | None:
        """Return the GPU whose kernels the trace follows, None for the default."""
        return self.gpus[0] if self.named else None


def select(names: Sequence[str], sizes: Sequence[str | int]) -> Selection:
    """Return the GPUs of these names and memory sizes, the names first; raise UsageError where one is no such thing."""
    found = [find(name) for name in names]
    gpus = tuple(dict.fromkeys((*(each.gpu for each in found), *map(stated_gpu, sizes))))
    if not gpus:
        return Selection(gpus=common_gpus(), named=False)
    notices = [_ambiguous(name, each) for name, each in zip(names, found, strict=True) if each.others]
    return Selection(gpus=gpus, named=True, notices=(*notices, *_other_kernels(gpus)))


def _ambiguous(name: str, found: Found) -> Notice:
    """Say which of several cards a name was taken for."""
    message = (
        f"{quoted(name, 60)} was taken for the {found.gpu.name}, which has the least memory; it may also mean "
        f"{' or '.join(found.others)}."
    )
    return Notice(code="gpu-ambiguous", message=message)


def _other_kernels(gpus: Sequence[Gpu]) -> Iterator[Notice]:
    """Yield a notice where GPUs of several architectures share one trace."""
    first, *others = gpus
    traced = first.compute_capability or DEFAULT_CAPABILITY
    differing = [gpu.name for gpu in others if gpu.compute_capability and gpu.compute_capability != traced]
    if differing:
        message = (
            f"The step is traced with the kernels of the first GPU, {first.name}; {', '.join(differing)} may run other "
            "kernels, which take other memory: inspect each alone."
        )
        yield Notice(code="gpu-kernels-differ", message=message)

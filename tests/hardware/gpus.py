"""A GPU written by hand, of which a test says only what matters to it."""

from __future__ import annotations

from inspector.records.hardware import Gpu, MemoryFigure

__all__ = ["made_gpu"]


def made_gpu(
    memory_bytes: int,
    *,
    name: str = "X1",
    context_bytes: int | None = 0,
    capability: tuple[int, int] | None = (8, 0),
    figure: MemoryFigure = MemoryFigure.TORCH,
    approximates: str | None = None,
) -> Gpu:
    """Return a GPU; without a word its context is known to be empty, so that all its memory is usable."""
    return Gpu(
        name=name,
        family="made",
        memory_bytes=memory_bytes,
        memory_figure=figure,
        memory_source="made up",
        compute_capability=capability,
        context_bytes=context_bytes,
        context_source="made up" if context_bytes is not None else None,
        approximates=approximates,
    )

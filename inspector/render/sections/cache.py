"""What a generation keeps of the tokens so far, in a line and as a section by kind of layer."""

from __future__ import annotations

from collections.abc import Sequence

from inspector.errors import one_line
from inspector.records.memory import CacheFacts, CacheLayers, CacheTensor, ContextPoint
from inspector.render.document import Kind, Section, Table, Tone, column, paragraph, row
from inspector.render.names import format_exact_bytes
from inspector.units import format_bytes, format_count

__all__ = ["build_cache_section", "build_context_section", "describe_cache"]


def describe_cache(cache: CacheFacts) -> str:
    """Return what a token takes, and all of them at the end."""
    kinds = ", ".join(f"{format_count(item.count)} {_name(item)}" for item in _merge(cache))
    return (
        f"{format_count(cache.bytes_per_token)} bytes a token, {format_bytes(cache.at_end_bytes)} at the end; layers: "
        f"{kinds}"
    )


def build_cache_section(cache: CacheFacts) -> Section:
    """Return the layers by kind with their tensors, and what they add up to."""
    columns = (
        column("layers", Kind.NUMBER),
        column("kind", Kind.LABEL),
        column("bytes a token", Kind.NUMBER),
        column("fixed bytes", Kind.NUMBER),
        column("tensors of a layer at the end", Kind.WORDS),
    )
    rows = [
        row(
            (
                format_count(item.count),
                _name(item) if item.window is None else f"{_name(item)}, window {format_count(item.window)}",
                format_count(item.bytes_per_token * item.count),
                format_count(item.fixed_bytes * item.count),
                ", ".join(_describe_tensor(tensor) for tensor in item.tensors),
            )
        )
        for item in cache.layers
    ]
    grows = (
        f"{one_line(cache.cache_class)}: {format_count(cache.bytes_per_token)} bytes for a further token of a "
        "sequence, while no window is full; the keys and values of an encoder's tokens do not grow. When the last step "
        f"is over all sequences hold {format_exact_bytes(cache.at_end_bytes)}. A layer with a window keeps the prompt "
        "as it came until the first step after it."
    )
    return Section(title="KV cache", blocks=(Table(columns=columns, rows=tuple(rows)), paragraph(grows, Tone.QUIET)))


def build_context_section(points: Sequence[ContextPoint]) -> Section:
    """Return what prompts of other lengths take."""
    columns = (
        column("prompt", Kind.NUMBER),
        column("fits", Kind.LABEL),
        column("peak allocated", Kind.NUMBER),
        column("total", Kind.NUMBER),
        column("", Kind.NUMBER, quiet=True),
        column("", Kind.WORDS),
    )
    rows = [
        row(
            (
                format_count(point.prompt_len),
                point.fits or "",
                "–" if point.peak_allocated_bytes is None else format_count(point.peak_allocated_bytes),
                "–" if point.total_bytes is None else format_count(point.total_bytes),
                "" if point.total_bytes is None else format_bytes(point.total_bytes),
                one_line(point.reason or "", 200),
            )
        )
        for point in points
    ]
    return Section(title="Prompts of other lengths", blocks=(Table(columns=columns, rows=tuple(rows)),))


def _merge(cache: CacheFacts) -> list[CacheLayers]:
    """Return the layers with those of one kind together; only their count and their kind say something."""
    merged: dict[str, CacheLayers] = {}
    for item in cache.layers:
        known = merged.get(item.kind.value)
        count = item.count if known is None else item.count + known.count
        merged[item.kind.value] = CacheLayers(
            kind=item.kind, count=count, tensors=(), bytes_per_token=0, fixed_bytes=0, window=item.window
        )
    return list(merged.values())


def _name(item: CacheLayers) -> str:
    """Return the kind of layers in words."""
    return item.kind.value.replace("_", " ")


def _describe_tensor(tensor: CacheTensor) -> str:
    """Return a tensor's name, shape and dtype."""
    shape = " × ".join(format_count(size) for size in tensor.shape) or "1"
    return f"{one_line(tensor.name)} {shape} {one_line(tensor.dtype)}"

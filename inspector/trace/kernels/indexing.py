"""Indexing by several tensors, and backward passes of indexing and of embeddings.

The backward passes sort the indices so that each row is added up by one block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from inspector.trace.kernels.registry import Scratch, kernel
from inspector.trace.kernels.sorting import radix_sort_bytes, scan_bytes, unique_bytes

__all__: list[str] = []

aten = torch.ops.aten

_INDEX_BYTES = 8
# Up to this many indices one kernel adds the rows without sorting (aten/src/ATen/native/cuda/Embedding.cu).
_UNSORTED_INDICES = 3072
# Rows that one thread adds up in the backward pass of an embedding (cuda/EmbeddingBackwardKernel.cu).
_ROWS_PER_THREAD = 10
_SUM_BYTES = 4
# Its thread blocks, and how many of them and of their parts are few.
_WARP, _MOST_THREADS, _BLOCKS_PER_MULTIPROCESSOR, _PARTS_PER_SEGMENT = 32, 1024, 4, 4


@kernel(aten.index.Tensor, allocates_outputs=True)
def _index(scratch: Scratch, values: Tensor, indices: Sequence[Tensor | None]) -> None:
    """Several indices are written out where their strides differ (native/TensorAdvancedIndexing.cpp, AdvancedIndex).

    Those that lie on the CPU are copied before, for as long as it takes (TensorAdvancedIndexingUtils.h, make_info).
    """
    _copy_to_device(scratch, indices)
    given = [index for index in indices if index is not None]
    expanded = _align_indices(values, indices, given) if len(given) > 1 else []
    written: list[int] = []
    if any(index.stride() != expanded[0].stride() for index in expanded):
        written = [scratch.take(_INDEX_BYTES * index.numel()) for index in expanded if not index.is_contiguous()]
    scratch.outputs()
    for block in written:  # a vector of C++ ends with its first element
        scratch.give(block)


def _copy_to_device(scratch: Scratch, indices: Sequence[Tensor | None]) -> None:
    """Take copies of indices that lie on the CPU."""
    for index in indices:
        if index is not None and not index.is_meta:
            scratch.take(index.numel() * index.element_size())


def _align_indices(values: Tensor, indices: Sequence[Tensor | None], given: Sequence[Tensor]) -> list[Tensor]:
    """Return indices as the kernel has them: expanded, with a dimension of 1 for each that is not indexed."""
    places = [place for place, index in enumerate(indices) if index is not None]
    is_one_block = places[-1] - places[0] + 1 == len(places)
    before = places[0] if is_one_block else 0
    after = values.dim() - len(given) - before
    shape = torch.broadcast_shapes(*(index.shape for index in given))
    return [index.expand(shape).reshape([1] * before + list(shape) + [1] * after) for index in given]


@kernel(aten.embedding.default)
def _embedding(scratch: Scratch, _weight: Tensor, indices: Tensor, *_: Any) -> None:
    """Embedding flattens its indices, which copies them when they are an expanded view (native/Embedding.cpp)."""
    if not indices.is_contiguous():
        scratch.take(indices.numel() * indices.element_size())


@kernel(aten.embedding_dense_backward.default, allocates_outputs=True)
def _embedding_backward(scratch: Scratch, grad: Tensor, indices: Tensor, rows: int, *_: Any) -> None:
    """More than 3,072 indices are sorted, cut into segments of equal index and added up in float32 (Embedding.cu).

    The buffers have the sizes that are possible at most, not those that the indices turn out to need. What is not
    contiguous is copied before.
    """
    count = indices.numel()
    for read in (indices, grad):
        if not read.is_contiguous():
            scratch.take(read.numel() * read.element_size())
    if count <= _UNSORTED_INDICES:
        scratch.outputs()
        return
    sizes = _INDEX_BYTES * count
    scratch.take(sizes)  # sorted indices
    scratch.take(sizes)  # where they stood
    numbers = scratch.take(sizes)
    # torch 2.13 sorts by the bits that an index can have, 2.11 and before by all 64; 2.12 was not looked at.
    bits = rows.bit_length() if scratch.platform.torch_version >= (2, 12) else 64
    scratch.give(scratch.take(radix_sort_bytes(scratch.platform, count, bits)))
    scratch.give(numbers)
    scratch.outputs()
    scratch.take(sizes)  # where each segment begins
    scratch.take(_INDEX_BYTES)  # how many there are
    keys = scratch.take(sizes)
    scratch.give(scratch.take(unique_bytes(scratch.platform, count)))
    scratch.give(keys)
    segments = min(count, rows)
    scratch.take(_INDEX_BYTES * segments)  # parts of each segment
    scratch.take(_INDEX_BYTES * segments)  # and where they begin
    scratch.give(scratch.take(scan_bytes(scratch.platform, segments)))
    scratch.take(_INDEX_BYTES)  # how many parts there are
    parts = count // _ROWS_PER_THREAD + segments
    scratch.take(_INDEX_BYTES * parts)  # where each part begins
    if _adds_in_place(scratch, segments, parts, grad.shape[-1]):
        scratch.take(_INDEX_BYTES * parts)  # which segment each is of
        if grad.element_size() < _SUM_BYTES:
            scratch.give(scratch.take(_SUM_BYTES * segments * grad.shape[-1]))
        return
    scratch.take(parts * grad.shape[-1] * max(grad.element_size(), _SUM_BYTES))  # its sum


def _adds_in_place(scratch: Scratch, segments: int, parts: int, columns: int) -> bool:
    """Tell whether parts of few segments are added to their sums one after the other, as torch 2.13 does it.

    Read off its host code over sizes, on four GPUs: too few blocks to fill the GPU, and many parts a segment.
    """
    warped = -(-columns // _WARP) * _WARP
    blocks = -(-segments * warped // min(warped, _MOST_THREADS))
    few = blocks < _BLOCKS_PER_MULTIPROCESSOR * scratch.platform.multiprocessors
    return scratch.platform.torch_version >= (2, 12) and few and parts > _PARTS_PER_SEGMENT * segments


@kernel(aten.masked_scatter.default, aten.masked_scatter_.default)
def _masked_scatter(scratch: Scratch, values: Tensor, mask: Tensor, source: Tensor) -> None:
    """Scan the mask for which element of the source goes where (cuda/IndexKernel.cpp, masked_scatter__cuda)."""
    scratch.take(_INDEX_BYTES * values.numel())
    if not mask.is_contiguous() or mask.shape != values.shape:
        scratch.take(values.numel())
    scratch.give(scratch.take(scan_bytes(scratch.platform, values.numel())))
    if not source.is_contiguous():
        scratch.take(source.numel() * source.element_size())


@kernel(aten.scatter_reduce.two, aten.scatter_reduce_.two)
def _scatter_reduce(
    scratch: Scratch,
    values: Tensor,
    _dim: int,
    _index: Tensor,
    source: Tensor,
    reduce: str,
    *_: Any,
    include_self: bool = True,
) -> None:
    """Means count what they are of (native/TensorAdvancedIndexing.cpp, `scatter_reduce_two`)."""
    if reduce != "mean":
        return
    scratch.take(source.numel() * source.element_size())  # ones
    scratch.take(values.numel() * values.element_size())  # their sums
    scratch.give(scratch.take(values.numel()))  # which are nought


@kernel(aten._index_put_impl_.default, aten.index_put_.default, aten.index_put.default)
def _index_put(
    scratch: Scratch, values: Tensor, indices: Sequence[Tensor | None], new: Tensor, accumulate: bool = False, *_: Any
) -> None:
    """Adding at indices sorts them: linear indices, their sorted copy, where they stood, numbers (cuda/Indexing.cu)."""
    _copy_to_device(scratch, indices)
    given = [index for index in indices if index is not None]
    if not accumulate or not given:
        return
    count = math.prod(torch.broadcast_shapes(*(index.shape for index in given)))
    sizes = _INDEX_BYTES * count
    for _index in given:
        wrapped = scratch.take(sizes)  # negative indices count from the end
        scratch.take(sizes)  # times the stride
        scratch.give(wrapped)
    indexed = {place for place, index in enumerate(indices) if index is not None}
    added = count * math.prod(size for place, size in enumerate(values.shape) if place not in indexed)
    if new.numel() != added or not new.is_contiguous():
        scratch.take(added * new.element_size())  # the new values, written out
    scratch.take(sizes)
    scratch.take(sizes)
    numbers = scratch.take(sizes)
    last = max(math.prod(values.shape[place] for place in indexed) - 1, 1)
    scratch.give(scratch.take(radix_sort_bytes(scratch.platform, count, last.bit_length())))
    scratch.give(numbers)

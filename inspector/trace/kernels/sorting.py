"""What CUB's device-wide algorithms take for the time of a call: scans, radix sorts, selections.

CUB answers how many bytes it wants; the figures here were read off the host code of torch 2.10 (CUDA 12.8), 2.11 and
2.13 (CUDA 13.0) over a grid of sizes (tests/trace/test_kernels.py). Each is a rounded sum: parts are aligned to 256
bytes, and 255 more let CUB align the block itself.

Rows of logits are sorted as torch 2.13 does it (SortStable.cu), which alone was looked at for them.

Not covered: sorts along a dimension that is not the last one, and long rows of 2-byte keys.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inspector.hardware.platform import Platform
from inspector.trace.kernels.registry import Scratch, kernel

__all__ = [
    "radix_sort_bytes",
    "reduction_bytes",
    "scan_by_row_bytes",
    "scan_bytes",
    "select_bytes",
    "unique_bytes",
]

aten = torch.ops.aten

_ALIGNMENT = 256
_INDEX_BYTES = 8
# Elements that a thread block scans, and the descriptor it leaves for the next one; 32 more are padding.
_SCAN_TILE, _SCAN_DESCRIPTOR_BYTES, _SCAN_PADDING = 896, 16, 32
# Up to here one thread block adds up alone; threads of the blocks that share more, and how many blocks a place has.
_SINGLE_BLOCK, _REDUCING_THREADS, _SUBSCRIPTION = 4096, 256, 5
_FLOAT32_SCAN_TILE = 1920
# The number of a row, by which a scan knows where to start anew.
_ROW_BYTES = 4
# Up to here one thread block sorts alone, without any memory (DeviceRadixSort, 8-byte keys and values).
_SINGLE_TILE = 2304
# A pass sorts 8 bits; it keeps two histograms of 256 counters, and one for each tile.
_BITS_PER_PASS, _HISTOGRAM_BYTES = 8, 1024
# Fewer test elements than 10 * n ** 0.145 are compared one by one.
_FEW_TESTS, _TESTS_EXPONENT = 10.0, 0.145
# torch.sort sorts rows up to this length in place (aten/src/ATen/native/cuda/Sort.cpp).
_LONGEST_ROW_IN_PLACE = 4096
# Fewer rows than that are sorted as one, by value and then by row; longer ones each alone (SortStable.cu).
_MANY_ROWS, _LONGEST_ROW_OF_MANY = 128, 1_000_000
# Elements that are sorted at once.
_MOST_SORTED = 2**31 - 1


def _align(size_bytes: int) -> int:
    """Round up to CUB's alignment."""
    return -(-size_bytes // _ALIGNMENT) * _ALIGNMENT


def scan_bytes(platform: Platform, count: int, tile: int = _SCAN_TILE, element_bytes: int = 8) -> int:
    """Return what a scan of `count` elements takes; with CUDA 13 (torch 2.11 on) an allocation more is aligned.

    The descriptor of elements of up to 4 bytes is half as large (cub/agent/single_pass_scan_operators.cuh).
    """
    tiles = -(-count // tile)
    extra = 1 if platform.torch_version >= (2, 11) else 0
    descriptor = _SCAN_DESCRIPTOR_BYTES if element_bytes > 4 else _SCAN_DESCRIPTOR_BYTES // 2
    return _align(descriptor * (tiles + _SCAN_PADDING)) + (1 + extra) * _ALIGNMENT - 1


def unique_bytes(platform: Platform, count: int) -> int:
    """Return what selecting the first of each run of equal 8-byte keys takes, which is a scan with other tiles."""
    capability, is_recent = platform.compute_capability, platform.torch_version >= (2, 12)
    tile = 320
    if capability == (8, 0):
        tile = 1344 if is_recent else 1792
    elif capability >= (9, 0):
        tile = 4928 if is_recent else 4608
    return scan_bytes(platform, count, tile)


def reduction_bytes(platform: Platform, count: int) -> int:
    """Return what adding up `count` numbers of 4 bytes takes: a place for each thread block, five times as many as run.

    Up to 4,096 of them one block adds alone (cub/device/dispatch/dispatch_reduce.cuh, with blocks of 256 threads).
    """
    if count <= _SINGLE_BLOCK:
        return 1
    blocks = platform.multiprocessors * (platform.threads_per_multiprocessor // _REDUCING_THREADS) * _SUBSCRIPTION
    return _align(4 * blocks) + _ALIGNMENT - 1


def select_bytes(platform: Platform, count: int) -> int:
    """Return what selecting from `count` numbers by truth values takes, which is a scan with other tiles."""
    capability = platform.compute_capability
    tile = 2304 if capability == (8, 0) else 4224 if capability >= (9, 0) else 640
    return scan_bytes(platform, count, tile, element_bytes=4)


def scan_by_row_bytes(platform: Platform, count: int) -> int:
    """Return what a scan of `count` numbers of 4 bytes that starts anew with each row takes (CUB's ScanByKey)."""
    capability = platform.compute_capability
    tile = 3840 if capability == (8, 0) else 4032 if capability >= (9, 0) else 2304
    tiles = -(-count // tile)
    descriptors = _align(_SCAN_DESCRIPTOR_BYTES * (tiles + _SCAN_PADDING))
    return descriptors + _align(_ROW_BYTES * (tiles + 1)) + _ALIGNMENT - 1


def radix_sort_bytes(platform: Platform, count: int, bits: int = 64, key_bytes: int = 8) -> int:
    """Return what sorting `count` pairs of keys and 8-byte values takes, of which `bits` of the key are looked at.

    What a pass leaves for the next one is kept where there are several.
    """
    if count <= _SINGLE_TILE:
        return 1
    capability = platform.compute_capability
    if key_bytes == _INDEX_BYTES:
        tile = 2816 if capability < (8, 0) else 3840 if capability < (9, 0) else 4608
    else:
        tile = 2816 if capability < (8, 0) else 3072 if capability < (9, 0) else 5376
    between = _align(key_bytes * count) + _align(_INDEX_BYTES * count) if bits > _BITS_PER_PASS else 0
    return between + _count_bytes(count, tile, bits)


def _key_sort_bytes(platform: Platform, count: int) -> int:
    """Return what sorting `count` keys of 8 bytes by up to 8 of their bits takes, in one pass."""
    capability = platform.compute_capability
    return _count_bytes(count, 2816 if capability < (8, 0) else 3840 if capability < (9, 0) else 5760, _BITS_PER_PASS)


def _count_bytes(count: int, tile: int, bits: int) -> int:
    """Return what the counters of a radix sort take beside its keys and values."""
    passes = -(-bits // _BITS_PER_PASS)
    lookback = _HISTOGRAM_BYTES * -(-count // tile)
    return 2 * passes * _HISTOGRAM_BYTES + _ALIGNMENT + lookback + _ALIGNMENT - 1


@kernel(aten.nonzero.default, allocates_outputs=True)
def _nonzero(scratch: Scratch, values: Tensor) -> None:
    """Count what is not zero, which the host waits for, then select the places (native/cuda/Nonzero.cu)."""
    if not values.numel():
        scratch.outputs()
        return
    if not values.is_contiguous():
        scratch.take(values.numel() * values.element_size())
    scratch.take(4)  # how many there are
    scratch.give(scratch.take(reduction_bytes(scratch.platform, values.numel())))
    scratch.outputs()
    scratch.give(scratch.take(select_bytes(scratch.platform, values.numel())))


@kernel(aten.cumsum.default)
def _cumsum(scratch: Scratch, values: Tensor, dim: int, *_: Any, dtype: torch.dtype | None = None) -> None:
    """Only a scan over everything is CUB's (ScanUtils.cuh); integers are cast to int64 first (ReduceOps.cpp)."""
    _take_for_sums(scratch, values, dim, dtype)


def _take_for_sums(scratch: Scratch, values: Tensor, dim: int, dtype: torch.dtype | None = None) -> list[int]:
    """Take what running sums need beside themselves, and return its blocks."""
    taken: list[int] = []
    wanted = dtype or (values.dtype if values.is_floating_point() else torch.int64)
    if wanted is not values.dtype:
        taken.append(scratch.take(values.numel() * wanted.itemsize))
    if values.dim() and values.numel() == values.shape[dim]:
        tile = _FLOAT32_SCAN_TILE if wanted is torch.float32 else _SCAN_TILE
        size_bytes = scan_bytes(scratch.platform, values.numel(), tile, element_bytes=wanted.itemsize)
        taken.append(scratch.take(size_bytes))
    return taken


@kernel(aten.repeat_interleave.Tensor, allocates_outputs=True)
def _repeat_interleave(scratch: Scratch, repeats: Tensor, **_: Any) -> None:
    """Scan the repeats, whose sums say where each begins, and keep the sums to the end (native/Repeat.h)."""
    scratch.take(repeats.numel() * _INDEX_BYTES)
    for block in reversed(_take_for_sums(scratch, repeats, 0)):
        scratch.give(block)
    scratch.outputs()


@kernel(aten.isin.Tensor_Tensor)
def _isin(scratch: Scratch, elements: Tensor, tests: Tensor, *_: Any, **__: Any) -> None:
    """Few test elements are compared with every element, and any() goes over them (cuda/TensorCompare.cpp).

    Beside the output there are the pairs and what any() makes of them, which is freed first; many elements are sorted
    instead, which is not known here (native/TensorCompare.cpp, isin_Tensor_Tensor_out).
    """
    if tests.numel() < _FEW_TESTS * max(elements.numel(), 1) ** _TESTS_EXPONENT:
        pairs = scratch.take(elements.numel() * tests.numel())
        scratch.give(scratch.take(elements.numel()))
        scratch.give(pairs)


@kernel(aten.sort.default, aten.sort.stable)
def _sort(scratch: Scratch, values: Tensor, *arguments: Any, **keywords: Any) -> None:
    """Short rows are sorted in place, with one buffer of indices for the order; long ones by CUB (SortStable.cu)."""
    if not values.numel():
        return
    row, itemsize = values.shape[-1] if values.dim() else 1, values.element_size()
    if row <= _LONGEST_ROW_IN_PLACE:
        scratch.take(row * _INDEX_BYTES)
        return
    at_once = min(values.numel(), _MOST_SORTED) // row * row
    for start in range(0, values.numel(), at_once):
        count = min(values.numel() - start, at_once)
        rows = count // row
        if rows == 1 or row >= _LONGEST_ROW_OF_MANY:
            order = scratch.take(row * _INDEX_BYTES)
            for _ in range(rows):
                scratch.give(scratch.take(radix_sort_bytes(scratch.platform, row, 8 * itemsize, itemsize)))
            scratch.give(order)
        elif rows < _MANY_ROWS:
            # Places and their rows are pairs of 4 bytes, sorted by value; then those by row.
            pairs = scratch.take(count * _INDEX_BYTES), scratch.take(count * _INDEX_BYTES)
            keys = scratch.take(count * itemsize)
            scratch.give(scratch.take(radix_sort_bytes(scratch.platform, count, 8 * itemsize, itemsize)))
            scratch.give(keys)
            scratch.give(scratch.take(_key_sort_bytes(scratch.platform, count)))
            for block in reversed(pairs):
                scratch.give(block)
        else:
            order = scratch.take(count * _INDEX_BYTES)
            kept = _align(itemsize * count) + _align(_INDEX_BYTES * count)
            scratch.give(scratch.take(kept + _ALIGNMENT - 1))
            scratch.give(order)

"""What CUB's device-wide algorithms take for the time of a call: scans, radix sorts, selections.

CUB answers how many bytes it wants; the figures here were read off the host code of torch 2.10 (CUDA 12.8), 2.11 and
2.13 (CUDA 13.0) over a grid of sizes (tests/trace/test_kernels.py). Each is a rounded sum: parts are aligned to 256
bytes, and 255 more let CUB align the block itself.

Not covered: sorts along one of several dimensions of more than 4,096 elements.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inspector.hardware.platform import Platform
from inspector.trace.kernels.registry import Scratch, kernel

__all__ = ["count_bytes", "radix_sort_bytes", "scan_bytes", "select_bytes", "unique_bytes"]

aten = torch.ops.aten

_ALIGNMENT = 256
_INDEX_BYTES = 8
# Elements that a thread block scans, and the descriptor it leaves for the next one; 32 more are padding.
_SCAN_TILE, _SCAN_DESCRIPTOR_BYTES, _SCAN_PADDING = 896, 16, 32
# Up to here one thread block adds up alone; threads of the blocks that share more, and how many blocks a place has.
_SINGLE_BLOCK, _REDUCING_THREADS, _SUBSCRIPTION = 4096, 256, 5
# Up to here one thread block sorts alone, without any memory (DeviceRadixSort, 8-byte keys and values).
_SINGLE_TILE = 2304
# A pass sorts 8 bits; it keeps two histograms of 256 counters, and one for each tile.
_BITS_PER_PASS, _HISTOGRAM_BYTES = 8, 1024
# Fewer test elements than 10 * n ** 0.145 are compared one by one.
_FEW_TESTS, _TESTS_EXPONENT = 10.0, 0.145
# torch.sort sorts rows up to this length in place (aten/src/ATen/native/cuda/Sort.cpp).
_LONGEST_ROW_IN_PLACE = 4096


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
    capability = platform.compute_capability
    return scan_bytes(platform, count, 1792 if capability == (8, 0) else 4608 if capability >= (9, 0) else 320)


def count_bytes(platform: Platform, count: int) -> int:
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


def radix_sort_bytes(platform: Platform, count: int, bits: int = 64) -> int:
    """Return what sorting `count` pairs of 8-byte keys and values takes, of which `bits` of the key are looked at."""
    if count <= _SINGLE_TILE:
        return 1
    capability = platform.compute_capability
    tile = 2816 if capability < (8, 0) else 3840 if capability < (9, 0) else 4608
    passes = -(-bits // _BITS_PER_PASS)
    lookback = _HISTOGRAM_BYTES * -(-count // tile)
    counters = 2 * passes * _HISTOGRAM_BYTES + _ALIGNMENT
    return 2 * _align(_INDEX_BYTES * count) + counters + lookback + _ALIGNMENT - 1


@kernel(aten.nonzero.default, allocates_outputs=True)
def _nonzero(scratch: Scratch, values: Tensor) -> None:
    """Count what is not zero, which the host waits for, then select the places (native/cuda/Nonzero.cu)."""
    if not values.numel():
        scratch.outputs()
        return
    if not values.is_contiguous():
        scratch.take(values.numel() * values.element_size())
    scratch.take(4)  # how many there are
    scratch.give(scratch.take(count_bytes(scratch.platform, values.numel())))
    scratch.outputs()
    scratch.give(scratch.take(select_bytes(scratch.platform, values.numel())))


@kernel(aten.cumsum.default)
def _cumsum(scratch: Scratch, values: Tensor, dim: int, *_: Any, dtype: torch.dtype | None = None) -> None:
    """Only a scan over everything is CUB's (ScanUtils.cuh); integers are cast to int64 first (ReduceOps.cpp)."""
    wanted = dtype or (values.dtype if values.is_floating_point() else torch.int64)
    if wanted is not values.dtype:
        scratch.take(values.numel() * wanted.itemsize)
    if values.dim() and values.numel() == values.shape[dim]:
        scratch.take(scan_bytes(scratch.platform, values.numel(), element_bytes=wanted.itemsize))


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
    if values.dim() != 1:
        return
    scratch.take(values.numel() * _INDEX_BYTES)
    if values.numel() > _LONGEST_ROW_IN_PLACE:
        scratch.take(radix_sort_bytes(scratch.platform, values.numel(), 8 * values.element_size()))

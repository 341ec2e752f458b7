"""What choosing a token of a vocabulary takes: the largest of a row, and a draw from a distribution.

Read off the host code of torch 2.13 over a grid of sizes, on the four cards of tests/evidence/stand_in.

Not covered: several draws at once, and draws with replacement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from inspector.hardware.platform import Platform
from inspector.trace.kernels.reductions import reduce
from inspector.trace.kernels.registry import Scratch, kernel
from inspector.trace.kernels.sorting import scan_by_row_bytes

__all__: list[str] = []

aten = torch.ops.aten

# Up to how many rows, from which length on, several thread blocks look through a row (TensorTopK.cu,
# `should_use_multiblock`).
_SEVERAL_BLOCKS: Sequence[tuple[int, int]] = (
    (20, 20_000),
    (40, 10_000),
    (80, 8_000),
    (199, 5_000),
    (799, 3_000),
    (4000, 800),
)
_LEAST_OF_MANY_ROWS = 400
# A thread block has 256 threads of 40 registers, so that 6 fit a multiprocessor with its 65,536; a thread looks at 4 to
# 64 elements (`get_items_per_thread`).
_THREADS, _BLOCKS_PER_MULTIPROCESSOR = 256, 6
_FEWEST_ITEMS, _MOST_ITEMS = 4, 64
# A digit of 8 bits has 256 values; a block counts them in 2 bytes each, a row in 4.
_DIGITS = 256


@kernel(aten.topk.default)
def _topk(scratch: Scratch, values: Tensor, _count: int, dim: int = -1, *_: Any, **__: Any) -> None:
    """Long rows are looked through by several blocks, digit by digit (TensorTopK.cu, `mbtopk::launch`)."""
    row = int(values.shape[dim]) if values.dim() else 1
    rows = values.numel() // max(row, 1)
    least = next((length for most, length in _SEVERAL_BLOCKS if rows <= most), _LEAST_OF_MANY_ROWS)
    if not values.is_contiguous():
        scratch.take(values.numel() * values.element_size())
    if row < least:
        return
    blocks: int = rows * -(-row // (_THREADS * _find_items(scratch.platform, values.numel())))
    scratch.take(rows * values.element_size())  # the smallest value that is chosen
    scratch.take(rows * 8)
    scratch.take(rows * 8)
    scratch.take(blocks * _DIGITS * 2)
    scratch.take(rows * _DIGITS * 4)
    scratch.take(blocks * 4)
    scratch.take(blocks * 4)
    for _scan in range(2):  # prefix sums of what is larger, and of what is as large
        scratch.give(scratch.take(scan_by_row_bytes(scratch.platform, blocks)))


def _find_items(platform: Platform, count: int) -> int:
    """Return how many elements a thread looks at."""
    threads = platform.multiprocessors * _BLOCKS_PER_MULTIPROCESSOR * _THREADS
    return max(_FEWEST_ITEMS, min(-(-count // threads), _MOST_ITEMS))


@kernel(aten.multinomial.default)
def _multinomial(scratch: Scratch, values: Tensor, count: int, *_: Any, **__: Any) -> None:
    """Check the probabilities, then take the largest of them over random numbers (Distributions.cpp, multinomial_out).

    The checks look for negative values and infinities, and for rows of zeros.
    """
    rows = values.numel() // values.shape[-1]
    scratch.take(values.element_size())  # the smallest value, the largest one
    scratch.take(values.element_size())
    reduce(scratch, values, (), 2 * values.element_size())
    scratch.take(1)  # whether all of them are valid
    for block in reversed([scratch.take(1), scratch.take(1)]):
        scratch.give(block)
    sums = scratch.take(rows * values.element_size())
    reduce(scratch, values, [-1], max(values.element_size(), 4))
    is_zero = scratch.take(rows)
    scratch.take(1)
    scratch.give(is_zero)
    scratch.give(sums)
    scratch.give(scratch.take(1))
    quotients = scratch.take(values.numel() * values.element_size())
    reduce(scratch, values, [-1], 16)
    scratch.give(quotients)

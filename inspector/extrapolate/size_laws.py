"""How the size of a block depends on the step of a generation, from the sizes that two stretches of steps have shown.

A step makes the same blocks as an earlier one, some of them larger. A law is one of three: a constant; a number of
bytes more with each token; and what flash attention takes for the parts that it cuts its keys into, which goes up and
down and follows from its formula alone. A law that does not explain every size that was seen is none, and neither is
one of several that differ in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inspector.hardware.flash_splits import count_flash_splits
from inspector.hardware.platform import Platform

__all__ = ["FlashCall", "Keys", "SizeTable", "find_sizes"]

# Any two sizes lie on a line.
_FEWEST = 3
_FLOAT_BYTES = 4

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeTable:
    """The sizes of the blocks of one step, a row for each step that was traced; `steps` are their numbers."""

    steps: Numbers
    sizes: Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashCall:
    """A call of flash attention in a step: the columns of its output, of its row sums, and of what it takes beside.

    `parts` are the two columns of what its parts add up in, None where it cuts nothing.
    """

    output: int
    sums: int
    parts: tuple[int, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What attention has to do with in a generation: step `n` has `prompt_len` + n - 1 tokens.

    `group_sizes` are the numbers of query heads that may share a head of keys.
    """

    platform: Platform
    prompt_len: int
    group_sizes: Sequence[int]


def find_sizes(traced: SizeTable, wanted: Numbers, calls: Sequence[FlashCall], keys: Keys) -> Numbers | None:
    """Return the sizes of the blocks of the `wanted` steps, a row each, None where no law explains what was traced.

    `calls` are the calls of flash attention among the blocks.
    """
    found: Numbers = np.empty((len(wanted), traced.sizes.shape[1]), dtype=np.int64)
    for call in calls:
        parts = _find_parts(traced, wanted, call, keys)
        if parts is None:
            return None
        if call.parts is not None:
            found[:, call.parts] = parts
    by_formula = {column for call in calls for column in call.parts or ()}
    known: dict[bytes, Numbers | None] = {}
    for column in range(traced.sizes.shape[1]):
        if column in by_formula:
            continue
        sizes = np.ascontiguousarray(traced.sizes[:, column])
        key = sizes.tobytes()
        if key not in known:
            known[key] = _extend(traced.steps, sizes, wanted)
        extended = known[key]
        if extended is None:
            return None
        found[:, column] = extended
    return found


def _extend(steps: Numbers, sizes: Numbers, wanted: Numbers) -> Numbers | None:
    """Return a size that is constant or grows by as much with every token, None where it does otherwise."""
    if (sizes == sizes[0]).all():
        return np.full(len(wanted), sizes[0], dtype=np.int64)
    gained, passed = int(sizes[-1] - sizes[0]), int(steps[-1] - steps[0])
    if len(steps) < _FEWEST or ((steps - steps[0]) * gained != (sizes - sizes[0]) * passed).any():
        return None
    return np.asarray(sizes[0] + (wanted - steps[0]) * gained // passed, dtype=np.int64)


def _find_parts(traced: SizeTable, wanted: Numbers, call: FlashCall, keys: Keys) -> Numbers | None:
    """Return the sizes of what the parts of a call add up in, None where they are not known for sure.

    A query of one row with grouped heads runs as the rows of its groups (`mha_fwd`, seqlenq_ngroups_swapped). Without a
    cache all tokens so far are rows. Keys are all tokens so far, or as many at every step.
    """
    sums, output = (_extend(traced.steps, traced.sizes[:, column], wanted) for column in (call.sums, call.output))
    if sums is None or output is None:
        return None
    all_steps = np.concatenate([traced.steps, wanted])
    all_sums = np.concatenate([traced.sizes[:, call.sums], sums])
    size = int(traced.sizes[0, call.output]) * _FLOAT_BYTES // (2 * int(traced.sizes[0, call.sums]))
    if call.parts is None:
        seen = np.ones(len(traced.steps), dtype=np.int64)
    else:
        seen = traced.sizes[:, call.parts[0]] // traced.sizes[:, call.sums]
    tokens = keys.prompt_len + all_steps - 1
    shapes: list[tuple[Numbers, Numbers]] = []  # heads and rows of each step
    heads = all_sums // _FLOAT_BYTES
    if (heads == heads[0]).all():
        shapes += [(heads // rows, np.full_like(heads, rows)) for rows in keys.group_sizes if not heads[0] % rows]
    elif not (heads % tokens).any():
        shapes.append((heads // tokens, tokens))
    candidates = []
    if (seen == seen[0]).all():
        candidates.append(np.full(len(wanted), seen[0], dtype=np.int64))
    for own_heads, rows in shapes:
        splits = np.array(
            [
                count_flash_splits(keys.platform, int(count), int(row), int(token), size)
                for count, row, token in zip(own_heads, rows, tokens, strict=True)
            ]
        )
        if (splits[: len(seen)] == seen).all():
            candidates.append(splits[len(seen) :])
    if not candidates or any((candidate != candidates[0]).any() for candidate in candidates):
        return None
    if call.parts is None:
        return np.empty((len(wanted), 0), dtype=np.int64)
    if (candidates[0] <= 1).any():
        return None
    padded = int(traced.sizes[0, call.parts[1]]) // int(traced.sizes[0, call.parts[0]])
    first = candidates[0] * sums
    return np.stack([first, first * padded], axis=1)

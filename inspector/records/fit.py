"""Whether a step fits: verdicts, advice, searches and plans."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inspector.checks import Choice

__all__ = [
    "QUANTITIES",
    "Advice",
    "Method",
    "Plan",
    "PlanRow",
    "Purpose",
    "Quantity",
    "Search",
    "Tried",
    "Verdict",
]


class Quantity(Choice):
    """What a search can turn up until the GPU is full.

    BATCH_SIZE: the sequences of a micro-batch. SEQ_LEN: the tokens of a sequence. RANK: the rank r of the adapter.
    """

    BATCH_SIZE = "batch-size"
    SEQ_LEN = "seq-len"
    RANK = "rank"


QUANTITIES = Quantity.values()


class Purpose(str, enum.Enum):
    """What a piece of advice is for.

    FIT: to make a step fit that does not. TURN_UP: to use the room that a step leaves, which still fits with it.
    """

    FIT = "fit"
    TURN_UP = "turn-up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """A change of the recipe with which the step fits, as options of the command, and what it then takes.

    `total_bytes` is what nvidia-smi would show at the peak.
    """

    purpose: Purpose
    change: str
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether the traced step runs on a GPU.

    `usable_bytes` is what the allocator can reserve: the memory less `overhead_bytes` and less what the driver keeps.
    Where the step fits, `headroom_bytes` is what stays unreserved of it; where it does not, a negative number: at least
    so many bytes are missing. `assumptions` are sentences on what was not measured on this very GPU. `advice` are
    changes with which it fits, those that change training least first, or with which it still fits: None where none
    were looked for, empty where none that was tried fits.
    """

    gpu: str
    memory_bytes: int
    overhead_bytes: int
    usable_bytes: int
    fits: bool
    headroom_bytes: int
    assumptions: Sequence[str] = ()
    advice: Sequence[Advice] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A value that was traced; `total_bytes` is what nvidia-smi would show at the peak."""

    value: int
    fits: bool
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """The largest value of a quantity that fits a GPU.

    `value` is None where the smallest value does not fit. `fails` is the smallest value above it that does not: the
    next one, where the search was not cut short, and None where the whole range up to `most` fits. `tried` are the
    traced values in ascending order, `traces` how many.
    """

    quantity: str
    gpu: str
    value: int | None
    fails: int | None
    most: int
    traces: int
    tried: Sequence[Tried]


class Method(str, enum.Enum):
    """What is trained.

    FULL: every weight. ADAPTER: an adapter on weights in float. QUANTIZED_ADAPTER: an adapter on packed weights.
    """

    FULL = "full"
    ADAPTER = "adapter"
    QUANTIZED_ADAPTER = "quantized-adapter"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    """One candidate of a plan, traced and judged (in the JSON a row).

    `options` are those that the command needs for it, beside the ones that the whole plan was made with; `levers` says
    the same in a few words without what all candidates of the method have. `largest_batch_size` and
    `largest_seq_len` are the largest values that fit with all else as it is, 0 where none does, None where none was
    searched. `refused` says why the step could not be traced; all figures are then None.
    """

    method: Method
    options: str
    levers: Sequence[str]
    fits: bool | None = None
    peak_allocated_bytes: int | None = None
    total_bytes: int | None = None
    headroom_bytes: int | None = None
    largest_batch_size: int | None = None
    largest_seq_len: int | None = None
    refused: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Candidates for training one model on one GPU. `recipe` says in words what all have in common.

    `adapter` is PEFT's name of the method of all adapters, `quantities` what was searched for each candidate.
    `warnings` are sentences. Within a method, candidates that change training least come first.
    """

    versions: Mapping[str, str]
    model: str
    gpu: str
    memory_bytes: int
    usable_bytes: int
    recipe: str
    adapter: str
    quantities: Sequence[str] = ()
    rows: Sequence[PlanRow]
    warnings: Sequence[str] = ()

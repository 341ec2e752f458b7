"""Whether a step fits: verdicts, advice, searches and plans."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inspector.checks import Choice
from inspector.records.steps.ranks import Ranks
from inspector.records.tape import Category, Phase
from inspector.records.training_file import RequestSource

__all__ = [
    "QUANTITIES",
    "VARIED_BY_A_PLAN",
    "Advice",
    "CardCount",
    "Cards",
    "Fit",
    "Floor",
    "Lowered",
    "Method",
    "Plan",
    "PlanRow",
    "Purpose",
    "Quantity",
    "Scaling",
    "Search",
    "Tried",
    "Uncertainty",
    "Verdict",
    "find_recommended",
]


class Quantity(Choice):
    """What a search can turn up until the GPU is full.

    BATCH_SIZE: the sequences of a micro-batch. SEQ_LEN: the tokens of a sequence. RANK: the rank r of the adapter.
    PROMPT_LEN and NEW_TOKENS: the tokens of a generation. GPUS: the cards that a run is sharded over, of which the
    least number is searched.
    """

    BATCH_SIZE = "batch-size"
    SEQ_LEN = "seq-len"
    RANK = "rank"
    PROMPT_LEN = "prompt-len"
    NEW_TOKENS = "new-tokens"
    GPUS = "gpus"


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

    `in_file` is the same as fields of the training file that the request was read from, None where it was from none or
    has no such fields. `total_bytes` is what nvidia-smi would show at the peak, `is_tight` whether less than the margin
    stays free. `but` says in a few words what else the change makes of the training, None where it is nothing else.
    """

    purpose: Purpose
    change: str
    in_file: Mapping[str, Any] | None = None
    total_bytes: int
    is_tight: bool = False
    but: str | None = None


class Fit(str, enum.Enum):
    """Whether a run fits a GPU.

    YES: it runs, and leaves at least what is not known of the card.
    TIGHT: it runs if the card is as the verdict takes it to be; what is left is less than what is not known.
    NO: it does not run. UNKNOWN: nothing says so, because the run could not be traced.
    """

    YES = "yes"
    TIGHT = "tight"
    NO = "no"
    UNKNOWN = "not known"


def find_recommended(outcomes: Iterable[Fit | None]) -> int | None:
    """Return which of the recipes is recommended whose outcomes these are, the least harmful recipe first.

    The first that fits for sure, where none does the first that fits tightly, None where none fits. No outcome is asked
    for behind one that fits for sure.
    """
    tight = None
    for index, outcome in enumerate(outcomes):
        if outcome is Fit.YES:
            return index
        if outcome is Fit.TIGHT and tight is None:
            tight = index
    return tight


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertainty:
    """Memory of a card that a run may not find: what takes it, at most how many bytes, and where the figure is from."""

    what: str
    bytes: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cards:
    """Several cards of a kind for one run: what they have to hold at least.

    `state_bytes` are weights, gradients, optimizer state and buffers of the whole run. `sharding` is what is kept of
    them sharded, None where nothing was said: then as FSDP does. `least_count` is the least number of cards that hold
    their shares, before any activation; None where no number does. `ranks` says which rank the verdict is on, None
    where none was traced and one card alone was judged, as if it ran the whole step. `fewest_count` is the least number
    of cards that the run fits on, each number traced; None where none was looked for, or none found.
    """

    count: int
    sharding: str | None = None
    state_bytes: int
    least_count: int | None = None
    ranks: Ranks | None = None
    fewest_count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether the traced step runs on a GPU.

    `usable_bytes` is what the allocator can reserve: the memory less `overhead_bytes`, less what the driver keeps, less
    the `margin_bytes` that were asked for. Where the step fits, `headroom_bytes` is what stays unreserved of it; where
    it does not, a negative number: at least so many bytes are missing. `lies_in_pieces` is true, else None, where
    what is allocated at the peak would fit, and no free stretch is long enough. `uncertainty` is what may be missing of
    the usable bytes, nothing where a margin was asked for, and `uncertain_bytes` its sum. `fits` is true where
    `outcome` is YES or TIGHT, and None, as the headroom, where it is UNKNOWN; `reason` then says why. `cards` says what
    several cards have to hold, where the run was asked for on more than one. `assumptions` are sentences on what was
    not measured on this very GPU. `advice` are changes with which it fits, those that change training least first, or
    with which it still fits: None where none were looked for, empty where none that was tried fits.
    """

    gpu: str
    memory_bytes: int
    overhead_bytes: int
    usable_bytes: int
    outcome: Fit
    headroom_bytes: int | None = None
    lies_in_pieces: bool | None = None
    margin_bytes: int | None = None
    uncertainty: Sequence[Uncertainty] = ()
    reason: str | None = None
    cards: Cards | None = None
    assumptions: Sequence[str] = ()
    advice: Sequence[Advice] | None = None

    @property
    def fits(self) -> bool | None:
        """Tell whether the step runs on the card as far as that is known, None where nothing says so."""
        return None if self.outcome is Fit.UNKNOWN else self.outcome is not Fit.NO

    @property
    def uncertain_bytes(self) -> int:
        """Return what may be missing of the usable bytes."""
        return sum(item.bytes for item in self.uncertainty)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A value that was traced; `total_bytes` is what nvidia-smi would show at the peak.

    `fits` tells whether it fits for sure: what is not known of the card, or the margin that was asked for, stays free.
    `is_tight` is true, else None, where one does not that runs if the card is as it is taken to be.
    """

    value: int
    fits: bool
    total_bytes: int
    is_tight: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """The largest value of a quantity that fits a GPU for sure, `margin_bytes` of its memory left free.

    `value` is None where the smallest value does not fit. `fails` is the smallest value above it that does not: the
    next one, where the search was not cut short, and None where the whole range up to `most` fits. Of cards `value` is
    the least number, and `fails` the largest below it that does not fit. `tried` are the
    traced values in ascending order, `traces` how many. `in_file` is the value as
    fields of the training file.
    """

    quantity: str
    gpu: str
    value: int | None
    fails: int | None
    most: int
    margin_bytes: int
    traces: int
    tried: Sequence[Tried]
    in_file: Mapping[str, Any] | None = None

    @property
    def fails_tightly(self) -> bool:
        """Tell whether `fails` runs where the card is as it is taken to be, as its own verdict says."""
        return any(tried.value == self.fails and tried.is_tight for tried in self.tried)


class Method(str, enum.Enum):
    """What is trained, or how what generates is loaded.

    FULL: every weight. ADAPTER: an adapter on weights in float. QUANTIZED_ADAPTER: an adapter on packed weights.
    GENERATE: nothing trains, weights in float. QUANTIZED_GENERATE: nothing trains, packed weights.
    """

    FULL = "full"
    ADAPTER = "adapter"
    QUANTIZED_ADAPTER = "quantized-adapter"
    GENERATE = "generate"
    QUANTIZED_GENERATE = "quantized-generate"


# The fields of a recipe that the candidates of a plan differ in: what a plan is made from has their defaults.
VARIED_BY_A_PLAN = (
    *("optimizer", "optim_args", "gradient_checkpointing", "use_reentrant"),
    *("checkpoint_every", "checkpoint_keeps", "offload"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardCount:
    """A number of cards that a candidate was traced on: what the rank takes that takes most, and whether it fits."""

    count: int
    outcome: Fit
    peak_allocated_bytes: int
    total_bytes: int
    headroom_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowered:
    """A change, as options of the command, that takes something off what each card holds, and the peak with it."""

    change: str
    peak_allocated_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What each card allocates at the peak that no further card takes off, in `phase`: its parts, the largest first.

    `lowered_by` are changes that do, each traced alone on the largest number of cards that was asked for.
    """

    bytes: int
    parts: Mapping[Category, int]
    phase: Phase
    lowered_by: Sequence[Lowered] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """How a candidate of a plan of several cards takes less with more of them.

    `strategy` is how it is spread. `least` is the least number of cards on which it fits for sure, None where it does
    on none; one card less was traced too, unless it is fewer than the plan is about. `counts` are all numbers that were
    traced, in ascending order. `floor` is None where no shares are kept.
    """

    strategy: str
    least: int | None
    counts: Sequence[CardCount]
    floor: Floor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    """One candidate of a plan, traced and judged (in the JSON a row).

    `options` are those that the command needs for it, beside the ones that the whole plan was made with; `levers` says
    the same in a few words without what all candidates of the method have. `in_file` is the same as fields of the
    training file that the request was read from, None where it was from none or has no such fields.
    `largest_batch_size`, `largest_seq_len` and, of a generation, `largest_prompt_len` are the largest values that fit
    for sure with all else as it is, 0 where none does, None where none was searched. `refused` says why the step could
    not be traced; all figures are then None. In a plan of several cards the figures are
    those on the least number that fits, on the most where none does, and `scaling` has the others.
    """

    method: Method
    options: str
    levers: Sequence[str]
    in_file: Mapping[str, Any] | None = None
    outcome: Fit | None = None
    peak_allocated_bytes: int | None = None
    total_bytes: int | None = None
    headroom_bytes: int | None = None
    largest_batch_size: int | None = None
    largest_seq_len: int | None = None
    largest_prompt_len: int | None = None
    refused: str | None = None
    scaling: Scaling | None = None

    @property
    def fits(self) -> bool | None:
        """Tell whether the step runs on the card, None where it could not be traced."""
        return None if self.outcome is None else self.outcome is not Fit.NO


def _count_least(row: PlanRow) -> int:
    """Return the least number of cards that a candidate fits on."""
    least = None if row.scaling is None else row.scaling.least
    assert least is not None, "one that fits was asked for"
    return least


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Candidates for training one model on one GPU, or for generating. `recipe` says in words what all have in common.

    `adapter` is PEFT's name of the method of all adapters, None where there is none, `quantities` what was searched for
    each candidate. `margin_bytes` of the usable ones stay free where a candidate fits for sure. `warnings` are
    sentences. Within a method, candidates that change training least come first. `gpu_counts` are the least and the
    most cards that a plan of several is about, None for one card. `source` is what the request was read from, as in a
    report.
    """

    versions: Mapping[str, str]
    model: str
    gpu: str
    memory_bytes: int
    usable_bytes: int
    margin_bytes: int
    recipe: str
    adapter: str | None
    quantities: Sequence[str] = ()
    rows: Sequence[PlanRow]
    warnings: Sequence[str] = ()
    gpu_counts: tuple[int, int] | None = None
    source: RequestSource | None = None

    def recommend(self, method: Method) -> PlanRow | None:
        """Return the recommended candidate of a method, None where none of them fits: of several cards the fewest."""
        rows = [row for row in self.rows if row.method is method]
        if self.gpu_counts is not None:
            fitting = [row for row in rows if row.scaling is not None and row.scaling.least is not None]
            return min(fitting, key=lambda row: _count_least(row), default=None)
        index = find_recommended(row.outcome for row in rows)
        return None if index is None else rows[index]

"""What a model says of a run: its trace, what a report tells beside bytes, and what long generations follow from."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from inspector.records.memory import BatchInput, BlockShape, RowMedia, Unaccounted
from inspector.records.notice import Notice
from inspector.records.recipe import Recipe
from inspector.records.tape import Event

__all__ = ["Lengths", "Outline", "RunFacts", "Traced"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a report says of a run beside its bytes.

    `inputs` are the tensors of one batch, `shape` what rules of thumb know of the model, `not_accounted` what a real
    run may take and the trace does not count, `notices` what the user should know.
    """

    inputs: tuple[BatchInput, ...]
    shape: BlockShape | None
    not_accounted: tuple[Unaccounted, ...]
    notices: tuple[Notice, ...]
    media: RowMedia | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """A trace: the recipe as it ran, what happened, and the names of trained parameters that got no gradient.

    `assumed` has the codes of what was assumed of floating-point numbers that something read (`assumptions`),
    `scan_lengths` how many passes the loops of scans have, where these made fewer.
    """

    recipe: Recipe
    tape: Sequence[Event]
    idle: AbstractSet[str]
    assumed: AbstractSet[str] = frozenset()
    scan_lengths: AbstractSet[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What a prediction says before anybody looks at its events.

    `requests` is equal for runs that make the same requests, `traced_events` how many events were traced for it, on a
    model of `added_periods` periods of layers more than the shallowest one, the whole one where that is None. `idle`
    are the names of trained parameters that got no gradient there, `assumed` as in `Traced`. `resized_from` are the
    sizes of the batch of the run that was traced to its end, of which this one may be another size.
    """

    recipe: Recipe
    requests: str
    traced_events: int
    added_periods: int | None
    idle: AbstractSet[str]
    assumed: AbstractSet[str] = frozenset()
    resized_from: tuple[int, int | None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """What of a model decides how a generation of some lengths goes on.

    `crosses_border` says that a step on the way does what those around it do not, `group_sizes` how many query heads
    may share a head of keys.
    """

    is_encoder_decoder: bool
    crosses_border: bool
    group_sizes: tuple[int, ...]

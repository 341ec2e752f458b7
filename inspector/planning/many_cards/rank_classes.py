"""Which ranks of a run differ, each kind of them traced once, and which takes most.

FSDP2 cuts each parameter by rows: of n rows over W ranks the first ones hold ceil(n / W), one holds what is left, and
the last ones none. Ranks that hold as many rows of every parameter run the same; they are neighbours, since no later
rank holds more. All others have equal shares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib.metadata import version

from inspector.errors import InspectorError, NotTraceableError
from inspector.planning.cards import count_shards, find_ranks
from inspector.predict.predictor import Predictor
from inspector.records.steps.ranks import DeviceMap, Fsdp2, Launch, RankClass, Ranks
from inspector.resolve import ResolvedRun

__all__ = ["describe_rank_classes", "find_largest_rank", "list_rank_classes"]

# Rows of many lengths make many classes; the first ones hold most.
_MOST_TRACED = 6


def list_rank_classes(launch: Launch, rows: Sequence[int]) -> list[range]:
    """Return the ranks that differ, those that are alike together; `rows` are the first dimensions of parameters.

    Where shards are kept in several copies, ranks are those of the first.
    """
    size = count_shards(launch)
    if isinstance(launch, DeviceMap):
        return [range(card, card + 1) for card in range(size)]
    if not isinstance(launch, Fsdp2):
        return [range(size)]
    # The rank that sends the weights gives back each before it takes the next one, and the others afterwards.
    starts = {0, 1} if launch.cpu_ram_efficient_loading and not launch.offload else {0}
    for count in set(rows):
        of_rank = -(-count // size)
        whole, rest = divmod(count, of_rank)
        starts |= {whole, whole + bool(rest)}
    borders = sorted(start for start in starts if start < size)
    return [range(first, after) for first, after in zip(borders, [*borders[1:], size], strict=True)]


def find_largest_rank(run: ResolvedRun, predictor: Predictor) -> ResolvedRun:
    """Return the run as the rank that takes most, of those that differ; as it is where they are not traced."""
    classes = _trace_classes(run, predictor)
    return run.with_rank(classes[0].first) if classes else run


def describe_rank_classes(run: ResolvedRun, predictor: Predictor) -> Ranks | None:
    """Return which rank of a run is predicted with all that differ from it, None where one card has the whole run."""
    ranks = _describe_map(run.launch) if isinstance(run.launch, DeviceMap) else find_ranks(run, predictor)
    if ranks is None:
        return None
    classes = _trace_classes(run, predictor)
    of_one = next((item.last - item.first + 1 for item in classes if item.first == run.rank), None)
    alike = ranks.alike if of_one is None else of_one * (ranks.copies or 1)
    return dataclasses.replace(ranks, rank=run.rank, alike=alike, classes=tuple(classes))


def _describe_map(launch: DeviceMap) -> Ranks:
    """Return how the modules of a run are put on its cards."""
    how = launch.device_map if isinstance(launch.device_map, str) else "of its own"
    strategy = f"device_map {how}, by transformers {version('transformers')}"
    return Ranks(strategy=strategy, world_size=launch.world_size, rank=0, alike=1)


def _trace_classes(run: ResolvedRun, predictor: Predictor) -> list[RankClass]:
    """Return the ranks that differ, those that take most first; nothing where all are alike or none is traced."""
    if run.launch is None:
        return []
    found = list_rank_classes(run.launch, predictor.list_row_counts(run))
    if len(found) == 1:
        return []
    traced = []
    for ranks in found if isinstance(run.launch, DeviceMap) else found[:_MOST_TRACED]:
        try:
            prediction = predictor.predict(run.with_rank(ranks[0]))
        except (NotTraceableError, InspectorError):  # the run itself says why
            return []
        replay = prediction.replays.under(prediction.limit_bytes)
        traced.append(
            RankClass(
                first=ranks[0],
                last=ranks[-1],
                peak_allocated_bytes=replay.peak_allocated_bytes,
                peak_reserved_bytes=replay.peak_reserved_bytes,
                total_bytes=prediction.total_bytes,
            )
        )
    return sorted(traced, key=lambda item: (-item.total_bytes, -item.peak_allocated_bytes, item.first))

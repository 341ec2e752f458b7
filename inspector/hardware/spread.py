"""Which numbers of cards one run can be spread over, as a request says what they share."""

from __future__ import annotations

from inspector.errors import UsageError
from inspector.hardware.card_counts import MOST_PLANNED
from inspector.records.fit import Quantity
from inspector.records.request import Request, Sharding

__all__ = ["MOST_RANKS", "refuse_spread"]

# Where ranks differ by their shards: a step of more is made of as many pieces for each parameter.
MOST_RANKS = MOST_PLANNED


def refuse_spread(request: Request, cards: int, *, trains: bool) -> None:
    """Raise UsageError for cards that a request cannot be spread over."""
    if request.tensor_parallel is not None:
        _refuse_uneven_groups(request, request.tensor_parallel, cards)
    if request.expert_parallel is not None:
        _refuse_uneven_experts(request, request.expert_parallel, cards)
    if request.nodes is not None and request.nodes > 1:
        _refuse_nodes(request, request.nodes, cards)
    shares = request.sharding or request.tensor_parallel or request.expert_parallel
    if cards > MOST_RANKS and shares and trains and request.serving is None:
        raise UsageError(
            f"what a rank takes of a step that {cards:,} cards share is not traced, {MOST_RANKS:,} are the most: give "
            f"`gpu_count` {MOST_RANKS}, whose ranks have hardly more than the floor that no further card lowers."
        )


def _refuse_uneven_groups(request: Request, count: int, cards: int) -> None:
    """Raise UsageError for cards that layers cannot be cut over in groups."""
    if cards % count:
        raise UsageError(
            f"`tensor_parallel` {count:,} does not divide the number of cards, {cards:,}: give `gpu_count` {count}, "
            "or a multiple of it."
        )
    if cards > count and request.sharding != Sharding.FSDP:
        raise UsageError(
            f"`tensor_parallel` {count:,} leaves {cards // count:,} groups of cards: add `sharding=fsdp`, which shards "
            f"over them, or give `gpu_count` {count}."
        )


def _refuse_uneven_experts(request: Request, experts: int, cards: int) -> None:
    """Raise UsageError for cards that experts cannot be spread over, as DistributedConfig does."""
    if cards % experts:
        raise UsageError(
            f"`expert_parallel` {experts:,} does not divide the number of cards, {cards:,}: give `gpu_count` "
            f"{experts:,}, or a multiple of it."
        )
    if experts % (request.tensor_parallel or 1):
        raise UsageError(
            f"`expert_parallel` {experts:,} is no multiple of `tensor_parallel` {request.tensor_parallel:,}, and "
            "transformers stops there: make it one."
        )
    if cards > (request.tensor_parallel or 1) and request.sharding != Sharding.FSDP:
        raise UsageError(
            f"`expert_parallel` {experts:,} spreads experts alone, and nothing says what {cards:,} cards do with the "
            f"rest: add `sharding=fsdp`, which shards it, or `tensor_parallel` {cards:,}, which cuts it."
        )


def _refuse_nodes(request: Request, nodes: int, cards: int) -> None:
    """Raise UsageError for machines that are not as many copies of a run's shards."""
    if request.sharding not in (Sharding.FSDP, Sharding.FSDP1) or request.tensor_parallel or request.expert_parallel:
        raise UsageError(
            "`nodes` says over which cards FSDP shards and where copies of the shards are: add `sharding=fsdp` "
            "alone, or drop it; under anything else each card takes the same on any number of machines."
        )
    if request.fit == Quantity.GPUS:
        raise UsageError(
            "`fit` gpus finds the cards of one machine, and each of `nodes` needs as many: drop `nodes`, or `fit`."
        )
    if cards % nodes or cards <= nodes:
        raise UsageError(
            f"`nodes` {nodes:,} do not share {cards:,} cards so that each has as many, and two at least: give "
            f"`gpu_count` {2 * nodes:,}, or another multiple of {nodes:,}."
        )

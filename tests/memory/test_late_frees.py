"""Blocks whose end depends on time, at the latest: what another stream uses, FSDP1's units, DDP's first buckets."""

from __future__ import annotations

import itertools

from inspector.memory.late_frees import USED_ELSEWHERE, free_late
from inspector.records.tape import Category, Event, EventKind, Phase

A, F = EventKind.ALLOCATE, EventKind.FREE


def list_order(tape: list[Event]) -> list[tuple[EventKind, int]]:
    """Return which blocks are made and end, in order."""
    return [(event.kind, event.block) for event in free_late(tape) or ()]


def test_a_block_that_another_stream_used_ends_with_the_micro_batch_at_the_latest() -> None:
    tape = [
        Event(A, 0, Phase.BACKWARD, 512, step=1),
        Event(F, 0, Phase.BACKWARD, 512, step=1, op=USED_ELSEWHERE),
        Event(A, 1, Phase.BACKWARD, 512, step=1),
        Event(F, 1, Phase.BACKWARD, 512, step=1),
        Event(A, 2, Phase.OPTIMIZER, 512, step=1),
    ]
    assert list_order(tape) == [(A, 0), (A, 1), (F, 1), (F, 0), (A, 2)]


def test_a_tape_in_which_nothing_depends_on_time_has_no_other_order() -> None:
    tape = [Event(A, 0, Phase.LOAD, 512, Category.COMMUNICATION), Event(A, 1, Phase.FORWARD, 512, step=1)]
    assert free_late([*tape, Event(F, 1, Phase.FORWARD, 512, step=1)]) is None


def test_fsdp1_waits_for_a_unit_before_it_gathers_the_next_but_one() -> None:
    units = itertools.chain.from_iterable(
        (
            Event(A, unit, Phase.FORWARD, 512, Category.GATHERED, 1),
            Event(F, unit, Phase.FORWARD, 512, Category.GATHERED, 1, op=USED_ELSEWHERE),
        )
        for unit in range(6)
    )
    order = list_order(list(units))
    assert order[:6] == [(A, 0), (A, 1), (A, 2), (A, 3), (F, 0), (A, 4)]
    assert order[-4:] == [(F, 2), (F, 3), (F, 4), (F, 5)]


def test_the_first_buckets_of_ddp_live_until_the_second_update_at_the_latest() -> None:
    tape = [
        Event(A, 0, Phase.LOAD, 512, Category.COMMUNICATION),
        Event(F, 0, Phase.FORWARD, 512, Category.COMMUNICATION, 2),
        Event(A, 1, Phase.FORWARD, 512, Category.COMMUNICATION, 2),
        Event(A, 2, Phase.BACKWARD, 512, Category.GRADIENTS, 2),
        Event(A, 3, Phase.OPTIMIZER, 512, Category.OPTIMIZER, 2),
    ]
    assert list_order(tape) == [(A, 0), (A, 1), (A, 2), (F, 0), (A, 3)]

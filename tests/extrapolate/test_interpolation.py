"""The sizes of tapes that were not traced, from hand-written ones."""

from __future__ import annotations

from inspector.extrapolate import SizeInterpolator, TapeTemplate
from tests.memory.tapes import Tape


def tape_of(batch_size: int) -> Tape:
    """Return weights that stay, activations of 40 bytes a sequence, and scores of 3 bytes a pair of sequences."""
    return (
        Tape().allocate(0, 1_000).allocate(1, 40 * batch_size + 8).allocate(2, 3 * batch_size * batch_size).free(1, 2)
    )


def add(tapes: SizeInterpolator, value: int, tape: Tape) -> None:
    """Keep the sizes of a tape."""
    template = TapeTemplate(tape.events, None)
    tapes.add(value, template, template.sizes)


def sizes(tapes: SizeInterpolator, value: int) -> list[int] | None:
    """Return the sizes that are estimated."""
    estimate = tapes.estimate(value)
    return None if estimate is None else estimate[1].tolist()


def test_two_tapes_give_straight_lines_and_three_parabolas() -> None:
    """Through 2 and 4: 3 x 4 and 3 x 16 on a line of slope 18 give 12 + 6 x 18 = 120 at 8; with 6, it is 3 x 64."""
    tapes = SizeInterpolator()
    add(tapes, 2, tape_of(2))
    assert sizes(tapes, 8) is None
    add(tapes, 4, tape_of(4))
    assert sizes(tapes, 8) == [1_000, 328, 120, 0, 0]
    add(tapes, 6, tape_of(6))
    assert sizes(tapes, 8) == [1_000, 328, 192, 0, 0]
    assert sizes(tapes, 1_000) == [1_000, 40_008, 3_000_000, 0, 0]


def test_tapes_of_other_operations_are_left_out() -> None:
    """One sequence has no mask: its tape says nothing of two and more."""
    tapes = SizeInterpolator()
    add(tapes, 1, Tape().allocate(0, 1_000).allocate(1, 48))
    add(tapes, 2, tape_of(2))
    assert sizes(tapes, 3) is None
    add(tapes, 4, tape_of(4))
    assert sizes(tapes, 3) == [1_000, 128, 30, 0, 0]  # the line through 12 and 48


def test_tapes_have_one_shape_only_where_they_make_and_free_the_same_blocks() -> None:
    """Sizes do not count; another block that is freed, or a cache that is emptied instead, does.

    Blocks -1 and -2 have one hash in Python.
    """
    tapes = [
        Tape().allocate(0, 8).allocate(1, 8).free(0),
        Tape().allocate(0, 16).allocate(1, 4).free(0),
        Tape().allocate(0, 8).allocate(1, 8).free(1),
        Tape().allocate(0, 8).allocate(1, 8).empty_cache(),
    ]
    events = [tape.events for tape in tapes]
    events.append([event._replace(block=-2) if event.block < 0 else event for event in events[-1]])
    shapes = [TapeTemplate(tape, None).shape for tape in events]
    assert shapes[0] == shapes[1]
    assert len(set(shapes)) == 4

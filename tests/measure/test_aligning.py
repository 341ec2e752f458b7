"""The allocator's history is held against the tape, and what differs is named."""

from __future__ import annotations

from inspector.measure.aligning import find_differences, list_sizes
from inspector.records.measurement import Difference
from inspector.records.tape import Event, EventKind, Phase
from tests.measure.measurements import measurement


def tape() -> list[Event]:
    """Return a tape of forty blocks of 1,000, 2,000, ... bytes, and of their frees in the same order."""
    made = [
        Event(
            kind=kind,
            block=block,
            bytes=1000 * (block + 1),
            phase=phase,
            step=1,
            module=f"layers.{block}",
            op=f"aten.op{block}" if kind is EventKind.ALLOCATE else "",
        )
        for kind, phase in ((EventKind.ALLOCATE, Phase.FORWARD), (EventKind.FREE, Phase.BACKWARD))
        for block in range(40)
    ]
    return [*made, Event(kind=EventKind.EMPTY_CACHE, block=-1, phase=Phase.BACKWARD, step=1)]


def test_equal_histories_have_no_difference() -> None:
    assert find_differences(list_sizes(tape())[0], tape()) == []


def test_an_allocation_that_the_tape_lacks_is_named_by_the_event_before_it() -> None:
    sizes = list_sizes(tape())[0]
    sizes[11:11] = [777, -777]
    (found,) = find_differences(sizes, tape())
    assert (found.module, found.op, found.phase) == ("layers.10", "aten.op10", Phase.FORWARD)
    assert (found.measured, found.predicted) == ((777, -777), ())


def test_an_allocation_that_was_not_made_is_named() -> None:
    sizes = list_sizes(tape())[0]
    del sizes[7]
    (found,) = find_differences(sizes, tape())
    assert (found.module, found.op) == ("layers.7", "aten.op7")
    assert (found.measured, found.predicted) == ((), (8000,))


def test_a_size_that_differs_is_named_once_for_its_allocation_and_once_for_its_free() -> None:
    sizes = [size if abs(size) != 5000 else (5120 if size > 0 else -5120) for size in list_sizes(tape())[0]]
    made, freed = find_differences(sizes, tape())
    assert (made.op, made.measured, made.predicted) == ("aten.op4", (5120,), (5000,))
    assert (freed.phase, freed.measured, freed.predicted) == (Phase.BACKWARD, (-5120,), (-5000,))


def test_histories_that_never_agree_again_have_one_difference_to_the_end() -> None:
    sizes = list_sizes(tape())[0][:70] + [3] * 10
    (found,) = find_differences(sizes, tape())
    assert found.measured == (3,) * 10
    assert len(found.predicted) == 10


def test_a_history_that_goes_on_differs_at_the_end() -> None:
    (found,) = find_differences([*list_sizes(tape())[0], 512], tape())
    assert found.measured == (512,)


def test_the_telling_difference_is_the_first_that_no_helper_kernel_makes() -> None:
    def at(op: str, *measured: int) -> Difference:
        return Difference(step=1, phase=Phase.FORWARD, module="", op=op, measured=measured, predicted=())

    small, freed, large = at("small", 512, -512), at("freed", -9999), at("large", 513)
    assert measurement(differing=[small, freed, large]).first_large is large
    assert measurement(differing=[small, freed]).first_large is small
    assert measurement(differing=[]).first_large is None

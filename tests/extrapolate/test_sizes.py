"""What happens in a step whatever the sizes, with hand-written tapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from inspector.extrapolate.layers import Deepening
from inspector.extrapolate.sizes import Course, sizes_of
from inspector.records.tape import Event, EventKind, Phase
from tests.memory.tapes import Tape


@dataclasses.dataclass
class Step:
    """Two updates of a model: what depends on the rows of the batch, and what does not."""

    rows: int

    def whole(self) -> list[Event]:
        """Return the tape of both."""
        tape = self._loaded()
        self._update(tape, 1, first_block=10)
        return self._update(tape, 2, first_block=30).events

    def passes(self) -> list[Event]:
        """Return the tape up to the optimizer's first step."""
        return [event for event in self.whole() if event.step < 2 and event.phase is not Phase.OPTIMIZER]

    def _loaded(self) -> Tape:
        tape = Tape().at(0, Phase.LOAD, "layer", "load").allocate(0, 1_000)
        return tape.at(0, Phase.LOAD, op="ne").allocate(1, 8 * self.rows)

    def _update(self, tape: Tape, step: int, *, first_block: int) -> Tape:
        a, b, gradient, norm, labels = range(first_block, first_block + 5)
        tape.at(step, Phase.FORWARD, "layer", "mm").allocate(a, 40 * self.rows)
        if step == 1:
            tape.at(step, Phase.FORWARD, "layer", "workspace").allocate(2, 4_096)
        tape.at(step, Phase.FORWARD, "layer", "mm").allocate(b, 60 * self.rows * self.rows)
        tape.at(step, Phase.BACKWARD, "layer", "mm").allocate(gradient, 1_000).free(b, a)
        tape.at(step, Phase.OPTIMIZER, op="norm").allocate(norm + 10, 4).free(gradient)
        return tape.at(step, Phase.OPTIMIZER, op="ne").allocate(labels + 10, 8 * self.rows)


def allocated(tape: Sequence[Event]) -> list[int]:
    """Return the sizes of the blocks of a tape in the order in which they are made."""
    return [event.bytes for event in tape if event.kind is EventKind.ALLOCATE]


def test_the_passes_of_one_update_give_the_sizes_of_both() -> None:
    """Five rows: 200 and 1,500 bytes in both, the workspace once, labels of 40 bytes after loading and each step."""
    course = Course(Step(rows=2).whole(), None)
    sizes = course.sizes_after(Step(rows=5).passes())
    assert sizes is not None
    assert sizes.tolist() == sizes_of(Step(rows=5).whole()).tolist()
    assert allocated(course.tape(sizes)) == [1_000, 40, 200, 4_096, 1_500, 1_000, 4, 40, 200, 1_500, 1_000, 4, 40]


def test_what_runs_another_way_is_no_step_of_this_course() -> None:
    """Another op, and a block more."""
    course = Course(Step(rows=2).whole(), None)
    passes = Step(rows=5).passes()
    assert course.sizes_after([passes[0]._replace(op="copy"), *passes[1:]]) is None
    assert course.sizes_after([*passes, passes[-1]]) is None


def test_a_later_update_without_its_like_in_the_first_is_not_foretold() -> None:
    """The second update makes what the first has not made."""
    tape = Tape().at(2, Phase.FORWARD, "layer", "cat").allocate(90, 8)
    assert Course([*Step(rows=2).whole(), *tape.events], None).sizes_after(Step(rows=5).passes()) is None


def test_a_course_is_deepened() -> None:
    """The second event comes twice more, 3 bytes larger; a free has the size of the block that it ends."""
    tape = Tape().at(0, Phase.LOAD).allocate(0, 600).allocate(1, 100).free(1).events
    deepening = Deepening(sources=(0, 1, 1, 1, 2), blocks=(0, 1, 2, 3, 2), added_bytes=(0, 0, 3, 3, 3))
    course = Course(tape, deepening)
    assert list(course.requests(course.sizes)) == [(0, 600), (1, 100), (2, 103), (3, 103), (2, 0)]
    assert [event.bytes for event in course.tape(course.sizes)] == [600, 100, 103, 103, 103]
    assert course.least_peak(course.sizes) == 1_024 + 3 * 512


def test_what_is_cached_may_be_given_back() -> None:
    """That changes nothing of what is allocated."""
    tape = Tape().at(0, Phase.LOAD).allocate(0, 512)
    course = Course(tape.empty_cache().free(0).allocate(1, 512).events, None)
    assert list(course.requests(course.sizes)) == [(0, 512), (-1, 0), (0, 0), (1, 512)]
    assert course.least_peak(course.sizes) == 512


@pytest.mark.parametrize("rows", [2, 50])
def test_passes_are_told_from_what_stays(rows: int) -> None:
    """In units of 512 bytes: both activations and the workspace, which stays; what else is held at the most."""
    course = Course(Step(rows).whole(), None)
    units = [-(-size // 512) * 512 for size in (40 * rows, 60 * rows * rows)]
    of_passes, others = course.peaks_of_passes(course.sizes)
    # Gradients of a hand-written tape have no category: they count as what a pass makes, one after the other.
    assert of_passes == sum(units) + 4_096 + 1_024
    assert others == 1_024 + 5 * 512

"""What happens in a step whatever the sizes, with hand-written tapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from inspector.extrapolate import LayerExtrapolation, TapeTemplate
from inspector.extrapolate.template import read_sizes
from inspector.records.tape import Category, Event, EventKind, Phase
from tests.memory.tapes import Tape


@dataclasses.dataclass
class Step:
    """Two updates of a model: what depends on the batch size, and what does not."""

    batch_size: int

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
        return tape.at(0, Phase.LOAD, op="ne").allocate(1, 8 * self.batch_size)

    def _update(self, tape: Tape, step: int, *, first_block: int) -> Tape:
        a, b, gradient, norm, labels = range(first_block, first_block + 5)
        tape.at(step, Phase.FORWARD, "layer", "mm").allocate(a, 40 * self.batch_size)
        if step == 1:
            tape.at(step, Phase.FORWARD, "layer", "workspace").allocate(2, 4_096)
        tape.at(step, Phase.FORWARD, "layer", "mm").allocate(b, 60 * self.batch_size * self.batch_size)
        tape.at(step, Phase.BACKWARD, "layer", "mm").allocate(gradient, 1_000).free(b, a)
        tape.at(step, Phase.OPTIMIZER, op="norm").allocate(norm + 10, 4).free(gradient)
        return tape.at(step, Phase.OPTIMIZER, op="ne").allocate(labels + 10, 8 * self.batch_size)


def allocated(tape: Sequence[Event]) -> list[int]:
    """Return the sizes of the blocks of a tape in the order in which they are made."""
    return [event.bytes for event in tape if event.kind is EventKind.ALLOCATE]


def test_the_passes_of_the_first_update_give_the_sizes_of_both_updates() -> None:
    """Five sequences: 200 and 1,500 bytes in both, the workspace once, labels of 40 bytes after loading and steps."""
    template = TapeTemplate(Step(batch_size=2).whole(), None)
    sizes = template.derive_sizes(Step(batch_size=5).passes())
    assert sizes is not None
    assert sizes.tolist() == read_sizes(Step(batch_size=5).whole()).tolist()
    assert allocated(template.make_tape(sizes)) == [
        1_000,
        40,
        200,
        4_096,
        1_500,
        1_000,
        4,
        40,
        200,
        1_500,
        1_000,
        4,
        40,
    ]


def updates_on_batches(batch_size: int, copies: int = 1) -> list[Event]:
    """Return two updates, the second on a batch that comes `copies` times before the first one goes."""
    tape = Tape().at(0, Phase.LOAD, op="load").allocate(0, 8 * batch_size, Category.INPUTS).allocate(9, 512)
    tape.at(0, Phase.LOAD, op="ne").allocate(1, batch_size, Category.INPUTS)
    tape.at(1, Phase.FORWARD, "layer", "mm").allocate(2, 40 * batch_size)
    tape.at(1, Phase.OPTIMIZER, op="aten.clone.default")
    for block in range(10, 10 + copies):
        tape.allocate(block, 8 * batch_size, Category.INPUTS)
    tape.at(1, Phase.OPTIMIZER, op="ne").allocate(3, batch_size).free(0)
    return tape.at(2, Phase.FORWARD, "layer", "mm").allocate(4, 40 * batch_size).events


def first_passes(tape: Sequence[Event]) -> list[Event]:
    """Return the events of a tape up to the optimizer's first step."""
    return [event for event in tape if event.step < 2 and event.phase is not Phase.OPTIMIZER]


def test_the_batch_of_a_later_update_has_the_size_of_the_first_ones() -> None:
    """It comes about otherwise, and another block lies between the first one and the labels that are counted."""
    large = updates_on_batches(500)
    sizes = TapeTemplate(updates_on_batches(2), None).derive_sizes(first_passes(large))
    assert sizes is not None
    assert sizes.tolist() == read_sizes(large).tolist()


def test_updates_with_another_number_of_batches_are_not_derived() -> None:
    template = TapeTemplate(updates_on_batches(2, copies=2), None)
    assert template.derive_sizes(first_passes(updates_on_batches(500, copies=2))) is None


def test_first_passes_that_run_other_operations_are_of_another_template() -> None:
    """Another op, and a block more."""
    template = TapeTemplate(Step(batch_size=2).whole(), None)
    passes = Step(batch_size=5).passes()
    assert template.derive_sizes([passes[0]._replace(op="copy"), *passes[1:]]) is None
    assert template.derive_sizes([*passes, passes[-1]]) is None


def test_a_later_update_without_matching_blocks_in_the_first_is_not_derived() -> None:
    """The second update makes what the first has not made."""
    tape = Tape().at(2, Phase.FORWARD, "layer", "cat").allocate(90, 8)
    assert (
        TapeTemplate([*Step(batch_size=2).whole(), *tape.events], None).derive_sizes(Step(batch_size=5).passes())
        is None
    )


def test_a_template_makes_the_tape_of_more_layers() -> None:
    """The second event comes twice more, 3 bytes larger; a free has the size of the block that it ends."""
    tape = Tape().at(0, Phase.LOAD).allocate(0, 600).allocate(1, 100).free(1).events
    extrapolation = LayerExtrapolation(
        layers=2,
        sources=(0, 1, 1, 1, 2),
        blocks=(0, 1, 2, 3, 2),
        added_bytes=(0, 0, 3, 3, 3),
        renaming=(0,) * 5,
        renamings=(None,),
        repetitions=(0, 0, 1, 2, 0),
    )
    template = TapeTemplate(tape, extrapolation)
    assert list(template.make_requests(template.sizes)) == [(0, 600), (1, 100), (2, 103), (3, 103), (2, 0)]
    assert [event.bytes for event in template.make_tape(template.sizes)] == [600, 100, 103, 103, 103]
    assert template.bound_peak(template.sizes) == 1_024 + 3 * 512


def test_emptying_the_cache_is_a_request_of_the_template() -> None:
    """That changes nothing of what is allocated."""
    tape = Tape().at(0, Phase.LOAD).allocate(0, 512)
    template = TapeTemplate(tape.empty_cache().free(0).allocate(1, 512).events, None)
    assert list(template.make_requests(template.sizes)) == [(0, 512), (-1, 0), (0, 0), (1, 512)]
    assert template.bound_peak(template.sizes) == 512


@pytest.mark.parametrize("batch_size", [2, 50])
def test_the_peak_is_split_into_what_passes_make_and_all_else(batch_size: int) -> None:
    """In units of 512 bytes: both activations and the workspace, which stays; what else is held at the most."""
    template = TapeTemplate(Step(batch_size).whole(), None)
    units = [-(-size // 512) * 512 for size in (40 * batch_size, 60 * batch_size * batch_size)]
    of_passes, others = template.split_peak(template.sizes)
    # Gradients of a hand-written tape have no category: they count as what a pass makes, one after the other.
    assert of_passes == sum(units) + 4_096 + 1_024
    assert others == 1_024 + 5 * 512

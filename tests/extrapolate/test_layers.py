"""The tape of more layers from two hand-written ones, with the arithmetic beside them."""

from __future__ import annotations

from inspector.extrapolate.layers import Deepening, Layers
from inspector.extrapolate.sizes import Course
from inspector.records.tape import Event, Phase
from tests.memory.tapes import Tape


def with_sizes(tape: Tape) -> list[Event]:
    """Return the events of a tape whose frees tell the size of their block, as the tracer's do."""
    sizes: dict[int, int] = {}
    return [event._replace(bytes=sizes.setdefault(event.block, event.bytes)) for event in tape.events]


def step(layers: int, rows: int = 1) -> list[Event]:
    """Return a step of some layers.

    Each layer has 100 bytes of weights and keeps 10 bytes a row, freed in reverse order; all layers together have one
    block of 4 bytes for each layer, as stacked norms are.
    """
    tape = Tape().at(0, Phase.LOAD, "embedding").allocate(0, 7)
    for layer in range(layers):
        tape.at(0, Phase.LOAD, f"layers.{layer}").allocate(1 + layer, 100)
    for layer in range(layers):
        tape.at(1, Phase.FORWARD, f"layers.{layer}", "mm").allocate(1 + layers + layer, 10 * rows)
    tape.at(1, Phase.BACKWARD)
    for layer in reversed(range(layers)):
        tape.free(1 + layers + layer)
    tape.at(1, Phase.OPTIMIZER, op="stack").allocate(1 + 2 * layers, 4 * layers)
    return with_sizes(tape)


def numberless(tape: list[Event] | None) -> list[Event] | None:
    """Return a tape without the numbers of layers in its paths, which are not foretold."""
    numbers = str.maketrans("", "", "0123456789")
    return tape and [event._replace(module=event.module.translate(numbers)) for event in tape]


def deepened(shallow: list[Event], deepening: Deepening) -> list[Event]:
    """Return the deep tape of a shallow one."""
    course = Course(shallow, deepening)
    return course.tape(course.sizes)


def foretold(layers: int, rows: int = 1) -> list[Event] | None:
    """Return the step of some layers as two and three of one row foretell it."""
    known = Layers()
    assert known.learn(step(2), step(3))
    deepening = known.deepening(step(2, rows), layers - 2)
    return None if deepening is None else deepened(step(2, rows), deepening)


def test_layers_are_added_where_they_were_seen_to_be() -> None:
    """Ten layers: 10 x 100 bytes, 10 blocks freed from the last one on, and 4 x 10 bytes in the stacked one."""
    tape = foretold(10)
    assert numberless(tape) == numberless(step(10))
    assert sum(event.bytes for event in step(10) if event.block <= 10) == 7 + 10 * 100
    assert step(10)[-1].bytes == 40


def test_what_was_learned_holds_for_other_sizes() -> None:
    """Five rows make blocks of 50 bytes."""
    assert numberless(foretold(7, rows=5)) == numberless(step(7, rows=5))


def test_a_list_that_ends_in_its_own_order_is_told_from_one_that_ends_in_reverse() -> None:
    """Temporaries of a foreach op: the first one made is the first one freed."""

    def temporaries(layers: int) -> list[Event]:
        tape = Tape()
        for layer in range(layers):
            tape.allocate(layer, 64)
        return with_sizes(tape.free(*range(layers)))

    known = Layers()
    assert known.learn(temporaries(2), temporaries(3))
    deepening = known.deepening(temporaries(2), 4)
    assert deepening is not None
    assert deepened(temporaries(2), deepening) == temporaries(6)


def test_tapes_that_do_not_go_together_teach_nothing() -> None:
    """A third layer of another size repeats none, sizes do not shrink, and a form that was not learned is not known."""
    third = Tape().at(0, Phase.LOAD, "layers.2").allocate(90, 101).events
    assert not Layers().learn(step(2), [*step(2)[:3], *third, *step(2)[3:]])
    assert not Layers().learn(step(2, rows=2), step(3, rows=1))
    assert Layers().deepening(step(2), 3) is None
    known = Layers()
    assert known.learn(step(2), step(3))
    assert known.deepening(step(4), 3) is None

"""The tape of more layers from two hand-written ones, with the arithmetic beside them."""

from __future__ import annotations

from inspector.extrapolate import LayerExtrapolation, LayerExtrapolator, TapeTemplate
from inspector.records.tape import Event, Phase
from tests.memory.tapes import Tape


def with_sizes(tape: Tape) -> list[Event]:
    """Return the events of a tape whose frees hold the size of their block, as the tracer's do."""
    sizes: dict[int, int] = {}
    return [event._replace(bytes=sizes.setdefault(event.block, event.bytes)) for event in tape.events]


def step(layers: int, batch_size: int = 1, first: int = 0) -> list[Event]:
    """Return a step of some layers, which are numbered from `first` on.

    Each layer has 100 bytes of weights and keeps 10 bytes a sequence, freed in reverse order while the layer is at
    work; all layers together have one block of 4 bytes for each layer, as stacked norms are.
    """
    tape = Tape().at(0, Phase.LOAD, "embedding").allocate(0, 7)
    for layer in range(layers):
        tape.at(0, Phase.LOAD, f"layers.{first + layer}").allocate(1 + layer, 100)
    for layer in range(layers):
        tape.at(1, Phase.FORWARD, f"layers.{first + layer}", "mm").allocate(1 + layers + layer, 10 * batch_size)
    for layer in reversed(range(layers)):
        tape.at(1, Phase.BACKWARD, f"layers.{first + layer}").free(1 + layers + layer)
    tape.at(1, Phase.OPTIMIZER, op="stack").allocate(1 + 2 * layers, 4 * layers)
    return with_sizes(tape)


def deepen(shallow: list[Event], extrapolation: LayerExtrapolation) -> list[Event]:
    """Return the deep tape of a shallow one."""
    template = TapeTemplate(shallow, extrapolation)
    return list(template.make_tape(template.sizes))


def extrapolated(layers: int, batch_size: int = 1) -> list[Event] | None:
    """Return the step of some layers as it follows from two and three of batch size 1."""
    extrapolator = LayerExtrapolator()
    assert extrapolator.learn(step(2), step(3))
    extrapolation = extrapolator.extrapolate(step(2, batch_size), layers - 2)
    return None if extrapolation is None else deepen(step(2, batch_size), extrapolation)


def check(shallow: list[Event], deeper: list[Event], layers: int, whole: list[Event]) -> None:
    """Insist that the tape with `layers` more than the shallow one follows from the two."""
    extrapolator = LayerExtrapolator()
    assert extrapolator.learn(shallow, deeper)
    extrapolation = extrapolator.extrapolate(shallow, layers)
    assert extrapolation is not None
    assert deepen(shallow, extrapolation) == whole


def test_extrapolated_layers_are_added_where_traced_layers_were() -> None:
    """Ten layers: 10 x 100 bytes, 10 blocks freed from the last one on, and 4 x 10 bytes in the stacked one."""
    tape = extrapolated(10)
    assert tape == step(10)
    assert sum(event.bytes for event in step(10) if event.block <= 10) == 7 + 10 * 100
    assert step(10)[-1].bytes == 40


def test_layers_learned_at_one_size_are_extrapolated_at_other_sizes() -> None:
    """Five sequences make blocks of 50 bytes."""
    assert extrapolated(7, batch_size=5) == step(7, batch_size=5)


def test_layers_are_counted_up_in_the_forward_pass_and_down_in_the_backward_pass() -> None:
    """Four layers: 0, 1, 2, 3 and then 3, 2, 1, 0; what stands after them counts on."""
    tape = extrapolated(4)
    assert tape is not None
    numbers = [event.module.removeprefix("layers.") for event in tape if event.step == 1 and event.module]
    assert numbers == [*"0123", *"3210"]


def test_every_number_of_a_path_is_extrapolated_on_its_own() -> None:
    """Periods of two layers with two experts each, and a last layer of another kind: its number grows by two a period.

    The layers' numbers grow by two from one repetition to the next, the experts' stay.
    """

    def tape(periods: int) -> list[Event]:
        tape = Tape()
        for layer in range(2 * periods):
            for expert in range(2):
                tape.at(1, Phase.FORWARD, f"layers.{layer}.experts.{expert}", "mm")
                tape.allocate(len(tape.events), 10 if layer % 2 else 20)
        tape.at(1, Phase.FORWARD, f"layers.{2 * periods}", "add").allocate(len(tape.events), 30)
        return tape.events

    check(tape(2), tape(3), 5, tape(7))


def test_the_numbers_are_right_where_an_insertion_starts_in_the_middle_of_a_layer() -> None:
    """The layer that follows the equal ones begins as they do, so that what is inserted begins with their second op."""

    def tape(layers: int) -> list[Event]:
        tape = Tape()
        for layer in range(layers + 1):
            tape.at(1, Phase.FORWARD, f"layers.{layer}", "norm").allocate(2 * layer, 8)
            tape.at(1, Phase.FORWARD, f"layers.{layer}", "mm" if layer < layers else "add").allocate(2 * layer + 1, 16)
        return tape.events

    check(tape(2), tape(3), 6, tape(8))


def test_layers_before_those_that_repeat_may_go_on_as_they_do() -> None:
    """Convolutions and attention as in LFM2: c c a, and then periods of c c c c a c, which the last two kinds begin.

    The backward pass goes through four convolutions of the first period before it comes to another attention, as it
    does through five of the others: one layer alone could be put in there, and the others elsewhere.
    """

    def tape(periods: int) -> list[Event]:
        kinds = "cca" + "ccccac" * periods
        tape = Tape()
        for layer, kind in enumerate(kinds):
            tape.at(1, Phase.FORWARD, f"layers.{layer}", kind).allocate(layer, 10)
        count = len(kinds)
        for layer, kind in reversed(list(enumerate(kinds))):
            for op in range(16):
                tape.at(1, Phase.BACKWARD, "", f"{kind}{op}").allocate(count, 8)
                tape.at(1, Phase.BACKWARD).free(count)
                count += 1
            tape.at(1, Phase.BACKWARD).free(layer)
        return with_sizes(tape)

    check(tape(2), tape(3), 5, tape(7))


def test_a_list_freed_in_order_is_distinguished_from_a_list_freed_in_reverse() -> None:
    """Temporaries of a foreach op: the first one made is the first one freed."""

    def temporaries(layers: int) -> list[Event]:
        tape = Tape()
        for layer in range(layers):
            tape.allocate(layer, 64)
        return with_sizes(tape.free(*range(layers)))

    check(temporaries(2), temporaries(3), 4, temporaries(6))


def test_nothing_is_learned_from_tapes_that_cannot_be_aligned() -> None:
    """A third layer of another size repeats none, and sizes do not shrink."""
    third = Tape().at(0, Phase.LOAD, "layers.2").allocate(90, 101).events
    assert not LayerExtrapolator().learn(step(2), [*step(2)[:3], *third, *step(2)[3:]])
    assert not LayerExtrapolator().learn(step(2, batch_size=2), step(3, batch_size=1))


def test_a_stretch_is_extrapolated_only_where_all_of_it_equals_a_learned_stretch() -> None:
    """Nothing learned, four layers, layers of other numbers, and a step whose number has the hash of the known one."""
    assert LayerExtrapolator().extrapolate(step(2), 3) is None
    extrapolator = LayerExtrapolator()
    assert extrapolator.learn(step(2), step(3))
    assert extrapolator.extrapolate(step(4), 3) is None
    assert extrapolator.extrapolate(step(2, first=1), 3) is None
    modulus = 2**61 - 1
    assert hash(modulus + 1) == hash(1)
    assert extrapolator.extrapolate([event._replace(step=modulus + event.step) for event in step(2)], 3) is None

"""The rest of a step from its first passes and a step of another size: event by event that which is traced."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from inspector.extrapolate import Updates
from inspector.predict.tracing import ModelTracer
from inspector.records.recipe import Recipe
from inspector.records.request import LoraOptions, Quantization, Request
from inspector.records.tape import Category, Event, EventKind, Phase
from inspector.resolve import resolve_run
from inspector.source.read import read_files
from tests.extrapolate.test_template import Step

REQUEST = Request(model="Qwen/Qwen2.5-0.5B", offline=True)
ADAPTER: dict[str, Any] = {"peft": LoraOptions(r=2, targets="all-linear")}
ACCUMULATED = {"optimizer": "paged_adamw_8bit", "gradient_accumulation": 2, "mixed_precision": "bf16"}


@pytest.fixture(scope="module")
def tracer() -> ModelTracer:
    return ModelTracer(read_files(REQUEST, lambda _stage: None))


def first_passes(tape: Sequence[Event]) -> list[Event]:
    """Return the events before the first update."""
    return list(itertools.takewhile(lambda event: event.phase is not Phase.OPTIMIZER, tape))


@pytest.mark.parametrize(
    ("request_fields", "recipe", "passes_of"),
    [
        ({}, {"optimizer": "adafactor", "gradient_checkpointing": True}, {"batch_size": 3}),
        ({}, {"optimizer": "adamw_8bit"}, {"seq_len": 40_000, "gradient_checkpointing": True}),
        (ADAPTER, {"optimizer": "adamw_torch_fused"}, {"batch_size": 3, "attention": "flash_attention_2"}),
        ({**ADAPTER, "quantization": Quantization.NF4}, ACCUMULATED, {"batch_size": 3}),
    ],
)
def test_other_first_passes_go_on_as_the_traced_step_does(
    tracer: ModelTracer, request_fields: dict[str, Any], recipe: dict[str, Any], passes_of: dict[str, Any]
) -> None:
    """The passes are those before another optimizer, and do what those of the known step do not."""

    def trace(**changes: Any) -> Sequence[Event]:
        asked = Recipe(**{"batch_size": 1, "seq_len": 512, **recipe, **changes})
        request = dataclasses.replace(REQUEST, recipe=asked, **request_fields)
        return tracer.trace(resolve_run(request, None, {}), 0).tape

    passes = first_passes(trace(**passes_of, optimizer="sgd"))
    known = trace()
    assert [event._replace(bytes=0) for event in passes] != [event._replace(bytes=0) for event in first_passes(known)]
    assert Updates(known).complete(passes) == trace(**passes_of)


def write_ends(tape: Sequence[Event]) -> list[Event]:
    """Return a hand-written tape whose ends have the sizes of their blocks."""
    sizes = {event.block: event.bytes for event in tape if event.kind is EventKind.ALLOCATE}
    return [event._replace(bytes=sizes[event.block]) for event in tape]


KNOWN = write_ends(Step(batch_size=1).whole())
PASSES = write_ends(Step(batch_size=5).passes())
COPY = Event(EventKind.ALLOCATE, 99, Phase.BACKWARD, 80, Category.TEMPORARIES, 1, "layer", "copy")


def test_passes_that_copy_more_go_on_with_more_copies() -> None:
    """A copy in the first pass is one in the second; the blocks behind it have other numbers."""
    tape = Updates(KNOWN).complete([*PASSES[:-1], COPY, COPY._replace(kind=EventKind.FREE, op=""), PASSES[-1]])
    assert tape is not None
    assert [event.step for event in tape if event.op == "copy"] == [1, 2]
    rest = [event for event in tape if event.bytes != COPY.bytes]
    assert [event._replace(block=0) for event in rest] == [
        event._replace(block=0) for event in write_ends(Step(batch_size=5).whole())
    ]


@pytest.mark.parametrize(
    "passes",
    [
        [event for event in PASSES if event.op != "workspace"],  # a later pass lacks it
        [event._replace(bytes=1) if event.op == "workspace" else event for event in PASSES],
        PASSES[:-1],  # a block more is alive
        [PASSES[0]._replace(module="other"), *PASSES[1:]],  # another model
        [event._replace(op="sum") if event.op == "ne" else event for event in PASSES],
        [event._replace(step=2) if event.step else event for event in PASSES],
    ],
)
def test_passes_that_say_too_little_of_the_rest_give_no_tape(passes: Sequence[Event]) -> None:
    assert Updates(KNOWN).complete(PASSES) is not None
    assert Updates(KNOWN).complete(passes) is None


def test_a_known_step_whose_later_passes_make_more_says_nothing() -> None:
    """The size of what the second pass alone makes may depend on that of the batch."""
    place = next(index for index, event in enumerate(KNOWN) if event.step == 2)
    more = COPY._replace(phase=Phase.FORWARD, step=2)
    assert Updates([*KNOWN[:place], more, *KNOWN[place:]]).complete(PASSES) is None

"""Folds over a tape: phases, peaks, and what lives at the peak."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.memory.allocator.settings import MIB, AllocatorSettings
from inspector.memory.replay import Replays
from inspector.memory.timeline import build_run_memory, find_breakdown, fold
from inspector.records.hardware import Overhead
from inspector.records.memory import MemoryPhase, TopModule
from inspector.records.recipe import Recipe
from inspector.records.tape import Category, Event, EventKind, Phase
from inspector.workloads.registry import TRAINING
from tests.memory.tapes import Tape

# One layer, trained for two steps; every size is large enough for a segment of its own, so that reserved is easy.
WEIGHTS, ACTIVATION, GRADIENT, MOMENTS, WORKSPACE, LOSS = 40 * MIB, 60 * MIB, 40 * MIB, 80 * MIB, 512, 512
CONTEXT = Overhead(bytes=100 * MIB, source="not measured")


def two_steps() -> list[Event]:
    """Return a tape of loading and two steps; blocks 10 to 19 are step 1's, 20 to 29 step 2's."""
    tape = Tape().at(0, Phase.LOAD, "layer", "to").allocate(0, WEIGHTS, Category.WEIGHTS)
    for step in (1, 2):
        own = 10 * step
        tape.at(step, Phase.FORWARD, "layer", "mm").allocate(own, ACTIVATION, Category.ACTIVATIONS)
        if step == 1:
            tape.allocate(1, WORKSPACE, Category.OTHER)
        tape.at(step, Phase.FORWARD, "head", "loss").allocate(own + 1, LOSS, Category.LOGITS_AND_LOSS)
        tape.at(step, Phase.BACKWARD, "layer", "mm_backward").allocate(own + 2, GRADIENT, Category.GRADIENTS)
        tape.free(own)
        tape.at(step, Phase.OPTIMIZER, "", "adamw")
        if step == 1:
            tape.allocate(2, MOMENTS, Category.OPTIMIZER)
        tape.free(own + 1, own + 2)
    return tape.events


def phase(name: Phase, step: int, end: int, peak: int, end_reserved: int, peak_reserved: int) -> MemoryPhase:
    """Return a phase."""
    return MemoryPhase(
        name=name,
        step=step,
        end_allocated_bytes=end,
        peak_allocated_bytes=peak,
        end_reserved_bytes=end_reserved,
        peak_reserved_bytes=peak_reserved,
    )


def test_every_phase_has_its_end_and_its_peak() -> None:
    """A phase's peak starts from what is allocated when it begins, as if peaks were reset there."""
    # Segments: weights 40, activation 60, small 2 (workspace and loss), gradient 40, moments 80: 222 MiB in all.
    # In step 2 the activation reuses its segment, the gradient its own; nothing new is reserved.
    held = WEIGHTS + WORKSPACE
    assert fold(two_steps()).phases == [
        phase(Phase.LOAD, 0, 40 * MIB, 40 * MIB, 40 * MIB, 40 * MIB),
        phase(Phase.FORWARD, 1, 100 * MIB + 1024, 100 * MIB + 1024, 102 * MIB, 102 * MIB),
        phase(Phase.BACKWARD, 1, 80 * MIB + 1024, 140 * MIB + 1024, 142 * MIB, 142 * MIB),
        phase(Phase.OPTIMIZER, 1, held + MOMENTS, 160 * MIB + 1024, 222 * MIB, 222 * MIB),
        phase(Phase.FORWARD, 2, 180 * MIB + 1024, 180 * MIB + 1024, 222 * MIB, 222 * MIB),
        phase(Phase.BACKWARD, 2, 160 * MIB + 1024, 220 * MIB + 1024, 222 * MIB, 222 * MIB),
        # Nothing is allocated here: the peak is what was there at the start.
        phase(Phase.OPTIMIZER, 2, held + MOMENTS, 160 * MIB + 1024, 222 * MIB, 222 * MIB),
    ]


def test_the_peak_says_where_it_is_and_what_lives_there() -> None:
    """The gradient of step 2 comes on top of weights, moments, activation, loss and workspace."""
    timeline = fold(two_steps())
    peak = timeline.peak
    assert peak is not None
    assert (peak.step, peak.phase, peak.module, peak.op) == (2, Phase.BACKWARD, "layer", "mm_backward")
    assert two_steps()[peak.event_index].block == 22
    assert {category: size for category, size in peak.breakdown.items() if size} == {
        Category.WEIGHTS: WEIGHTS,
        Category.OPTIMIZER: MOMENTS,
        Category.ACTIVATIONS: ACTIVATION,
        Category.GRADIENTS: GRADIENT,
        Category.LOGITS_AND_LOSS: LOSS,
        Category.OTHER: WORKSPACE,
    }
    of_some_runs = {Category.KV_CACHE, Category.GATHERED, Category.COMMUNICATION}
    assert list(peak.breakdown) == [item for item in Category if item not in of_some_runs]
    assert peak.allocated_bytes == timeline.peak_allocated_bytes == max(timeline.allocated_bytes) == 220 * MIB + 1024


def test_top_modules_are_sorted_by_size_then_name_and_add_up() -> None:
    """Blocks belong to the module that allocated them, moments to none."""
    timeline = fold(two_steps())
    assert timeline.top_modules == [
        TopModule(name="layer", bytes=WEIGHTS + ACTIVATION + GRADIENT + WORKSPACE),
        TopModule(name="", bytes=MOMENTS),
        TopModule(name="head", bytes=LOSS),
    ]
    tape = Tape()
    for block, module in enumerate("cab"):
        tape.at(0, Phase.LOAD, module).allocate(block, 512)
    assert [row.name for row in fold(tape.events).top_modules] == ["a", "b", "c"]


def test_a_step_ends_with_what_it_leaves_behind() -> None:
    """Weights, moments and the workspace."""
    assert fold(two_steps()).step_end_allocated_bytes == {0: WEIGHTS, 1: 120 * MIB + 512, 2: 120 * MIB + 512}


def test_training_memory_shows_loading_and_the_last_step() -> None:
    """The peaks are over both steps."""
    memory = build_run_memory(
        fold(two_steps()), workload=TRAINING, recipe=Recipe(), platform="any", overhead=CONTEXT, not_accounted=()
    )
    assert [(item.step, item.name) for item in memory.phases] == [
        (0, Phase.LOAD),
        (2, Phase.FORWARD),
        (2, Phase.BACKWARD),
        (2, Phase.OPTIMIZER),
    ]
    assert memory.peak_allocated_bytes == 220 * MIB + 1024
    assert memory.end_of_step_allocated_bytes == 120 * MIB + 512
    assert memory.peak_reserved_bytes == 222 * MIB
    assert (memory.overhead_bytes, memory.total_bytes) == (100 * MIB, 322 * MIB)


def test_unsplit_slack_counts_in_the_category_of_its_block() -> None:
    """11 MiB in a segment of 12 leave exactly 1 MiB, which the block keeps."""
    timeline = fold(Tape().allocate(0, 11 * MIB, Category.WEIGHTS).events)
    assert timeline.block_bytes == {0: 12 * MIB}
    assert timeline.peak is not None
    assert timeline.peak.breakdown[Category.WEIGHTS] == 12 * MIB


def test_phases_of_one_step_that_alternate_are_one_phase_each() -> None:
    """With gradient accumulation the peak is the larger of two stretches and the end that of the last."""
    tape = Tape()
    tape.at(1, Phase.FORWARD).allocate(0, 30 * MIB).at(1, Phase.BACKWARD).allocate(1, 10 * MIB).free(0)
    tape.at(1, Phase.FORWARD).allocate(2, 14 * MIB).at(1, Phase.BACKWARD).free(2)
    forward, backward = fold(tape.events).phases
    # Plain figures: 30, 40, 10; the second forward takes 14 of the free 30 (split): 24, 10.
    assert (forward.end_allocated_bytes, forward.peak_allocated_bytes) == (24 * MIB, 30 * MIB)
    assert (backward.end_allocated_bytes, backward.peak_allocated_bytes) == (10 * MIB, 40 * MIB)


def test_the_first_of_two_equal_peaks_is_shown() -> None:
    """What comes later adds nothing."""
    tape = Tape().at(1, Phase.FORWARD, "first").allocate(0, 512).free(0).at(1, Phase.FORWARD, "second").allocate(1, 512)
    peak = fold(tape.events).peak
    assert peak is not None
    assert (peak.event_index, peak.module) == (0, "first")


def test_empty_tensors_take_no_block() -> None:
    """They may be freed like others."""
    tape = Tape().allocate(0, 0).free(0)
    timeline = fold(tape.events)
    assert list(timeline.allocated_bytes) == list(timeline.reserved_bytes) == [0, 0]
    assert timeline.peak is None
    assert timeline.top_modules == []


def test_an_empty_tape_is_an_empty_timeline() -> None:
    """No phase, no peak, no bytes."""
    timeline = fold([])
    assert (timeline.peak, timeline.phases, timeline.peak_allocated_bytes) == (None, [], 0)
    with pytest.raises(ValueError, match="allocates nothing"):
        build_run_memory(
            timeline, workload=TRAINING, recipe=Recipe(), platform="any", overhead=CONTEXT, not_accounted=()
        )


def test_emptying_the_cache_lowers_reserved_but_not_its_peak() -> None:
    """The phase that empties starts with the reserved bytes it finds."""
    tape = Tape().at(1, Phase.FORWARD).allocate(0, 40 * MIB).free(0).at(1, Phase.BACKWARD).empty_cache()
    timeline = fold(tape.events)
    assert list(timeline.reserved_bytes) == [40 * MIB, 40 * MIB, 0]
    assert timeline.phases[1] == phase(Phase.BACKWARD, 1, 0, 0, 0, 40 * MIB)
    assert timeline.peak_reserved_bytes == 40 * MIB


def test_the_settings_reach_the_allocator() -> None:
    """Expandable segments split any rest: 20 MiB - 512 bytes instead of 20."""
    tape = Tape().allocate(0, 20 * MIB - 512).events
    assert fold(tape, AllocatorSettings(expandable_segments=True)).peak_allocated_bytes == 20 * MIB - 512
    assert fold(tape).peak_allocated_bytes == 20 * MIB


def test_the_timeline_ends_where_memory_runs_out() -> None:
    """The event that failed is named, with the module and op it belongs to."""
    timeline = fold(two_steps(), limit_bytes=150 * MIB)
    assert timeline.ran_out is not None
    assert timeline.ran_out.event_index == len(timeline.allocated_bytes)
    assert (timeline.ran_out.event.step, timeline.ran_out.event.op) == (1, "adamw")
    # The activation's segment was released before the moments failed: 40 + 40 + 2 MiB are left.
    assert timeline.ran_out.failure.needed_bytes == MOMENTS
    assert timeline.ran_out.failure.reserved_bytes == 82 * MIB
    assert timeline.peak_allocated_bytes == 140 * MIB + 1024
    assert fold(two_steps(), limit_bytes=222 * MIB).ran_out is None


@pytest.mark.parametrize(
    ("tape", "message"),
    [
        (Tape().allocate(0, 1).free(0, 0), "event 2: free of block 0, which was freed before"),
        (Tape().free(7), "event 0: free of block 7, which was never allocated"),
        (Tape().allocate(0, 1).allocate(0, 1), "event 1: block 0 is allocated a second time"),
        (Tape().allocate(0, 0).free(0).allocate(0, 1), "event 2: block 0 is allocated a second time"),
        (Tape().allocate(0, -5), "event 0: block 0 of -5 bytes"),
    ],
)
def test_a_tape_that_contradicts_itself_is_refused_by_the_timeline_and_by_a_replay(tape: Tape, message: str) -> None:
    """The message names the event, the block and what is wrong."""
    with pytest.raises(ValueError, match=message):
        fold(tape.events)
    with pytest.raises(ValueError, match=message):
        Replays.from_tape(tape.events)


def test_there_is_no_breakdown_outside_the_timeline() -> None:
    """An index beyond the tape is an error, and so is a negative one."""
    tape = two_steps()
    for index in (-1, len(tape)):
        with pytest.raises(IndexError, match="events, not one at index"):
            find_breakdown(tape, fold(tape), index)


# --- laws -------------------------------------------------------------------------------------------------------------


@st.composite
def tapes(draw: st.DrawFn) -> list[Event]:
    """Return a valid tape of any kind."""
    tape = Tape()
    live: list[int] = []
    made = 0
    for _ in range(draw(st.integers(0, 60))):
        if draw(st.integers(0, 5)) == 0:
            tape.at(draw(st.integers(0, 2)), draw(st.sampled_from(Phase)), draw(st.sampled_from(["", "a", "a.b", "c"])))
        action = draw(st.sampled_from(["allocate", "allocate", "free", "empty"]))
        if action == "allocate":
            tape.allocate(made, draw(st.integers(0, 40 * MIB)), draw(st.sampled_from(Category)))
            live.append(made)
            made += 1
        elif action == "empty":
            tape.empty_cache()
        elif live:
            block = live[draw(st.integers(0, len(live) - 1))]
            live.remove(block)
            tape.free(block)
    return tape.events


@settings(max_examples=150, deadline=None)
@given(tape=tapes(), expandable=st.booleans())
def test_parts_add_up_at_every_event(tape: list[Event], expandable: bool) -> None:
    """Categories sum to allocated, phases enclose it, modules sum to the peak, and replay is deterministic."""
    options = AllocatorSettings(expandable_segments=expandable)
    timeline = fold(tape, options)
    assert fold(tape, options) == timeline
    for index, allocated in enumerate(timeline.allocated_bytes):
        breakdown = find_breakdown(tape, timeline, index)
        assert sum(breakdown.values()) == allocated
        assert min(breakdown.values()) >= 0
        assert allocated <= timeline.reserved_bytes[index] <= timeline.peak_reserved_bytes
    assert timeline.peak_allocated_bytes == max(timeline.allocated_bytes, default=0)
    assert timeline.peak_allocated_bytes == max((one.peak_allocated_bytes for one in timeline.phases), default=0)
    assert timeline.peak_reserved_bytes == max((one.peak_reserved_bytes for one in timeline.phases), default=0)
    assert sum(row.bytes for row in timeline.top_modules) == timeline.peak_allocated_bytes
    assert {(event.step, event.phase) for event in tape} == {(one.step, one.name) for one in timeline.phases}


@settings(max_examples=150, deadline=None)
@given(tape=tapes(), limit_bytes=st.none() | st.integers(0, 400 * MIB), expandable=st.booleans())
def test_watching_a_replay_leaves_its_peaks_and_its_failure_unchanged(
    tape: list[Event], limit_bytes: int | None, expandable: bool
) -> None:
    """The timeline and the replay that nothing watches have the same peaks and the same failure."""
    options = AllocatorSettings(expandable_segments=expandable)
    timeline = fold(tape, options, limit_bytes=limit_bytes)
    replay = Replays.from_tape(tape, options).under(limit_bytes)
    assert replay.failure == (timeline.ran_out and timeline.ran_out.failure)
    assert replay.peak_allocated_bytes == timeline.peak_allocated_bytes
    assert replay.peak_reserved_bytes == timeline.peak_reserved_bytes


@settings(max_examples=50, deadline=None)
@given(tape=tapes())
def test_freeing_every_block_leaves_nothing_allocated(tape: list[Event]) -> None:
    """Allocated returns to 0, and reserved after the cache is emptied."""
    live = {event.block for event in tape if event.kind is EventKind.ALLOCATE}
    live -= {event.block for event in tape if event.kind is EventKind.FREE}
    rest = Tape().at(3, Phase.OPTIMIZER).free(*sorted(live)).empty_cache()
    timeline = fold([*tape, *rest.events])
    assert (timeline.allocated_bytes[-1], timeline.reserved_bytes[-1]) == (0, 0)

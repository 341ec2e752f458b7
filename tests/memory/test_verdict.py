"""Whether a tape fits a GPU: by replay under what the allocator can reserve, not by the peak of reserved memory."""

from __future__ import annotations

import pytest

from inspector.hardware.catalogue import find_gpu
from inspector.memory.allocator.settings import MIB, AllocatorSettings
from inspector.memory.replay import Replays
from inspector.memory.timeline import fold
from inspector.memory.verdict import DRIVER_RESERVE_BYTES, find_overhead, find_usable_bytes, judge_fit, judge_untraced
from inspector.records.fit import Fit, Uncertainty, Verdict
from inspector.records.hardware import MemoryFigure
from tests.hardware.gpus import made_gpu
from tests.memory.tapes import Tape


def judged(tape: Tape, usable: int) -> Verdict:
    """Return the verdict on a GPU that has exactly so much for the allocator."""
    return judge_fit(made_gpu(usable), Replays.from_tape(tape.events))


def cached() -> Tape:
    """Return 40 MiB that are freed before 60 MiB come: reserved 100 MiB, but 60 once the cached segment is released."""
    return Tape().allocate(0, 40 * MIB).free(0).allocate(1, 60 * MIB)


def fragmented() -> Tape:
    """Return three blocks of 6 MiB in a segment of 20, of which the middle stays, and then 12 MiB.

    The free 6 and 8 MiB do not join, so the 12 MiB take a segment of their own: 18 MiB are allocated at most, 32
    reserved.
    """
    return Tape().allocate(0, 6 * MIB).allocate(1, 6 * MIB).allocate(2, 6 * MIB).free(0, 2).allocate(3, 12 * MIB)


@pytest.mark.parametrize(
    ("usable", "headroom"),
    [
        (120, 20),  # nothing has to be released: 120 - 100
        (100, 0),
        (99, 39),  # the cached 40 MiB are given back for the 60: 99 - 60
        (60, 0),
        (59, -1),  # 60 are allocated at a time
        (39, -21),
        (0, -60),
    ],
)
def test_cached_blocks_are_released_before_a_verdict_says_that_a_step_does_not_fit(usable: int, headroom: int) -> None:
    """A reserved peak above the card's memory is no verdict, and a shortfall counts from the allocated peak."""
    result = judged(cached(), usable * MIB)
    assert (result.fits, result.headroom_bytes) == (headroom >= 0, headroom * MIB)
    assert result.usable_bytes == result.memory_bytes == usable * MIB


@pytest.mark.parametrize(("usable", "headroom"), [(32, 0), (31, -1), (25, -7), (19, -1), (17, -3)])
def test_memory_in_pieces_does_not_fit_though_the_allocated_peak_would(usable: int, headroom: int) -> None:
    """From 20 MiB on the request that fails is the 12 MiB beside the segment of 20; below, that segment itself."""
    peak = fold(fragmented().events)
    assert (peak.peak_allocated_bytes, peak.peak_reserved_bytes) == (18 * MIB, 32 * MIB)
    result = judged(fragmented(), usable * MIB)
    assert (result.fits, result.headroom_bytes) == (headroom >= 0, headroom * MIB)


def test_the_context_is_not_usable() -> None:
    """100 MiB with a context of 30 leave 70."""
    result = judge_fit(made_gpu(100 * MIB, context_bytes=30 * MIB), Replays.from_tape(cached().events))
    assert (result.overhead_bytes, result.usable_bytes, result.headroom_bytes) == (30 * MIB, 70 * MIB, 10 * MIB)
    assert result.assumptions == ()


def test_a_context_larger_than_the_memory_leaves_nothing() -> None:
    """Usable bytes are never negative."""
    assert find_usable_bytes(made_gpu(10 * MIB), 11 * MIB) == 0


def test_part_of_the_total_memory_that_a_driver_reports_is_out_of_reach() -> None:
    """Torch sees less than nvidia-smi prints, and the verdict says what was taken for it."""
    gpu = made_gpu(1000 * MIB, context_bytes=48 * MIB, figure=MemoryFigure.DRIVER)
    assert DRIVER_RESERVE_BYTES == 652 * MIB
    result = judge_fit(gpu, Replays.from_tape(cached().events))
    assert result.usable_bytes == 300 * MIB
    assert [text for text in result.assumptions if "652 MiB" in text] == list(result.assumptions)


def test_a_context_that_was_not_measured_is_the_largest_known_of_the_architecture() -> None:
    """Else of any card; in both cases the words say whose it is."""
    measured = (
        made_gpu(1, name="small", context_bytes=100, capability=(7, 5)),
        made_gpu(1, name="large", context_bytes=200, capability=(7, 5)),
        made_gpu(1, name="other", context_bytes=300, capability=(8, 9)),
    )
    same = find_overhead(made_gpu(1, context_bytes=None, capability=(7, 5)), measured)
    assert (same.bytes, "7.5" in same.source, "large" in same.source) == (200, True, True)
    for unknown in (None, made_gpu(1, context_bytes=None), made_gpu(1, context_bytes=None, capability=None)):
        any_card = find_overhead(unknown, measured)
        assert (any_card.bytes, "any card" in any_card.source, "other" in any_card.source) == (300, True, True)


def test_a_verdict_lists_what_is_assumed_of_a_card() -> None:
    """An MI300X has no CUDA and no measured context; a T4 has both."""
    tape = cached()
    t4, mi300x = (judge_fit(find_gpu(name).gpu, Replays.from_tape(tape.events)) for name in ("t4", "mi300x"))
    assert t4.assumptions == ()
    context, cuda = mi300x.assumptions
    assert "not measured" in context
    assert "no CUDA" in cuda
    assert t4.usable_bytes == 14_912 * MIB - 147_718_144


def test_the_replay_runs_under_the_allocators_settings() -> None:
    """Expandable segments join what is free: the 12 MiB take 6 + 8 free MiB of two pages and need no third one."""
    settings = AllocatorSettings.parse("expandable_segments:True")
    tape = fragmented()
    plain = judge_fit(made_gpu(31 * MIB), Replays.from_tape(tape.events))
    joined = judge_fit(made_gpu(40 * MIB), Replays.from_tape(tape.events, settings))
    # Three blocks of 6 take one page of 20 MiB. Of it 2 are free at its end, behind which 12 MiB need one page more.
    assert plain.headroom_bytes == -1 * MIB
    assert joined.headroom_bytes == 0
    assert judge_fit(made_gpu(39 * MIB), Replays.from_tape(tape.events, settings)).outcome is Fit.NO


def unknown(*sizes: int) -> tuple[Uncertainty, ...]:
    """Return uncertainties of so many MiB each."""
    return tuple(Uncertainty(what="x", bytes=size * MIB, source="a test") for size in sizes)


@pytest.mark.parametrize(
    ("usable", "outcome"),
    [
        (130, Fit.YES),  # 100 are reserved, 30 are not known
        (129, Fit.TIGHT),
        (100, Fit.TIGHT),
        (99, Fit.YES),  # the cached 40 MiB are given back for the 60, which leaves 39
        (90, Fit.YES),
        (89, Fit.TIGHT),
        (60, Fit.TIGHT),
        (59, Fit.NO),
    ],
)
def test_a_step_that_leaves_less_than_is_not_known_is_tight(usable: int, outcome: Fit) -> None:
    replays = Replays.from_tape(cached().events)
    result = judge_fit(made_gpu(usable * MIB), replays, uncertainty=unknown(10, 20))
    assert result.outcome is outcome
    assert result.uncertain_bytes == 30 * MIB
    assert result.usable_bytes == usable * MIB
    assert result.fits is (outcome is not Fit.NO)


def test_a_margin_that_is_asked_for_is_not_usable_and_leaves_no_tight() -> None:
    replays = Replays.from_tape(cached().events)
    roomy, short = (judge_fit(made_gpu(usable * MIB), replays, margin_bytes=30 * MIB) for usable in (90, 89))
    assert (roomy.outcome, roomy.usable_bytes, roomy.headroom_bytes) == (Fit.YES, 60 * MIB, 0)
    assert (short.outcome, short.headroom_bytes, short.margin_bytes) == (Fit.NO, -1 * MIB, 30 * MIB)


def test_a_step_that_could_not_be_traced_has_a_verdict_without_figures() -> None:
    result = judge_untraced(made_gpu(100 * MIB, context_bytes=30 * MIB), "why")
    assert (result.outcome, result.fits, result.headroom_bytes) == (Fit.UNKNOWN, None, None)
    assert (result.usable_bytes, result.reason) == (70 * MIB, "why")

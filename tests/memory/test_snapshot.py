"""A snapshot is what torch's own tools read, and its totals are those of the report."""

from __future__ import annotations

import copy
import io
import pickle
import pickletools
import random
from typing import Any

import pytest
import torch.cuda._memory_viz as memory_viz

from inspector.memory.allocator.settings import MIB, AllocatorSettings
from inspector.memory.recording import Recording
from inspector.memory.snapshot import build_snapshot
from inspector.memory.timeline import Timeline, fold
from inspector.records.tape import Category, Phase
from inspector.render.writers.memory_viz import write_snapshot
from inspector.workloads.registry import TRAINING
from tests.memory.tapes import Tape

SETTINGS = ("", "expandable_segments:True", "max_split_size_mb:40", "roundup_power2_divisions:4")
# What the reader of the viewer knows (`unpickle` in torch/utils/viz/MemoryViz.js), as far as plain values need it.
READ_BY_THE_VIEWER = {
    *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINGET", "LONG_BINGET", "EMPTY_DICT", "SETITEMS", "EMPTY_LIST"),
    *("APPEND", "APPENDS", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "TUPLE2", "NEWTRUE"),
    "NEWFALSE",
}


def record(seed: int, conf: str) -> Recording:
    """Return a run of random blocks, some of them free at its end."""
    rng = random.Random(seed)
    tape, live = Tape(), []
    for block in range(120):
        phase = rng.choice(list(TRAINING.phases))
        module = rng.choice(("", "model.layers.0.mlp", "model.layers.1.mlp", "lm_head"))
        tape.at(rng.randint(0, 2), phase, module, rng.choice(("aten.mm.default", "")))
        tape.allocate(block, rng.choice((0, 1, 700, MIB, 3 * MIB, 30 * MIB + 5)), rng.choice(list(Category)))
        live.append(block)
        while live and rng.random() < 0.45:
            tape.free(live.pop(rng.randrange(len(live))))
        if rng.random() < 0.03:
            tape.empty_cache()
    return Recording(tape=tape.events, settings=AllocatorSettings.parse(conf))


def fold_recording(recording: Recording) -> Timeline:
    """Return what the report sees of a run."""
    return fold(recording.tape, recording.settings, limit_bytes=recording.limit_bytes)


RECORDINGS = {f"{conf or 'plain'} {seed}": record(seed, conf) for conf in SETTINGS for seed in (1, 2)}
GROWING = Tape().at(1, Phase.FORWARD, "layer", "mm").allocate(0, 3 * MIB).allocate(1, 30 * MIB).free(1)
RECORDINGS["with less memory"] = Recording(tape=GROWING.allocate(2, 40 * MIB).events, limit_bytes=70 * MIB)


@pytest.mark.parametrize("name", RECORDINGS)
def test_the_totals_of_a_snapshot_are_those_of_the_report(name: str) -> None:
    """Both peaks, what lives at the peak by category, and what is held at the end."""
    timeline = fold_recording(RECORDINGS[name])
    assert timeline.peak is not None
    assert timeline.ran_out is None
    snapshot = build_snapshot(RECORDINGS[name])
    reserved = allocated = peak_reserved = peak_allocated = 0
    live: dict[int, Any] = {}
    at_peak: dict[Category, int] = {}
    for entry in snapshot["device_traces"][0]:
        sign = {"alloc": 1, "segment_alloc": 1, "segment_map": 1, "free_requested": 0}.get(entry["action"], -1)
        if entry["action"].startswith("segment"):
            reserved += sign * entry["size"]
            peak_reserved = max(peak_reserved, reserved)
            continue
        allocated += sign * entry["block_size"]
        if entry["action"] == "alloc":
            assert entry["addr"] not in live
            live[entry["addr"]] = entry
        elif entry["action"] == "free_completed":
            assert live.pop(entry["addr"])["size"] == entry["size"]
        if allocated > peak_allocated:
            peak_allocated = allocated
            at_peak = dict.fromkeys(Category, 0)
            for held in live.values():
                at_peak[Category(held["category"])] += held["block_size"]
    segments = snapshot["segments"]
    at_peak = {category: size for category, size in at_peak.items() if size}
    breakdown = {category: size for category, size in timeline.peak.breakdown.items() if size}
    assert (peak_allocated, at_peak) == (timeline.peak_allocated_bytes, breakdown)
    assert peak_reserved == timeline.peak_reserved_bytes
    assert allocated == sum(segment["allocated_size"] for segment in segments) == timeline.allocated_bytes[-1]
    assert reserved == sum(segment["total_size"] for segment in segments) == timeline.reserved_bytes[-1]


@pytest.mark.parametrize("name", RECORDINGS)
def test_the_blocks_of_a_segment_fill_it(name: str) -> None:
    """They lie side by side, free ones apart from each other, and hold what lives at the end where the trace put it."""
    snapshot = build_snapshot(RECORDINGS[name])
    live = {}
    for entry in snapshot["device_traces"][0]:
        if entry["action"] == "alloc":
            live[entry["addr"]] = (entry["block_size"], entry["size"], entry["frames"])
        elif entry["action"] == "free_completed":
            del live[entry["addr"]]
    for segment in snapshot["segments"]:
        place, before = segment["address"], ""
        for block in segment["blocks"]:
            assert block["address"] == place
            assert block["state"] == "active_allocated" or before != block["state"]
            if block["state"] == "active_allocated":
                held = live.pop(place)
                assert held == (block["size"], block["requested_size"], block["frames"])
            place, before = place + block["size"], block["state"]
        assert place == segment["address"] + segment["total_size"]
    assert live == {}


@pytest.mark.parametrize("name", RECORDINGS)
def test_the_tools_of_torch_read_a_snapshot(name: str) -> None:
    """Its plots, its sums, which check themselves, its flame graphs and its comparison with an earlier moment."""
    recording = RECORDINGS[name]
    snapshot = build_snapshot(recording)
    assert "Active Memory Timeline" in memory_viz.trace_plot(snapshot)
    assert "Active Cached Memory Timeline" in memory_viz.trace_plot(snapshot, plot_segments=True)
    assert "Allocator State History" in memory_viz.segment_plot(snapshot)
    assert f"segments: {len(snapshot['segments'])}\n" in memory_viz.segsum(snapshot)
    assert f"{len(snapshot['device_traces'][0])} entries\n" in memory_viz.trace(snapshot)
    for lines in (memory_viz.memory(snapshot, str), memory_viz.segments(snapshot, str)):
        reserved = sum(segment["total_size"] for segment in snapshot["segments"])
        assert sum(int(line.rpartition(" ")[2]) for line in lines.splitlines()) == reserved
    unfreed = memory_viz.filter_alloc_free_pairs(copy.deepcopy(snapshot))["device_traces"][0]
    left = sum(entry["action"] == "alloc" for entry in unfreed)
    assert left == sum(block["state"] != "inactive" for item in snapshot["segments"] for block in item["blocks"])


def test_torch_compares_two_moments_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Segments that only the later one has come with the modules and operations of what lives in them."""
    tape = Tape().at(0, Phase.LOAD, "model.embed", "to").allocate(0, 40 * MIB, Category.WEIGHTS)
    before = build_snapshot(Recording(tape=list(tape.events)))
    tape.at(1, Phase.FORWARD, "model.layers.0.mlp", "aten.mm.default").allocate(1, 60 * MIB, Category.ACTIVATIONS)
    after = build_snapshot(Recording(tape=tape.events))
    lines = memory_viz.compare(before["segments"], after["segments"], str).splitlines()
    (added,) = [segment["address"] for segment in after["segments"][1:]]
    assert capsys.readouterr().out == f"only_before = []\nonly_after = [{added}]\n"
    modules = "module:0:model;module:0:model.layers;module:0:model.layers.0;module:0:model.layers.0.mlp"
    assert lines == [f"only_after;stream_0;seg_{added};active_allocated;{modules};forward:1:aten.mm.default {60 * MIB}"]


def test_cached_blocks_that_go_back_are_in_the_trace() -> None:
    """Less memory than the step would reserve makes the allocator give segments back, as on the card."""
    entries = build_snapshot(RECORDINGS["with less memory"])["device_traces"][0]
    assert [(entry["action"], entry["size"] // MIB) for entry in entries if entry["action"].startswith("segment")] == [
        ("segment_alloc", 20),
        ("segment_alloc", 30),
        ("segment_free", 30),
        ("segment_alloc", 40),
    ]


def test_a_pickle_holds_what_the_viewer_can_read() -> None:
    """Its reader knows few instructions: those of plain values in protocol 4. No name of a class is among them."""
    for recording in RECORDINGS.values():
        stream = io.BytesIO()
        write_snapshot(recording, stream)
        assert {opcode.name for opcode, _, _ in pickletools.genops(stream.getvalue())} <= READ_BY_THE_VIEWER
        assert pickle.loads(stream.getvalue()) == build_snapshot(recording)


def test_a_run_that_memory_ends_has_no_snapshot() -> None:
    """It would be of another run than the report's."""
    with pytest.raises(ValueError, match="memory ran out"):
        build_snapshot(Recording(tape=GROWING.events, limit_bytes=59 * MIB))

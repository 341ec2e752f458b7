"""Reports of runs for the tests of the page, and its data read back."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Mapping
from typing import Any

from inspector.memory.recording import Recording
from inspector.memory.timeline import build_run_memory, fold
from inspector.records.hardware import Overhead
from inspector.records.recipe import Recipe
from inspector.records.report import Report
from inspector.records.tape import WorkloadInfo
from inspector.render.page.report import write_report_page
from inspector.workloads.registry import TRAINING
from tests.golden.render_reports import QWQ_LORA

__all__ = ["count_bytes", "make_report", "read_data", "write"]


def make_report(recording: Recording, report: Report = QWQ_LORA, *, workload: WorkloadInfo = TRAINING) -> Report:
    """Return a report of a run: what its tape gives, beside the other facts of a report."""
    timeline = fold(recording.tape, recording.settings, limit_bytes=recording.limit_bytes)
    memory = build_run_memory(
        timeline,
        workload=workload,
        recipe=Recipe(),
        platform="compute capability 8.0",
        overhead=Overhead(bytes=2**20, source="not measured"),
        not_accounted=(),
    )
    return dataclasses.replace(report, memory=memory)


def write(report: Report, recording: Recording | None, command: str | None = None) -> str:
    """Return a report as a page."""
    stream = io.StringIO()
    write_report_page(report, recording, stream, command=command)
    return stream.getvalue()


def read_data(page: str) -> dict[str, Any]:
    """Return the data of a page."""
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    data = json.loads(match[1])
    assert isinstance(data, dict)
    return data


def count_bytes(data: Mapping[str, Any]) -> tuple[list[int], list[list[int]], list[int]]:
    """Return what is allocated after each event, that by category, and what is reserved: as run.js reads the data."""
    blocks: list[int] = []
    held = [0] * len(data["categories"])
    by_category: list[list[int]] = []
    reserved: list[int] = []
    changes = dict(zip(data["reserved"][::2], data["reserved"][1::2], strict=True))
    for index, change in enumerate(data["events"]):
        if change == 0:
            size, category = data["kinds"][data["block_kinds"][len(blocks)]]
            blocks.append(index)
            held[category] += size
        elif change > 0:
            size, category = data["kinds"][data["block_kinds"][len(blocks) - change]]
            held[category] -= size
        by_category.append(list(held))
        reserved.append(changes.get(index, reserved[-1] if reserved else 0))
    return [sum(sizes) for sizes in by_category], by_category, reserved

"""What `print()` shows of a record: the text that the command prints of it, 80 columns wide and without colour.

Settings keep the names that they have in Python, and where the command says which options show more stand the versions.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping
from typing import Any

from inspector.errors import one_line
from inspector.records.comparison import Comparison
from inspector.records.fit import Plan
from inspector.records.measurement import Measurement
from inspector.records.report import Report
from inspector.render.comparison import build_comparison_document
from inspector.render.document import Document
from inspector.render.measurement import build_measurement_document
from inspector.render.plan import build_plan_document
from inspector.render.sections.report import build_report_document
from inspector.render.writers.text import write_text

__all__ = ["format_record"]

_WIDTH = 80
_BUILDERS: Mapping[type, Callable[[Any], Document]] = {
    Report: build_report_document,
    Plan: lambda plan: build_plan_document(plan, "recipe"),
    Comparison: build_comparison_document,
    Measurement: build_measurement_document,
}


def format_record(record: Report | Plan | Comparison | Measurement) -> str:
    """Return a record as the command prints it, without a newline at its end."""
    document = _BUILDERS[type(record)](record)
    if isinstance(record, Report):
        versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
        document = dataclasses.replace(document, footer=one_line(versions))
    stream = io.StringIO()
    write_text(document, width=_WIDTH, color=False, stream=stream)
    return stream.getvalue().rstrip("\n")

"""The report for programs: `Report.to_dict()` as JSON of ASCII characters, so that no control character is in it raw.

The keys are those of schema `inspector/1`. What an adapter's config may hold and JSON has no form for is written as
text: sets as sorted lists, numbers that are not finite and objects of libraries as their names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TextIO

from inspector.records.report import Report

__all__ = ["render_json"]


def render_json(report: Report, stream: TextIO) -> None:
    """Write the report to `stream` as one JSON object, indented by two, with a line break at the end."""
    json.dump(_make_strict(report.to_dict()), stream, indent=2, ensure_ascii=True, allow_nan=False)
    stream.write("\n")


def _make_strict(value: Any) -> Any:
    """Return `value` with everything that JSON has no form for as text or lists."""
    if isinstance(value, Mapping):
        return {str(key): _make_strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_make_strict(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_make_strict(item) for item in value), key=str)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)

"""Exact parameter counts and memory bytes of any model and PEFT adapter, from a Hub id alone.

>>> import inspector
>>> report = inspector.inspect("Qwen/QwQ-32B", peft={"peft_type": "LORA", "r": 16, "target_modules": "all-linear"})
>>> report.parameters.trainable
134217728

Importing this module loads neither torch nor transformers; `inspect` does.
"""

from __future__ import annotations

from inspector.api import inspect
from inspector.errors import InspectorError, ModelUnavailableError, UnsupportedModelError, UsageError
from inspector.records.recipe import Recipe
from inspector.records.report import Report
from inspector.records.request import LoraOptions

__all__ = [
    "InspectorError",
    "LoraOptions",
    "ModelUnavailableError",
    "Recipe",
    "Report",
    "UnsupportedModelError",
    "UsageError",
    "inspect",
]


def _show_in_a_notebook(report: Report) -> str:
    """Return the report as an HTML fragment; IPython asks the object itself, and only renderers know how it looks."""
    from inspector.render.writers.html import render_html

    return render_html(report)


Report._repr_html_ = _show_in_a_notebook  # type: ignore[attr-defined]

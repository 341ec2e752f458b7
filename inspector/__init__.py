"""Exact parameter counts and memory bytes of any model and PEFT adapter, from a Hub id alone.

>>> import inspector
>>> report = inspector.inspect("Qwen/QwQ-32B", peft={"peft_type": "LORA", "r": 16, "target_modules": "all-linear"})
>>> report.parameters.trainable
134217728

Importing this module loads neither torch nor transformers; the functions do.
"""

from __future__ import annotations

# A package of the same name holds what `measure` runs. Loaded first, it cannot take the function's place later: Python
# binds a module to its parent once, when it is imported.
from inspector import measure as _measure_package  # noqa: F401
from inspector.api import compare, inspect, measure, plan
from inspector.errors import DoesNotFitError, InspectorError, ModelUnavailableError, UnsupportedModelError, UsageError
from inspector.records.comparison import Comparison
from inspector.records.engines.serving import ServingOptions
from inspector.records.fit import Plan
from inspector.records.measurement import Measurement
from inspector.records.recipe import Generation, Recipe
from inspector.records.report import Report
from inspector.records.request import LoraOptions

__all__ = [
    "Comparison",
    "DoesNotFitError",
    "Generation",
    "InspectorError",
    "LoraOptions",
    "Measurement",
    "ModelUnavailableError",
    "Plan",
    "Recipe",
    "Report",
    "ServingOptions",
    "UnsupportedModelError",
    "UsageError",
    "compare",
    "inspect",
    "measure",
    "plan",
]


def _show_in_a_notebook(report: Report) -> str:
    """Return the report as an HTML fragment; IPython asks the object itself, and only renderers know how it looks."""
    from inspector.render.writers.html import render_html

    return render_html(report)


def _print(record: Report | Plan | Comparison | Measurement) -> str:
    """Return the record as the command prints it."""
    from inspector.render.printed import format_record

    return format_record(record)


Report._repr_html_ = _show_in_a_notebook  # type: ignore[attr-defined]
for _kind in (Report, Plan, Comparison, Measurement):
    _kind.__str__ = _print  # type: ignore[assignment]  # mypy has no way to say that of four records

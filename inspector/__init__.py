"""Exact parameter counts and memory bytes of any model and PEFT adapter, from a Hub id alone.

>>> import inspector
>>> report = inspector.inspect("Qwen/QwQ-32B", peft={"peft_type": "LORA", "r": 16, "target_modules": "all-linear"})
>>> report.parameters.trainable
134217728

Importing this module loads neither torch nor transformers; the functions do.
"""

from __future__ import annotations

import importlib
import typing

# A package of the same name holds what `measure` runs. Loaded first, it cannot take the function's place later: Python
# binds a module to its parent once, when it is imported.
from inspector import measure as _measure_package  # noqa: F401

if typing.TYPE_CHECKING:
    from inspector.api import compare, inspect, measure, plan
    from inspector.errors import (
        DoesNotFitError,
        InspectorError,
        ModelUnavailableError,
        UnsupportedModelError,
        UsageError,
    )
    from inspector.records.comparison import Comparison
    from inspector.records.engines.serving import ServingOptions
    from inspector.records.fit import Plan
    from inspector.records.measurement import Measurement
    from inspector.records.recipe import Generation, Recipe
    from inspector.records.report import Report
    from inspector.records.request import LoraOptions
else:
    del measure

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


# Where each name is, which is loaded with the first one that is asked for: the command, and the workers of `plan` and
# `app`, begin without any of them.
_PLACES = {
    "inspector.api": ("compare", "inspect", "measure", "plan"),
    "inspector.errors": (
        *("DoesNotFitError", "InspectorError", "ModelUnavailableError", "UnsupportedModelError", "UsageError"),
    ),
    "inspector.records.comparison": ("Comparison",),
    "inspector.records.engines.serving": ("ServingOptions",),
    "inspector.records.fit": ("Plan",),
    "inspector.records.measurement": ("Measurement",),
    "inspector.records.recipe": ("Generation", "Recipe"),
    "inspector.records.report": ("Report",),
    "inspector.records.request": ("LoraOptions",),
}


def __getattr__(name: str) -> typing.Any:
    """Load the public names, all at once; whoever holds a record can print it from then on."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for module, names in _PLACES.items():
        loaded = importlib.import_module(module)
        globals().update((own, getattr(loaded, own)) for own in names)
    return globals()[name]


def __dir__() -> list[str]:
    """Return the public names with those of every module."""
    return sorted({*globals(), *__all__})

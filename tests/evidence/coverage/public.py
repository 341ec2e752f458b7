"""Published configurations: each of the catalogue, trained in full and with LoRA on all linear layers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import inspector
from inspector.source.catalogue import list_ids
from tests.evidence.coverage.classes import list_broken_laws

__all__ = ["judge_public", "list_public"]

_METHODS: dict[str, dict[str, Any]] = {
    "in full": {},
    "LoRA on all linear layers": {"peft": {"peft_type": "LORA", "r": 16, "target_modules": "all-linear"}},
}


def list_public() -> list[dict[str, Any]]:
    """Return the cases: each model by each method."""
    return [{"model": model, "method": method} for model in list_ids() for method in _METHODS]


def judge_public(case: dict[str, Any], _folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what is found out of a run, with the defaults of the command."""
    try:
        report = inspector.inspect(case["model"], offline=True, advice=False, gpu="h200", **_METHODS[case["method"]])
    except inspector.InspectorError as error:
        yield {"counted": False, "traced": False, "reason": str(error)[:300]}
        return
    yield {"counted": True}
    if report.training is None:
        reason = next((item.message for item in report.warnings if item.code == "not-traced"), "no run")
        yield {"traced": False, "reason": reason}
        return
    broken = list_broken_laws(report.training)
    yield {
        "traced": True,
        "peak": report.training.peak_allocated_bytes,
        **({"broken": broken} if broken else {}),
    }

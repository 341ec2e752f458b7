"""The part of docs/evidence/kernels.md on state spaces: scans.md with what tests/trace/recorded_scans.json holds."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["write_scans"]

_RECORDED = Path(__file__).parents[2] / "trace" / "recorded_scans.json"


def write_scans() -> str:
    """Return the section."""
    recorded = json.loads(_RECORDED.read_text(encoding="utf-8"))
    steps: dict[str, list[int]] = recorded["steps"]
    return (
        (Path(__file__).parent / "scans.md")
        .read_text(encoding="utf-8")
        .format(
            models=", ".join(dict.fromkeys(name.partition(",")[0] for name in steps)),
            steps=len(steps),
            events=sum(map(len, steps.values())),
            versions=", ".join(f"{name} {version}" for name, version in recorded["versions"].items()),
        )
    )

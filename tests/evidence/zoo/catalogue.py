"""The bundled catalogue as its files say it, read without the inspector."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["FOLDER", "entries"]

FOLDER = Path(__file__).parents[3] / "fixtures" / "models"


def entries() -> dict[str, dict[str, Any]]:
    """Return every fixture by its id."""
    found = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json")))
    return {entry["id"]: entry for entry in found}

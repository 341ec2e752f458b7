"""A cache of a test's own: the rest of the suite has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from inspector.cache.environment import digest_environment
from inspector.cache.store import VARIABLE


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a cache that is empty and used from here on."""
    path = tmp_path / "kept"
    monkeypatch.setenv(VARIABLE, str(path))
    # What an earlier test of this process changed is none of this one's environment.
    digest_environment.cache_clear()
    return path

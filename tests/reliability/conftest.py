"""Fixtures: a Hub on loopback, and the rows that a session collects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.running import Ran
from tests.source.conftest import hub
from tests.source.loopback_hub import LoopbackHub

from .table import Rows

__all__ = ["hub"]

ROWS = Rows()


@pytest.fixture(scope="session")
def rows() -> Rows:
    """Return what the tests of this session have told so far."""
    return ROWS


@pytest.fixture
def told(rows: Rows, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str, str, Ran], None]:
    """Return the function that notes a fault and what the command did about it."""

    def tell(section: str, fault: str, ran: Ran) -> None:
        running: LoopbackHub | None = request.getfixturevalue("hub") if "hub" in request.fixturenames else None
        rows.add(section, fault, ran, {str(tmp_path): "FOLDER"}, len(running.requests) if running else None)

    return tell

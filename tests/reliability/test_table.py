"""docs/evidence/reliability.md holds what the tests of this folder saw."""

from __future__ import annotations

import pytest

from .table import Rows, committed, is_update, tables, write


def test_the_document_is_what_the_tests_saw(rows: Rows, request: pytest.FixtureRequest) -> None:
    """Every row that was seen is there word for word; with all tests run in one process, nothing else is.

    `UPDATE_RELIABILITY=1 python -m pytest tests/reliability` writes the tables anew.
    """
    if is_update():
        write(rows)
    text = committed()
    assert [row for row in rows.rows.values() if row.markdown() not in text.splitlines()] == []
    if tells_all(request):
        assert tables(rows) == text


def tells_all(request: pytest.FixtureRequest) -> bool:
    """Tell whether every test of this folder has run in this process, and none failed or was left out.

    A worker of pytest-xdist collects all tests and runs only a part of them.
    """
    if hasattr(request.config, "workerinput"):
        return False
    folder = request.path.parent
    files = {item.path for item in request.session.items}
    chosen = any("::" in argument for argument in request.config.args) or request.config.option.keyword
    return files >= set(folder.glob("test_*.py")) and not chosen and not request.session.testsfailed

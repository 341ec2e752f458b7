"""Data flows down the pipeline and never back: the borders of pyproject.toml hold."""

from __future__ import annotations

from pathlib import Path

from tests.cli.running import run_process, script


def test_no_import_crosses_a_border() -> None:
    """import-linter finds every contract kept."""
    configuration = Path(__file__).parents[2] / "pyproject.toml"
    ran = run_process(script("lint-imports"), "--config", str(configuration), "--no-cache")
    assert ran.code == 0, ran.out
    assert " 0 broken" in ran.out

"""The verified releases are those that are declared and installed, and newer ones are told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from inspector.compat.verified import VERIFIED, find_unverified_versions
from tests.cli.running import run

ROOT = Path(__file__).parents[2]
INSTALLED = [name for name, release in VERIFIED.items() if not release.is_read_only]


@pytest.mark.parametrize("name", INSTALLED)
def test_the_verified_range_is_from_the_lowest_supported_release_to_the_one_that_ci_installs(name: str) -> None:
    """pyproject.toml has the one, constraints.txt the other."""
    lowest = re.search(rf'"{name}>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert lowest is not None
    assert re.fullmatch(rf"{re.escape(lowest[1])}(\.0)*", VERIFIED[name].lowest)
    pinned = re.search(rf"(?m)^{name}==([\d.]+)", (ROOT / "constraints.txt").read_text())
    assert pinned is not None
    assert pinned[1] == VERIFIED[name].highest


def test_versions_up_to_the_verified_ones_are_passed_over() -> None:
    """Local labels and unknown libraries too."""
    assert find_unverified_versions({name: release.highest for name, release in VERIFIED.items()}) == ()
    assert find_unverified_versions({"torch": "2.13.0+cu128", "transformers": "5.9.1", "python": "3.99"}) == ()
    assert find_unverified_versions({"torch": "2.13", "peft": "unknown", "accelerate": "1.15.0.dev0"}) == ()


@pytest.mark.parametrize("version", ["2.13.1", "2.14", "2.14.0a0+git123", "3.0", "2.100"])
def test_a_newer_version_is_a_notice(version: str) -> None:
    """It names the library, both versions and the way to check."""
    (notice,) = find_unverified_versions({"peft": "0.1", "torch": version})
    assert notice.code == "unverified-version"
    assert notice.message.startswith(f"torch {version} is newer than {VERIFIED['torch'].highest}")
    assert "inspect measure" in notice.message


def test_the_version_of_the_command_lists_what_it_was_verified_with() -> None:
    """One line for the command, one for the libraries."""
    first, second = run("--version").out.splitlines()
    assert re.fullmatch(r"inspect \d+\.\d+\.\d+", first)
    for name, release in VERIFIED.items():
        assert f"{name} {release.lowest}" in second

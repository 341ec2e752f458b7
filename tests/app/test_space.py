"""The top of a Space says what the rest of the repository says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "space"


def read_pins(path: Path) -> dict[str, str]:
    """Return the versions of a list of requirements, those for newer Pythons where there are two."""
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", path.read_text(), re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in reversed(found)}


def test_the_front_matter_names_the_file_and_the_gradio_of_the_tests() -> None:
    _, head, _ = (SPACE / "README.md").read_text().split("---\n", 2)
    fields: dict[str, Any] = yaml.safe_load(head)
    assert fields["sdk"] == "gradio"
    assert (SPACE / fields["app_file"]).is_file()
    assert fields["sdk_version"] == read_pins(ROOT / "requirements-app.txt")["gradio"]
    assert len(fields["short_description"]) <= 60  # the Hub's bound


def test_its_requirements_are_those_of_the_package_at_the_versions_of_ci() -> None:
    """Torch alone comes from elsewhere, without CUDA."""
    project = (ROOT / "pyproject.toml").read_text().partition("dependencies = [")[2].partition("]")[0]
    wanted = {name.lower().replace("_", "-") for name in re.findall(r'"([\w-]+)>=[^;"]*"', project)}
    pins, of_ci = read_pins(SPACE / "requirements.txt"), read_pins(ROOT / "constraints.txt")
    assert set(pins) == wanted
    assert pins.items() <= of_ci.items()

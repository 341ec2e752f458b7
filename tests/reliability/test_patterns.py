"""A pattern in an adapter that would be matched for ever: refused in one line by the real command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import SMALL, assert_refused, run, run_process

ENDLESS = "([a-z0-9_.]+)+!"
FIELDS: dict[str, dict[str, Any]] = {
    "target_modules": {"target_modules": ENDLESS},
    "exclude_modules": {"exclude_modules": ENDLESS},
    "modules_to_save": {"modules_to_save": ["lm_head", ENDLESS]},
    "layers_pattern": {"layers_pattern": ENDLESS, "layers_to_transform": [0]},
    "rank_pattern": {"rank_pattern": {"q_proj": 4, ENDLESS: 8}},
    "alpha_pattern": {"alpha_pattern": {ENDLESS: 8}},
    "feedforward_modules": {"peft_type": "IA3", "feedforward_modules": ENDLESS},
    "n_frequency_pattern": {"peft_type": "FOURIERFT", "n_frequency_pattern": {ENDLESS: 8}},
    "block_size_pattern": {"peft_type": "C3A", "block_size": 64, "block_size_pattern": {ENDLESS: 8}},
}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.one_of(3)
def test_an_endless_pattern_in_an_adapter_is_refused(field: str, tmp_path: Path) -> None:
    """The command ends by itself, whichever field of adapter_config.json holds the pattern; one runs as a process."""
    adapter = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"], **FIELDS[field]}
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(adapter))
    arguments = (SMALL, "--offline", "--count-only", "--peft", str(path))
    is_process = field == "target_modules"
    ran = run_process(sys.executable, "-m", "inspector", *arguments) if is_process else run(*arguments)
    assert_refused(ran, 2, f"{field} of the PEFT configuration: '{ENDLESS}' is too involved")


def test_an_endless_pattern_of_the_user_is_refused() -> None:
    assert_refused(run(SMALL, "--offline", "--lora", "r=8", "--targets", ENDLESS), 2, "too involved a pattern")


def test_an_adapter_with_more_patterns_than_any_is_refused() -> None:
    adapter = {"peft_type": "LORA", "target_modules": ["q_proj"], "modules_to_save": [f"m{i}" for i in range(6_001)]}
    assert_refused(run(SMALL, "--offline", "--peft", json.dumps(adapter)), 2, "more than 2,000 entries")

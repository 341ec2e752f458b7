"""Code of a repository runs with --trust-remote-code and never without it."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from .running import Ran, assert_refused, run, run_process

CONFIGURATION = """
from pathlib import Path
from transformers import PretrainedConfig

Path(__file__).parent  # transformers runs a copy, so the mark is left where the test looks for it
Path({mark!r}).write_text("the repository's code ran")

class TinyConfig(PretrainedConfig):
    model_type = "tiny_of_the_test"

    def __init__(self, width=8, **kwargs):
        self.width = width
        super().__init__(**kwargs)
"""
MODELING = """
from torch import nn
from transformers import PreTrainedModel
from .configuration_tiny import TinyConfig

class TinyForCausalLM(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.inner = nn.Linear(config.width, config.width)
        self.post_init()

    def forward(self, x):
        return self.inner(x)
"""
CONFIG: dict[str, Any] = {
    "model_type": "tiny_of_the_test",
    "architectures": ["TinyForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_tiny.TinyConfig",
        "AutoModelForCausalLM": "modeling_tiny.TinyForCausalLM",
    },
    "width": 5,
    "dtype": "float32",
}


def repository(tmp_path: Path, config: dict[str, object]) -> tuple[Path, Path]:
    """Write a repository with code; return it and the file that its code would write."""
    folder, mark = tmp_path / "tiny", tmp_path / "mark"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "configuration_tiny.py").write_text(CONFIGURATION.replace("{mark!r}", repr(str(mark))))
    (folder / "modeling_tiny.py").write_text(MODELING)
    return folder, mark


def trusted(folder: Path, home: Path) -> Ran:
    """Inspect with trust, in a process of its own: transformers copies the code to HF_HOME and imports it."""
    command = (sys.executable, "-m", "inspector", str(folder), "--json", "--trust-remote-code")
    return run_process(*command, environment={"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"})


def test_code_is_not_run_without_trust(tmp_path: Path) -> None:
    """The command says what to do first: read the code."""
    folder, mark = repository(tmp_path, CONFIG)
    assert_refused(run(str(folder)), 4, "--trust-remote-code")
    assert not mark.exists()


def test_code_beside_a_known_model_is_not_run_without_trust(tmp_path: Path) -> None:
    """A repository that ships code for a model transformers has is built by transformers' own."""
    folder, mark = repository(tmp_path, {**CONFIG, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]})
    ran = run(str(folder), "--assume-defaults", "--count-only", "--json")
    assert ran.report["model"]["class"] == "Qwen2ForCausalLM"
    assert not mark.exists()


def test_trusted_code_is_built_and_counted(tmp_path: Path) -> None:
    """A linear layer of 5 by 5 with its bias has 30 parameters, and the report says whose code it was."""
    folder, mark = repository(tmp_path, CONFIG)
    report = trusted(folder, tmp_path / "home").report
    assert mark.exists()
    assert (report["model"]["class"], report["parameters"]["base"]) == ("TinyForCausalLM", 30)
    assert "remote-code" in [warning["code"] for warning in report["warnings"]]


def test_trusted_code_that_fails_is_one_line(tmp_path: Path) -> None:
    """What the code raises is said, and nothing of what it prints gets out."""
    folder, _ = repository(tmp_path, CONFIG)
    (folder / "configuration_tiny.py").write_text("print('noise')\nraise SystemError('broken\\n\\x1b[31mcode')\n")
    assert_refused(trusted(folder, tmp_path / "home"), 4, "broken")


def test_packages_that_the_code_needs_are_named(tmp_path: Path) -> None:
    """What transformers finds missing in the imports of a file is a line with what to install."""
    folder, _ = repository(tmp_path, CONFIG)
    (folder / "configuration_tiny.py").write_text("import nobodys_package\nimport others_package\n")
    assert_refused(trusted(folder, tmp_path / "home"), 4, "pip install nobodys_package others_package")


def test_trusted_code_is_not_fetched_offline(tmp_path: Path) -> None:
    """The code may live in another repository; --offline asks for that one neither."""
    auto_map = {name: f"org/code--{place}" for name, place in CONFIG["auto_map"].items()}
    folder, _ = repository(tmp_path, {**CONFIG, "auto_map": auto_map})
    with socket.create_server(("127.0.0.1", 0)) as hub:
        hub.settimeout(0)
        command = (sys.executable, "-m", "inspector", str(folder), "--offline", "--trust-remote-code")
        address = f"http://127.0.0.1:{hub.getsockname()[1]}"
        ran = run_process(*command, environment={"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": address})
        assert_refused(ran, 4, "configuration code")
        with pytest.raises(BlockingIOError):
            hub.accept()

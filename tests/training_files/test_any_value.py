"""Whatever stands in a field: it is read, or refused in one line; nothing else comes of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from inspector.errors import InspectorError
from inspector.training_files.merge import build_request
from inspector.training_files.read import read_launch_file
from inspector.training_files.recognise import FRAMEWORKS

from .documents import AXOLOTL, LLAMAFACTORY, MODEL, TRL, write

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 2**31, 10**30, 0.5, 1e308, float("inf"), float("nan")),
    *("", "x", "true", "auto", "1", "1e5", "lora", "qlora", "dpo", "a,b", "[", "\0", "x" * 5000),
    *([], ["x"], [1], [[]], {}, {"x": 1}, {"use_reentrant": "x"}, {"zero_stage": [], "stage": {}}, [None]),
]
CHOSEN = VALUES if os.environ.get("INSPECTOR_TRUTH") == "all" else VALUES[::3]
DOCUMENTS = {"trl": TRL, "transformers": TRL, "axolotl": AXOLOTL, "llamafactory": LLAMAFACTORY}
DOCUMENTS |= {"accelerate": {"distributed_type": "FSDP"}, "deepspeed": {"zero_optimization": {"stage": 2}}}


CALLS = {"load": "FastLanguageModel.from_pretrained", "peft": "FastLanguageModel.get_peft_model"}
CALLS |= {"args": "SFTConfig", "trainer": "SFTTrainer"}


@pytest.mark.parametrize("framework", [*DOCUMENTS, "unsloth"])
def test_any_value_of_any_field_is_read_or_refused_in_one_line(framework: str, tmp_path: Path) -> None:
    refused = []
    for item in FRAMEWORKS[framework].fields:
        for value in CHOSEN:
            try:
                build(framework, item.name, value, tmp_path)
            except InspectorError as error:
                refused.append(str(error))
    assert 0 < len(refused) < len(FRAMEWORKS[framework].fields) * len(CHOSEN)
    assert [message for message in refused if "\n" in message or len(message) > 1000] == []


def build(framework: str, name: str, value: Any, folder: Path) -> None:
    """Read a file of a framework with a field of a value."""
    if framework == "unsloth":
        kind, _, argument = name.partition(".")
        code = f"import unsloth\nFastLanguageModel.from_pretrained('{MODEL}')\n{CALLS[kind]}({argument}={value!r})"
        build_request({"model": write(folder, code, "train.py")}, frozenset(), base_model=MODEL)
        return
    path = write(folder, DOCUMENTS[framework] | {name: value})
    if framework in ("accelerate", "deepspeed"):
        read_launch_file(path)
    else:
        build_request({"model": path}, frozenset(), framework=framework, base_model=MODEL)

"""What a worker answers: the page of the command that it names, whatever it kept from questions before."""

from __future__ import annotations

import dataclasses
import gzip
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from inspector.app import work
from inspector.app.form import Form, build_question, make_upload
from inspector.app.kept import KeptStages
from inspector.app.questions import Answer, Kind, Upload
from inspector.cli.main import command as inspect_command
from inspector.errors import InspectorError

SMALL = Form(model="Qwen/Qwen2.5-0.5B", gpus=("4090",), rank=4)


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Answer]:
    """Return what a worker that was just started answers, in a folder of its own and without network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(work, "_kept", KeptStages())
    monkeypatch.chdir(tmp_path)

    def answer(form: Form, kind: Kind = Kind.REPORT, upload: Upload | None = None) -> Answer:
        return work.answer(build_question(kind, form, upload), lambda _stage: None)

    return answer


def run_by_hand(typed: str) -> str:
    """Return the page that a command line writes."""
    words = shlex.split(typed)
    assert words[0] == "inspect"
    job = inspect_command.main([*words[1:], "--format", "html", "--output", "report.html"], standalone_mode=False)
    assert job() in (0, 1)
    return Path("report.html").read_text()


def test_the_command_that_is_named_gives_the_page_that_is_shown(ask: Callable[..., Answer]) -> None:
    """Also the second time, when what was counted and traced before is used."""
    ask(SMALL)
    answer = ask(dataclasses.replace(SMALL, seq_len=512))
    assert (
        answer.command
        == "inspect Qwen/Qwen2.5-0.5B --lora r=4 --targets all-linear --seq-len 512 --gpu 4090 --no-advice"
    )
    assert gzip.decompress(answer.page).decode() == run_by_hand(answer.command)


def test_a_training_file_is_answered_and_its_settings_are_told(ask: Callable[..., Answer], tmp_path: Path) -> None:
    """It lies in the worker's folder as long as the answer takes."""
    content = b"base_model: Qwen/Qwen2.5-0.5B\nadapter: lora\nlora_r: 2\nlora_target_linear: true\nsequence_len: 64\n"
    answer = ask(Form(), upload=make_upload("train.yaml", content))
    assert answer.command == "inspect train.yaml"
    assert answer.settings["model"] == "Qwen/Qwen2.5-0.5B"
    assert (answer.settings["rank"], answer.settings["seq_len"], answer.settings["mixed_precision"]) == (2, 64, "bf16")
    assert list(tmp_path.iterdir()) == []


def test_messages_name_options_and_are_one_line(ask: Callable[..., Answer]) -> None:
    with pytest.raises(InspectorError, match="matches no module") as raised:
        ask(dataclasses.replace(SMALL, targets="/etc/passwd"))
    assert "\n" not in str(raised.value)
    with pytest.raises(InspectorError, match="output=/tmp/x"):
        ask(dataclasses.replace(SMALL, gpus=("--output=/tmp/x",)))
    with pytest.raises(InspectorError, match="--offline"):
        ask(dataclasses.replace(SMALL, model="nobody/nothing"))

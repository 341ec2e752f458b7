"""What a visitor sets becomes words of a command line, and nothing else."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from inspector.app.form import BOUNDS, Form, build_question, fit_settings, make_upload
from inspector.app.questions import Kind
from inspector.errors import InspectorError, ModelUnavailableError, UsageError

MODEL = Form(model="org/model")
FILE = make_upload("train.yaml", b"base_model: org/model")


def words(form: Form, kind: Kind = Kind.REPORT, **others: Any) -> tuple[str, ...]:
    """Return the words of a form."""
    return build_question(kind, form, **others).words


def test_settings_are_spelled_as_options_where_they_are_no_defaults() -> None:
    """The adapter of the page is always said: the command has none by default."""
    lora = ("--lora=r=16", "--targets=all-linear")
    assert words(MODEL) == ("org/model", *lora)
    assert words(dataclasses.replace(MODEL, adapter="none", seq_len=4096)) == ("org/model", "--seq-len=4096")
    assert words(dataclasses.replace(MODEL, gpus=("4090",), gradient_checkpointing="on")) == (
        *("org/model", *lora, "--gradient-checkpointing", "--gpu=4090", "--no-advice"),
    )
    assert words(dataclasses.replace(MODEL, gpus=("4090",), optimizer="sgd", batch_size=2), Kind.PLAN) == (
        *("org/model", *lora, "--batch-size=2", "--gpu=4090"),
    )


@pytest.mark.parametrize(
    "name",
    [
        *("/etc/passwd", "../..", "..", ".", "~", "~root/model", "./model", "model/", "config.json", "C:\\models"),
        *("--peft=/etc/passwd", "-h", "a b", "org/model --offline", "org/../../etc", "a/b/c", "\0", "ö/x"),
        *("https//x", "<script>", "${x}", "{{x}}", "x" * 301, "file:///etc/passwd", ""),
    ],
)
def test_a_model_that_is_no_id_of_the_hub_is_refused(name: str) -> None:
    """Paths, options, commands, markup, other schemes; an address is judged by the worker, which knows the Hub's."""
    with pytest.raises(ModelUnavailableError):
        words(Form(model=name))


@pytest.mark.parametrize(
    "change",
    [
        {"adapter": "--peft"},
        {"optimizer": "x y"},
        {"quantization": "nf4 --offline"},
        {"batch_size": 0},
        {"batch_size": True},
        {"seq_len": 10**9},
        {"targets": "x" * 1001},
        {"gpus": ("4090",) * 7},
    ],
)
def test_what_the_page_cannot_set_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        words(dataclasses.replace(MODEL, **change))


def test_no_value_becomes_an_option_of_its_own() -> None:
    """Each stays behind the sign of equality of the option that it is for."""
    form = dataclasses.replace(MODEL, targets="--peft=/etc/passwd", gpus=("--output=/tmp/x",))
    assert words(form)[1:] == (
        *("--lora=r=16", "--targets=--peft=/etc/passwd", "--gpu=--output=/tmp/x", "--no-advice"),
    )


def test_a_plan_is_for_one_card() -> None:
    with pytest.raises(UsageError, match="one card"):
        words(MODEL, Kind.PLAN)


def test_a_training_file_says_everything_until_the_form_is_filled_by_it() -> None:
    """Then what is changed goes before it."""
    form = Form(seq_len=4096, gpus=("4090",))
    assert words(form, upload=FILE) == ("train.yaml", "--gpu=4090", "--no-advice")
    settled = fit_settings(form, {"model": "org/model", "rank": 8, "seq_len": 2048, "mixed_precision": "bf16"})
    assert words(settled, upload=FILE, settled=settled) == ("train.yaml", "--gpu=4090", "--no-advice")
    changed = dataclasses.replace(settled, seq_len=512, model="org/other", gradient_checkpointing="off")
    assert words(changed, upload=FILE, settled=settled) == (
        *("train.yaml", "--base-model=org/other", "--seq-len=512", "--no-gradient-checkpointing", "--gpu=4090"),
        "--no-advice",
    )
    assert "--lora=r=32" in words(dataclasses.replace(settled, rank=32), upload=FILE, settled=settled)
    with pytest.raises(UsageError, match="keeps its adapter"):
        words(dataclasses.replace(settled, adapter="none"), upload=FILE, settled=settled)


def test_what_a_file_says_is_shown_as_far_as_the_page_can() -> None:
    """A value beyond a slider is its end, which is not what is asked for: it was not changed."""
    settled = fit_settings(Form(), {"seq_len": 10**6, "optimizer": "one that the page has not", "rank": 4})
    assert (settled.seq_len, settled.optimizer, settled.rank) == (BOUNDS["seq_len"][1], Form().optimizer, 4)
    assert words(settled, upload=FILE, settled=settled) == ("train.yaml",)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("train.yaml", "train.yaml"),
        ("my run (2).YML", "my_run_2_.YML"),
        ("../../etc/passwd.yaml", "etc_passwd.yaml"),
        ("--peft=x.json", "peft_x.json"),
        (".yaml", "train.yaml"),
        ("ö.toml", "train.toml"),
        ("x" * 300 + ".py", "x" * 77 + ".py"),
    ],
)
def test_a_dropped_file_has_a_name_that_is_neither_a_path_nor_an_option(given: str, kept: str) -> None:
    assert make_upload(given, b"").name == kept


def test_another_kind_of_file_is_refused() -> None:
    with pytest.raises(InspectorError, match="no training file"):
        make_upload("model.safetensors", b"")


def test_questions_are_equal_by_words_and_content_and_not_by_the_name_of_the_visitor() -> None:
    one, other = build_question(Kind.REPORT, MODEL), build_question(Kind.REPORT, MODEL)
    assert one.key == other.key
    keys = {
        one.key,
        build_question(Kind.PLAN, dataclasses.replace(MODEL, gpus=("4090",))).key,
        build_question(Kind.REPORT, dataclasses.replace(MODEL, gpus=("4090",))).key,
        build_question(Kind.REPORT, Form(), make_upload("train.yaml", b"a: 1")).key,
        build_question(Kind.REPORT, Form(), make_upload("train.yaml", b"a: 2")).key,
    }
    assert len(keys) == 5

"""Options that are wrong or contradict each other end with code 2 and one line, before any work is done."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .running import SMALL, assert_refused, run


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--lora", "r=8", "--peft", '{"peft_type": "LORA"}'], "exclude each other"),
        (["--peft", '{"peft_type": "LORA"}', "--targets", "q_proj"], "go with --lora"),
        (["--peft", '{"peft_type": "LORA"}', "--modules-to-save", "lm_head"], "go with --lora"),
        (["--targets", "q_proj"], "add --lora"),
        (["--modules-to-save", "lm_head"], "add --lora"),
        (["--exclude-targets", "router"], "add --lora"),
        (["--lora", "r=8", "--exclude-targets", "a,,b"], "--exclude-targets 'a,,b' has an empty name"),
        (["--lora", "r=8", "--exclude-targets", "(a"], "--exclude-targets '(a' is neither a comma list"),
        (["--json", "--format", "text"], "contradicts"),
        (["--json", "--format", "markdown"], "contradicts"),
        (["--format", "yaml"], "--format"),
        (["--depth", "abc"], "--depth"),
        (["--depth", "-1"], "--depth"),
        (["--depth", "1000"], "--depth"),
        (["--dtype", "int8"], "--dtype"),
        (["--max-grad-norm", "nan"], "--max-grad-norm"),
        (["--max-grad-norm", "inf"], "--max-grad-norm"),
        (["--optimizer", "adamw_tourch"], "did you mean adamw_torch?"),
        (["--optimizer", "paged-adamw"], "did you mean paged_adamw"),
        (["--optimizer", "adamw"], "did you mean adamw_torch?"),
        (["--optimizer", "lion"], "did you mean lion_32bit?"),
        (["--optimizer", "zzz"], "adamw_torch_fused"),
        (["--optimizer", "galore_adafactor"], "use galore_adamw, the nearest"),
        (["--optimizer", "galore_adamw", "--optim-args", "proj_type=up"], "use std, reverse_std"),
        (["--optimizer", "galore_adamw", "--optim-args", "rank=0"], "use 1 or more"),
        (["--optimizer", "lorafa"], "add `--lora r=16`"),
        (["--optimizer", ""], "--optimizer"),
        (["--optim-args", "foreach"], "key=value"),
        (["--optim-args", ""], "key=value"),
        (["--optim-args", "momentum=0.9"], "adamw_torch_fused has no argument"),
        (["--optimizer", "sgd", "--optim-args", "momentum=much"], "'much' is not a number"),
        (["--optimizer", "lion_8bit", "--optim-args", "momentum=0.9"], "lion_8bit has no argument"),
        (["--optimizer", "rmsprop_bnb"], "bfloat16"),
        (["--batch-size", "0"], "--batch-size"),
        (["--seq-len", "1x"], "'1x' is not an integer; see --help"),
        (["--seq-len", "99999k"], "not in the range"),
        (["--quantization", "4bit"], "may be nf4"),
        (["--max-grad-norm", "much"], "'much' is not a number; see --help"),
        (["--tragets", "q_proj"], "'--targets'?"),
        (["--mixed-precision", "fp8"], "--mixed-precision"),
        (["--mixed-precision", "fp16", "--dtype", "float16"], "--dtype float32"),
        (["--lora"], "--lora"),
        (["--offline=1"], "--offline"),
        (["another/model"], "'another/model' beside it is no value of an option: name one model"),
        (["--lora", "--gpu", "4090"], "--lora needs a value before --gpu: write --lora r=16."),
        (["--seq-len", "--gpu", "4090"], "--seq-len needs a value before --gpu: write --seq-len 1024."),
        (["--lora", "r16"], "did you mean r=16?"),
        (["--lora", "rank:16"], "did you mean r=16?"),
        (["--lora", "r=16,alpha32"], "did you mean alpha=32?"),
        (["--qlora"], "write --quantization nf4 --double-quant --lora r=16."),
        (["--load_in_4bit"], "write --quantization nf4."),
        (["--attn-implementation", "sdpa"], "write --attention."),
        (["--learning-rate", "1e-4"], "memory does not depend on it; drop it."),
        (["--gradient-checkpointing", "True"], "is a switch, which takes no value: drop 'True'."),
        (["--fsdp", "full_shard"], "--fsdp is a switch, which takes no value: drop 'full_shard'."),
        (["--mixed-precision", "fp32"], "fp32 is no autocast; give no"),
        (["--gpu", "3090,4090"], "give each by itself, --gpu 3090 and --gpu 4090."),
        (["--model-class", "NoSuchModel"], "--model-class"),
        (["--model-class", "PreTrainedModel"], "--model-class"),
        (["--model-class", "LlamaPreTrainedModel"], "--model-class"),
        (["--model-class", "\x00"], "--model-class"),
    ],
)
def test_a_wrong_option_is_refused(options: list[str], says: str) -> None:
    """The option at fault is named."""
    assert_refused(run(SMALL, "--offline", *options), 2, says)


def test_a_model_has_to_be_named() -> None:
    """Without arguments the command says what is missing."""
    assert_refused(run(), 2, "MODEL")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("measure", SMALL, "--gpu", "4090"), "--gpu is an option of inspect MODEL and has no place here; see --help."),
        (("plan", SMALL, "--optimizer", "sgd"), "--optimizer is an option of inspect MODEL and has no place here"),
        (
            ("compare", SMALL, "--with", "--json"),
            "--json is an option of inspect MODEL and has no place here; give options",
        ),
    ],
)
def test_an_option_of_the_report_is_told_where_a_command_does_not_have_it(
    arguments: tuple[str, ...], says: str
) -> None:
    """Nothing that happens to be spelt alike is proposed in its place."""
    assert_refused(run(*arguments), 2, says)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("gpu", "--offline"), 3, "did you mean the command inspect gpus?"),
        (("mesure", SMALL, "--offline"), 2, "did you mean the command inspect measure?"),
        (("Plan", SMALL, "--sort", "total"), 2, "did you mean the command inspect plan?"),
        (("compere", "--offline"), 3, "did you mean the command inspect compare?"),
    ],
)
def test_the_error_of_a_mistyped_command_names_the_command_that_was_meant(
    arguments: tuple[str, ...], code: int, says: str
) -> None:
    """It was taken for a model that is nowhere, or for one with options that it does not have."""
    assert_refused(run(*arguments), code, says)


def test_a_directory_that_is_called_nearly_like_a_command_is_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is an id that is near none."""
    (tmp_path / "plans").mkdir()
    monkeypatch.chdir(tmp_path)
    for word in ("plans", "nothing"):
        ran = run(word, "--offline")
        assert_refused(ran, 3)
        assert "did you mean the command" not in ran.err


def test_a_class_that_does_not_fit_the_configuration_cannot_be_inspected() -> None:
    """The class exists, so the model is what cannot be built."""
    assert_refused(run(SMALL, "--offline", "--model-class", "GPT2LMHeadModel"), 4, "--model-class")


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("", "no file name"),
        ("\x00", "no file name"),
        (".", "is a directory"),
        ("missing/report.json", "create it first"),
        ("file/report.json", "create it first"),
        ("x" * 300, "cannot be written"),
        ("~nobody-of-that-name/report.json", "cannot be written"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    output: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for a report that then has no place to go."""
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("inspector.pipeline.run", None)  # calling it would fail otherwise
    assert_refused(run(SMALL, "--offline", "--output", output), 2, says)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_in_a_read_only_directory_is_refused(tmp_path: Path) -> None:
    """Permissions are looked at before the work, too."""
    tmp_path.chmod(0o500)
    assert_refused(run(SMALL, "--offline", "--output", str(tmp_path / "report.json")), 2, "cannot be written")


def test_an_output_that_turns_out_unwritable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only the attempt shows is one line as well, and nothing is left behind."""
    monkeypatch.setattr("os.access", lambda *_: True)
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setattr(
        "inspector.cli.commands.inspect._render", lambda *_, **__: folder.joinpath("no", "such", "file").touch()
    )
    assert_refused(run(SMALL, "--offline", "--output", str(folder / "report.json")), 2, "No such file")
    assert list(folder.iterdir()) == []


def test_a_report_that_fails_half_way_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is replaced whole or not at all."""

    def fail(_report: object, _format: str, stream: object, **_: object) -> None:
        stream.write("half")  # type: ignore[attr-defined]
        raise RuntimeError("half-way")

    monkeypatch.setattr("inspector.cli.commands.inspect._render", fail)
    file = tmp_path / "report.json"
    file.write_text("old")
    ran = run(SMALL, "--offline", "--output", str(file))
    assert ran.code == 70
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_fault_of_the_inspector_is_one_line_that_says_how_to_see_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw shows no traceback unless INSPECTOR_DEBUG=1 asks for it."""

    def fail(*_: object, **_settings: object) -> None:
        raise RuntimeError("two\nlines\x1b[31m")

    monkeypatch.setattr("inspector.pipeline.record", fail)
    ran = run(SMALL, "--offline")
    assert ran == (type(ran))(70, "", ran.err)
    assert ran.err.count("\n") == 1
    assert "internal error, RuntimeError: two lines" in ran.err
    assert "INSPECTOR_DEBUG=1" in ran.err
    assert "\x1b" not in ran.err
    monkeypatch.setenv("INSPECTOR_DEBUG", "1")
    assert "Traceback (most recent call last)" in run(SMALL, "--offline").err


def test_debugging_shows_where_a_known_error_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """INSPECTOR_DEBUG=1 adds the traceback, with its causes, and keeps line and code."""
    monkeypatch.setenv("INSPECTOR_DEBUG", "1")
    ran = run(SMALL, "--offline", "--peft", '{"peft_type": "LORA", "lora_dropout": "x"}')
    assert ran.code == 2
    assert "Traceback (most recent call last)" in ran.err
    assert "The above exception was the direct cause" in ran.err
    assert ran.err.splitlines()[-1].startswith("inspect: PEFT refuses LORA")


@pytest.mark.parametrize(
    ("option", "written", "meant", "field"),
    [
        ("--seq-len", "1k", 1024, lambda report: report["training"]["recipe"]["seq_len"]),
        ("--quantization", "8bit", "int8", lambda report: report["quantization"]["method"]),
    ],
)
def test_a_value_may_be_written_as_people_write_it(
    option: str, written: str, meant: object, field: Callable[[dict[str, Any]], object]
) -> None:
    assert field(run(SMALL, "--offline", "--lora", "r=8", option, written, "--json").report) == meant


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["fit", SMALL], "'fit' is no command; write inspect MODEL --fit batch-size."),
        (["offline", SMALL], "'offline' is no command; write inspect MODEL --offline."),
        ([SMALL, "4090"], f"'{SMALL}' is taken for MODEL, and '4090' beside it is no value"),
    ],
)
def test_a_word_too_many_is_answered_with_what_is_missing(words: list[str], says: str) -> None:
    assert_refused(run(*words), 2, says)


def test_a_json_file_that_is_neither_report_nor_configuration_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text('{"a": 1}', encoding="utf-8")
    assert_refused(run("compare", SMALL, str(path), "--offline"), 2, "is no report, which inspect MODEL --json writes")


def test_numbers_are_taken_as_reports_print_them() -> None:
    ran = run(SMALL, "--offline", "--json", "--count-only", "--seq-len", "4,096", "--batch-size", "1,024")
    assert ran.code == 0
    assert_refused(run(SMALL, "--offline", "--seq-len", "4,96"), 2, "'4,96' is not an integer")

"""Values of options as people write them: taken, or answered with what was meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import inspector
from inspector.cli.main import command
from inspector.records.recipe import Precision, Recipe
from inspector.records.request import Request, WeightDtype

from .running import SMALL, assert_refused, run

pytestmark = pytest.mark.usefixtures("shared_answers")

COUNT = (SMALL, "--offline", "--count-only", "--depth", "0")


@pytest.mark.parametrize(("alias", "meant"), [("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float32")])
def test_a_dtype_may_be_called_by_its_short_name(alias: str, meant: str) -> None:
    assert run(*COUNT, "--dtype", alias, "--json").report["model"]["dtype"] == meant
    assert Request(model=SMALL, dtype=alias).dtype is WeightDtype(meant)


@pytest.mark.parametrize(("alias", "meant"), [("bfloat16", "bf16"), ("float16", "fp16")])
def test_mixed_precision_may_be_called_by_the_name_of_the_dtype(alias: str, meant: str) -> None:
    options = ("--seq-len", "8", "--dtype", "float32", "--mixed-precision", alias, "--json")
    assert run(SMALL, "--offline", *options).report["training"]["recipe"]["mixed_precision"] == meant
    assert Recipe(mixed_precision=alias).mixed_precision is Precision(meant)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--optimizer", "adam"], "--optimizer adam is not known; did you mean adamw_torch_fused?"),
        (["--lora", "r=8", "--targets", "all"], "did you mean all-linear?"),
        (["--gpu", ""], "--gpu is empty; see `inspect gpus`"),
        (["--use-cache", "--gradient-checkpointing"], "--use-cache has no effect with --gradient-checkpointing"),
        (["--attention", "eager", "--sdpa-backend", "math"], "--sdpa-backend has no effect with --attention eager"),
        (["--output", "report.csv"], "this is not written as CSV"),
    ],
)
def test_what_cannot_be_meant_is_answered_with_what_can(options: list[str], says: str) -> None:
    assert_refused(run(SMALL, "--offline", *options), 2, says)


def test_a_hyphen_is_standard_output() -> None:
    assert run(*COUNT, "--json", "--output", "-") == run(*COUNT, "--json")
    assert not Path("-").exists()


@pytest.mark.parametrize(("ending", "starts"), [("json", "{"), ("md", "# "), ("markdown", "# "), ("txt", SMALL)])
def test_the_name_of_the_file_decides_the_format(ending: str, starts: str, tmp_path: Path) -> None:
    path = tmp_path / f"report.{ending}"
    assert run(*COUNT, "--output", str(path)).code == 0
    assert path.read_text(encoding="utf-8").lstrip("\n").startswith(starts)


def test_an_option_goes_before_the_name_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    assert run(*COUNT, "--json", "--output", str(path)).code == 0
    assert json.loads(path.read_text(encoding="utf-8"))["schema"] == "inspector/1"


def test_the_help_of_a_plan_asks_for_one_gpu() -> None:
    """It refuses none and several."""
    of_a_plan, of_a_report = (
        " ".join(
            CliRunner()
            .invoke(command, [*words, "--help"])
            .output.split("--gpu NAME")[1]
            .split("--gpu-memory")[0]
            .split()
        )
        for words in (["plan"], [])
    )
    assert "exactly one, here or as" in of_a_plan
    assert ("repeatable" in of_a_plan, "repeatable" in of_a_report) == (False, True)


@pytest.mark.parametrize(("rank", "is_beyond"), [(128, False), (129, True), (1_000_000, True)])
def test_a_rank_that_no_layer_can_use_is_noted(rank: int, is_beyond: bool) -> None:
    """Keys and values of Qwen2.5-0.5B have 128 outputs."""
    options = inspector.LoraOptions(r=rank, targets="all-linear")
    report = inspector.inspect(SMALL, peft=options, offline=True, count_only=True)
    found = [notice.message for notice in report.warnings if notice.code == "rank-beyond-layer"]
    assert bool(found) is is_beyond
    assert not found or found[0].startswith(f"Rank {rank:,} is beyond the smaller side of")

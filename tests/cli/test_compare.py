"""`inspect compare`: what is set side by side is what `inspect MODEL` says of each, and mistakes are one line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # ships no types

from tests.cli.running import SMALL, assert_refused, run, written
from tests.contracts.json_table import closed, load_schema
from tests.source.weight_files import TINY_CONFIG

pytestmark = pytest.mark.usefixtures("shared_answers")

SCHEMA = Draft202012Validator(closed(load_schema("comparison")))
QUICK = ("--offline", "--seq-len", "64")
LORA = ("--lora", "r=4", "--targets", "all-linear")


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """Return the path of a model of one small layer, traced in a moment."""
    return written(tmp_path, {**TINY_CONFIG, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 400})


def figures(comparison: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Return the figures that differ, by their paths."""
    return {each["path"]: each["values"] for each in comparison["figures"]}


def test_each_recipe_has_the_figures_that_the_command_gives_for_it(tiny: str) -> None:
    """Three recipes: what --with says is added, replaces, and replaces the adapter."""
    peft = '{"peft_type": "IA3", "target_modules": ["k_proj"], "feedforward_modules": []}'
    withs = ("--batch-size 4 --optimizer sgd", "--no-autocast-adapter-dtype --gpu-memory 2GiB", f"--peft '{peft}'")
    shared = (tiny, *QUICK, *LORA, "--optimizer", "adamw_8bit", "--gpu-memory", "1GiB")
    made = run("compare", *shared, "--json", *(word for text in withs for word in ("--with", text))).report
    SCHEMA.validate(made)
    plain = ("--json", "--no-advice")
    alone = [
        run(*shared, *plain).report,
        run(tiny, *QUICK, *LORA, *plain, "--gpu-memory", "1GiB", "--batch-size", "4", "--optimizer", "sgd").report,
        run(
            *(tiny, *QUICK, *LORA, *plain, "--optimizer", "adamw_8bit", "--gpu-memory", "2GiB"),
            "--no-autocast-adapter-dtype",
        ).report,
        run(tiny, *QUICK, *plain, "--optimizer", "adamw_8bit", "--gpu-memory", "1GiB", "--peft", peft).report,
    ]
    found = figures(made)
    for path in ("parameters.trainable", "training.peak_allocated_bytes", "training.total_bytes"):
        section, key = path.split(".")
        assert found[path] == {letter: report[section][key] for letter, report in zip("ABCD", alone, strict=True)}
    assert "parameters.base" in made["equal"]
    settings = {each["path"]: each["values"] for each in made["settings"]}
    assert settings["training.recipe.optimizer"] == {
        "A": "adamw_8bit",
        "B": "sgd",
        "C": "adamw_8bit",
        "D": "adamw_8bit",
    }
    assert settings["adapter.type"]["D"] == "IA3"
    assert "C" not in found["fit.1 GiB.headroom_bytes"]


def test_models_are_compared_under_the_same_options(tiny: str, tmp_path: Path) -> None:
    """Each by its name with the options."""
    other = tmp_path / "other"
    other.mkdir()
    wide = written(other, {**TINY_CONFIG, "hidden_size": 128, "intermediate_size": 96, "vocab_size": 400})
    made = run("compare", tiny, wide, *QUICK, *LORA, "--json").report
    assert [each["name"] for each in made["recipes"]] == [
        f"{each} --lora r=4 --targets all-linear --seq-len 64" for each in (tiny, wide)
    ]
    base = figures(made)["parameters.base"]
    # Of 400 x 64 twice and three projections of 64 x 96 twice as many, of attention four times 64 x 64 four times.
    assert base["B"] - base["A"] == 2 * 400 * 64 + 3 * 64 * 96 + 4 * 3 * 64 * 64 + 3 * 64


def test_reports_that_were_written_before_are_compared(tiny: str, tmp_path: Path) -> None:
    """With each other and with a model."""
    before, after = str(tmp_path / "before.json"), str(tmp_path / "after.json")
    assert run(tiny, *QUICK, "--json", "--output", before).code == 0
    assert run(tiny, *QUICK, "--json", "--optimizer", "sgd", "--output", after).code == 0
    made = run("compare", before, after, "--json").report
    SCHEMA.validate(made)
    assert [each["name"] for each in made["recipes"]] == [before, after]
    peaks = [json.loads(Path(each).read_text())["training"]["peak_allocated_bytes"] for each in (before, after)]
    assert figures(made)["training.peak_allocated_bytes"] == dict(zip("AB", peaks, strict=True))
    again = run("compare", before, tiny, *QUICK, "--json").report
    assert (again["figures"], again["settings"]) == ([], [])


def test_the_forms_of_a_comparison_say_the_same(tiny: str) -> None:
    """Text of 80 columns, Markdown and CSV; the file is written."""
    shared = ("compare", tiny, *QUICK, "--with", "--optimizer sgd")
    text, markdown, table = run(*shared), run(*shared, "--format", "markdown"), run(*shared, "--format", "csv")
    made = run(*shared, "--json").report
    assert max(map(len, text.out.splitlines())) <= 80
    peak = figures(made)["training.peak_allocated_bytes"]
    for out in (text.out, markdown.out):
        assert f"{peak['A']:,}" in out
        assert f"{peak['B'] - peak['A']:,}" in out
    rows = {each["path"]: each for each in csv.DictReader(io.StringIO(table.out))}
    assert rows["training.peak_allocated_bytes"] == {
        "path": "training.peak_allocated_bytes",
        "A": str(peak["A"]),
        "B": str(peak["B"]),
        "B-A": str(peak["B"] - peak["A"]),
    }
    assert (rows["training.recipe.optimizer"]["A"], rows["training.recipe.optimizer"]["B"]) == (
        "adamw_torch_fused",
        "sgd",
    )
    assert list(rows) == [each["path"] for each in (*made["settings"], *made["figures"])]


@pytest.mark.parametrize(("memory", "code"), [("680MiB", 1), ("2GiB", 0)])
def test_the_exit_code_of_a_comparison_says_whether_one_recipe_fits(memory: str, code: int, tiny: str) -> None:
    """2 GiB are enough for one of the batches."""
    ran = run("compare", tiny, "--offline", "--gpu-memory", memory, "--seq-len", "4096", "--with", "--batch-size 64")
    assert (ran.code, ran.err) == (code, "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((SMALL,), "add --with"),
        ((SMALL, "--with", ""), "--with is empty"),
        ((SMALL, "--with", "--optimzer sgd"), "--optimzer"),
        ((SMALL, "--with", "--optimizer adamw_8bits"), "adamw_8bit"),
        ((SMALL, "--with", "--batch-size 0"), "batch-size"),
        ((SMALL, "--with", "'--lora r=4"), "quotation"),
        ((SMALL, "--with", "--lora r=4 --lora-alpha 8"), "--lora-alpha"),
        ((SMALL, "--with", "Qwen/Qwen3-8B"), "Qwen/Qwen3-8B"),
        ((SMALL, "--with", "--json"), "--json"),
        ((SMALL, "--with", "--targets q_proj"), "add --lora"),
        ((SMALL, "--with", "--gpu 4900"), "RTX 4090"),
        ((SMALL, "--gpu-memory", "24", "--with", "--optimizer sgd"), "no unit"),
        ((SMALL, "--lora", "r=4", "--with", "--targets nope"), "nope"),
        ((SMALL, "--with", "--double-quant"), "add --quantization nf4"),
        ((SMALL, SMALL, "--with", "--optimizer sgd"), "name one"),
        ((SMALL, "--with", "--optimizer sgd", "--json", "--format", "csv"), "drop one"),
        ((SMALL,) * 9, "give 2 to 8"),
    ],
)
def test_a_comparison_that_cannot_be_is_refused(arguments: tuple[str, ...], says: str) -> None:
    """One line with what to do, code 2, before or while it is made."""
    assert_refused(run("compare", *arguments, "--offline", "--count-only", "--quiet"), 2, says)


def test_a_recipe_that_cannot_be_traced_is_named(tiny: str) -> None:
    """Packed weights do not train themselves."""
    options = ("--gpu", "h100", "--with", "--quantization nf4")
    ran = run("compare", tiny, *QUICK, "--json", *options)
    assert ran.code == 0, "the first one fits"
    assert [each["fit"] for each in ran.report["recipes"]] == [{"H100 SXM": "yes"}, {"H100 SXM": "not known"}]
    assert run("compare", tiny, *QUICK, "--quantization", "nf4", "--gpu", "h100", "--with", "--seq-len 32").code == 4


def test_files_that_are_no_reports_are_refused(tiny: str, tmp_path: Path) -> None:
    """Broken JSON, a plan, a report with words for figures, options where all are reports, a change of a report."""
    report = str(tmp_path / "report.json")
    assert run(tiny, *QUICK, "--json", "--output", report).code == 0

    def other(content: str) -> str:
        path = tmp_path / "other.json"
        path.write_text(content)
        return str(path)

    assert_refused(run("compare", report, other('{"schema": "inspector/1",'), "--offline"), 4, "other.json")
    assert_refused(run("compare", report, other('{"schema": "inspector-plan/1"}')), 2, "is no report")
    assert_refused(run("compare", report, other('{"schema": "inspector/1"}')), 2, "counts no parameters")
    odd = json.dumps({"schema": "inspector/1", "parameters": {"base": "many"}})
    assert_refused(run("compare", report, other(odd)), 2, "parameters.base is no integer")
    assert_refused(run("compare", report, report, "--gpu", "t4"), 2, "drop --gpu t4")
    assert_refused(run("compare", report, "--with", "--gpu t4"), 2, "name its model")
    assert_refused(run("compare", report, str(tmp_path / "none.json"), "--offline"), 3, "none.json")


def test_a_report_file_is_recognized_by_its_content(tiny: str, tmp_path: Path) -> None:
    """The file that --output names need not end in .json; one that is no JSON is still refused as a model is."""
    report, text = tmp_path / "before", tmp_path / "notes.txt"
    assert run(tiny, *QUICK, "--json", "--output", str(report)).code == 0
    text.write_text("no report")
    made = run("compare", str(report), str(report), "--json").report
    assert made["figures"] == []
    assert_refused(run("compare", str(report), str(text), "--offline"), 3, "notes.txt' is a file but no config.json")


def test_generations_and_engines_are_compared_by_what_each_keeps(tiny: str) -> None:
    """An engine reads none of the options of a step, so that those of the first recipe are not its own."""
    generation = ("--generate", "--prompt-len", "16", "--new-tokens", "4", "--gpu", "h100")
    engine = ("--with", "--engine vllm --max-model-len 64", "--with", "--cache static")
    made = run("compare", tiny, *generation, *engine, "--json", "--offline", "--quiet").report
    figures = {figure["path"]: figure["values"] for figure in made["figures"]}
    assert set(figures["generation.peak_allocated_bytes"]) == {"A", "C"}
    assert set(figures["serving.H100 SXM.tokens.low"]) == {"B"}
    assert figures["serving.bytes_per_token"]["B"] == figures["cache.bytes_per_token"]["A"]
    assert [set(each["fit"]) for each in made["recipes"]] == 3 * [{"H100 SXM"}]
    text = run("compare", tiny, *generation, *engine, "--offline", "--quiet").out
    assert "peak allocated" in text
    served = ("--engine", "vllm", "--gpu", "h100", "--with", "--engine sglang --mem-fraction-static 0.8")
    both = run("compare", tiny, *served, "--json", "--offline", "--quiet").report
    assert any(setting["path"] == "serving.engine" for setting in both["settings"])

"""--gpu, --gpu-memory and `inspect gpus`: verdicts, exit codes and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inspector.hardware.catalogue import catalogue

from .running import SMALL, assert_refused, bundled_config, run, written

pytestmark = pytest.mark.usefixtures("shared_answers")


def test_a_named_gpu_that_fits_ends_with_0() -> None:
    """Full fine-tuning of half a billion parameters takes some 7 GiB, which a T4 has."""
    report = run(SMALL, "--offline", "--json", "--gpu", "t4").report
    (fit,) = report["fit"]
    assert (fit["gpu"], fit["fits"], fit["assumptions"]) == ("T4", True, [])
    training = report["training"]
    assert training["platform"].startswith("CUDA compute capability 7.5, ")
    assert training["overhead_bytes"] == 147_718_144  # measured on a T4: 140.875 MiB
    assert training["total_bytes"] == training["peak_reserved_bytes"] + training["overhead_bytes"]
    assert fit["usable_bytes"] == 14_912 * 2**20 - 147_718_144
    assert fit["headroom_bytes"] == fit["usable_bytes"] - training["peak_reserved_bytes"]


def test_a_named_gpu_that_does_not_fit_ends_with_1_and_the_whole_report() -> None:
    """Nothing is said on standard error: the report is the answer, and `&&` stops."""
    ran = run(SMALL, "--offline", "--json", "--gpu", "h200", "--gpu-memory", "2GiB", "--no-advice")
    assert (ran.code, ran.err) == (1, "")
    report = json.loads(ran.out)
    assert [(fit["gpu"], fit["fits"]) for fit in report["fit"]] == [("H200", True), ("2 GiB", False)]
    short = report["fit"][1]
    alone = json.loads(run(SMALL, "--offline", "--json", "--gpu-memory", "2GiB", "--no-advice").out)
    assert short["headroom_bytes"] == short["usable_bytes"] - alone["training"]["peak_allocated_bytes"] < 0


def test_without_a_name_what_does_not_fit_is_no_failure() -> None:
    """A short list is shown, the trace is the default's, and the code is 0."""
    report = run(SMALL, "--offline", "--json", "--seq-len", "16384").report
    assert len(report["fit"]) == sum(gpu.common for gpu in catalogue())
    assert {fit["fits"] for fit in report["fit"]} == {True, False}
    assert report["training"]["platform"].startswith("CUDA compute capability 8.0, ")
    assert report["warnings"] == []


def test_an_ambiguous_name_is_warned_about() -> None:
    """The report says which card was taken."""
    ran = run(SMALL, "--offline", "--json", "--gpu", "a100", "--gpu", "t4")
    codes = [warning["code"] for warning in json.loads(ran.out)["warnings"]]
    assert codes == ["gpu-ambiguous"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--gpu", "4900"], "RTX 4090"),
        (["--gpu", ""], "inspect gpus"),
        (["--gpu", "\x1b[31m"], "--gpu"),
        (["--gpu-memory", "24"], "24GiB"),
        (["--gpu-memory", "0"], "--gpu-memory"),
        (["--gpu-memory", "0GiB"], "more than 0"),
        (["--gpu-memory=-1GiB"], "is not a size"),
        (["--gpu-memory", "lots"], "is not a size"),
        (["--gpu", "t4", "--count-only"], "--count-only"),
        (["--gpu-memory", "8GiB", "--count-only"], "--count-only"),
    ],
)
def test_what_names_no_gpu_is_refused_before_any_work(
    options: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is not even looked for."""
    monkeypatch.setattr("inspector.pipeline.read_files", None)  # calling it would fail otherwise
    assert_refused(run(SMALL, "--offline", *options), 2, says)


def test_a_step_that_cannot_be_traced_for_a_gpu_is_no_success() -> None:
    """A guard that lets pass what was never traced would be worse than none."""
    ran = run("facebook/bart-large", "--offline", "--gpu", "h100")
    assert (ran.code, len(ran.err.splitlines())) == (4, 1)
    assert "nothing says whether the step fits the H100 SXM" in ran.err
    assert "406,291,456" in ran.out, "its counts are there"
    report = json.loads(run("facebook/bart-large", "--offline", "--gpu", "h100", "--json").out)
    (verdict,) = report["fit"]
    assert (verdict["outcome"], "fits" in verdict, "headroom_bytes" in verdict) == ("not known", False, False)
    assert verdict["reason"].partition("`")[0] in ran.err
    assert report["static"]["full"]["total_bytes"] > 0


def test_the_gpu_catalogue_is_listed_in_every_format() -> None:
    """Text for people, JSON with every source, Markdown for pages."""
    text, markdown = run("gpus"), run("gpus", "--format", "markdown")
    assert (text.code, markdown.code) == (0, 0)
    assert max(map(len, text.out.splitlines())) <= 100
    listed = run("gpus", "--json").report
    assert listed["schema"] == "inspector-gpus/1"
    assert [gpu["name"] for gpu in listed["gpus"]] == [gpu.name for gpu in catalogue()]
    for gpu in listed["gpus"]:
        assert f"  {gpu['name']} " in text.out
        assert f"| {gpu['name']} | {gpu['memory_bytes']:,} |" in markdown.out
        assert gpu["memory_source"]
        assert None not in gpu.values()


def test_names_narrow_the_list_to_the_cards_that_they_may_mean() -> None:
    listed = run("gpus", "h100", "4090", "--json").report
    assert [gpu["name"] for gpu in listed["gpus"]] == ["H100 PCIe", "H100 SXM", "H100 NVL", "RTX 4090"]
    assert run("gpus", "4090").out.endswith("1 GPU\n")


def test_the_list_can_be_written_to_a_file(tmp_path: Path) -> None:
    """As reports can."""
    ran = run("gpus", "--output", str(tmp_path / "gpus.txt"))
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert (tmp_path / "gpus.txt").read_text() == run("gpus").out


def test_a_subcommand_is_recognized_as_the_first_word_alone() -> None:
    """After options its name would be a model's."""
    assert_refused(run("--json", "gpus"), 2, "./gpus for a directory")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["gpus", "extra"], "inspect gpus"),
        (["gpus", "--depth", "2"], "--depth"),
        (["gpus", "--json", "--format", "text"], "contradicts"),
    ],
)
def test_a_subcommand_refuses_options_of_inspect_that_it_does_not_have(arguments: list[str], says: str) -> None:
    """What `inspect gpus` does not know it refuses like any command."""
    assert_refused(run(*arguments), 2, says)


def test_a_directory_called_like_a_subcommand_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """./gpus is no word of its own."""
    (tmp_path / "gpus").mkdir()
    written(tmp_path / "gpus", bundled_config(SMALL))
    monkeypatch.chdir(tmp_path)
    assert run("./gpus", "--count-only", "--json").report["model"]["source"] == "local"

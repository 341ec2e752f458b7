"""What the command prints when all is well: the figures of the main job, in every format and to every place."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from inspector.render.sections import SECTIONS

from .running import SMALL, assert_refused, run

pytestmark = pytest.mark.usefixtures("shared_answers")

MAIN_JOB = ("Qwen/QwQ-32B", "--offline", "--lora", "r=16", "--targets", "all-linear")
# 64 layers; Q and O 5120 x 5120, K and V 5120 x 1024, gate, up and down 5120 x 27648: r (in + out) each.
RANK_16 = 16 * 64 * (2 * (5120 + 5120) + 2 * (5120 + 1024) + 3 * (5120 + 27648))
LM_HEAD = 152_064 * 5120


def test_the_main_job_gives_the_published_figures() -> None:
    """QwQ-32B has 32,763,876,352 parameters, and LoRA of rank 16 on every linear layer trains 134,217,728."""
    parameters = run(*MAIN_JOB, "--json").report["parameters"]
    assert parameters["base"] == 32_763_876_352
    assert parameters["trainable"] == RANK_16 == 134_217_728
    assert parameters["total"] == parameters["base"] + RANK_16


def test_a_misspelt_saved_module_is_named_beside_the_count() -> None:
    """`embed_token` saves nothing, which only the warning tells; lm_head alone is copied."""
    report = run(
        "Qwen/QwQ-32B",
        "--offline",
        "--json",
        *("--lora", "r=16,dropout=0.05"),
        *("--targets", "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"),
        *("--modules-to-save", "lm_head,embed_token"),
    ).report
    assert report["parameters"]["trainable"] == RANK_16 + LM_HEAD == 912_785_408
    (warning,) = [item for item in report["warnings"] if item["code"] == "modules-to-save-unmatched"]
    assert "'embed_token'" in warning["message"]
    assert "'embed_tokens'" in warning["message"]
    assert report["adapter"]["modules_to_save"]["unmatched"] == ["embed_token"]


def test_options_that_are_turned_off_stand_among_the_options_and_defaults_do_not() -> None:
    """What an adapter says otherwise than PEFT by default is shown, whether it turns something on or off."""
    peft = {"peft_type": "LORA", "r": 4, "init_lora_weights": False, "use_rslora": False, "loftq_config": None}
    text = " ".join(
        run(SMALL, "--offline", "--count-only", "--show", "adapter", "--peft", json.dumps(peft)).out.split()
    )
    assert "options r=4, init_lora_weights=False, loftq_config=none targets" in text


@pytest.mark.parametrize("format_", ["text", "markdown", "json"])
def test_every_format_shows_the_figures(format_: str) -> None:
    """P and P_a stand in each format, and standard error stays empty."""
    ran = run(*MAIN_JOB, "--format", format_)
    assert (ran.code, ran.err) == (0, "")
    for figure in (32_763_876_352, 134_217_728):
        assert (str(figure) if format_ == "json" else f"{figure:,}") in ran.out
    assert ran.out.endswith("\n")


def test_json_is_the_same_by_both_options() -> None:
    """--json is --format json."""
    assert run(SMALL, "--offline", "--json") == run(SMALL, "--offline", "--format", "json", "--json")


def test_output_writes_the_same_bytes_to_a_file(tmp_path: Path) -> None:
    """A file gets what standard output would, replaces an older one, and nothing lies beside it."""
    file = tmp_path / "report.json"
    file.write_text("an older and longer report" * 1000)
    ran = run(SMALL, "--offline", "--json", "--output", str(file))
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert file.read_text() == run(SMALL, "--offline", "--json").out
    assert list(tmp_path.iterdir()) == [file]


def test_output_follows_a_link_and_keeps_it(tmp_path: Path) -> None:
    """The file that a link names is written, and the link stays one."""
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "folder" / "report.md")
    assert run(SMALL, "--offline", "--format", "markdown", "--output", str(link)).code == 0
    assert link.is_symlink()
    assert "494,032,768" in link.read_text()


def test_output_to_a_device_leaves_the_device(tmp_path: Path) -> None:
    """A pipe, like /dev/null, is written to and never replaced."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert run(SMALL, "--offline", "--count-only", "--depth", "0", "--json", "--output", str(pipe)).code == 0
        assert json.loads(os.read(reader, 2**20))["parameters"]["base"] == 494_032_768
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    """The report is as readable as what a shell would have written."""
    assert run(SMALL, "--offline", "--output", str(tmp_path / "report.txt")).code == 0
    (tmp_path / "ordinary").touch()
    assert (tmp_path / "report.txt").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("depth", [0, 1, 64])
def test_depth_bounds_the_module_tree(depth: int) -> None:
    """The tree goes as deep as asked for, and no deeper."""
    tree = run(SMALL, "--offline", "--json", "--depth", str(depth)).report["parameters"]["tree"]
    depths = [row["depth"] for row in tree]
    assert max(depths) <= depth
    assert (len(tree) == 1) == (depth == 0)


def test_count_only_leaves_out_the_bytes_of_training() -> None:
    """Counts stay; static bytes and rules of thumb go."""
    report = run(SMALL, "--offline", "--json", "--count-only").report
    assert report["parameters"]["base"] == 494_032_768
    assert "static" not in report
    assert "textbook" not in report


def test_peft_may_be_a_file_a_directory_or_inline(tmp_path: Path) -> None:
    """The three forms of --peft give the same report, and --lora the same count."""
    text = '{"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}'
    (tmp_path / "adapter_config.json").write_text(text)
    reports = [
        run(SMALL, "--offline", "--json", "--peft", given).report
        for given in (text, f"  {text}", str(tmp_path), str(tmp_path / "adapter_config.json"))
    ]
    assert all(report == reports[0] for report in reports)
    by_lora = run(SMALL, "--offline", "--json", "--lora", "r=4", "--targets", "q_proj").report
    assert by_lora["parameters"] == reports[0]["parameters"]


def test_every_setting_of_lora_reaches_peft() -> None:
    """The specification is PEFT's configuration in short."""
    spec = "r=4, alpha=32, dropout=0.1, bias=lora_only, dora, rslora"
    report = run(SMALL, "--offline", "--json", "--lora", spec, "--targets", ".*q_proj").report
    assert report["adapter"]["config"] == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 4,
        "lora_alpha": 32,
        "lora_dropout": 0.1,
        "bias": "lora_only",
        "use_dora": True,
        "use_rslora": True,
        "target_modules": ".*q_proj",
    }


def test_a_peak_in_the_first_step_is_distinguished_from_the_phases_of_the_second() -> None:
    """BERT's is there: no phase that is listed reaches it, which would read as a mistake."""
    model = ("google-bert/bert-base-uncased", "--offline", "--optimizer", "adamw_torch")
    training = run(*model, "--json").report["training"]
    assert max(phase["peak_allocated_bytes"] for phase in training["phases"]) < training["peak_allocated_bytes"]
    assert "The peak itself is in the first step." in " ".join(run(*model, "--show", "training").out.split())
    assert "The peak itself" not in run(SMALL, "--offline", "--show", "training").out


def test_the_environment_can_forbid_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """HF_HUB_OFFLINE, which the client has read when it was imported, stands for --offline."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("inspector.source.hub.ask_hub", None)  # asking would fail otherwise
    assert run(SMALL, "--json").report["model"]["source"] in ("bundled", "cache")


def test_help_and_version_are_answers_not_errors() -> None:
    """Both print to standard output and exit with 0."""
    for option in ("--help", "-h", "--version"):
        ran = run(option)
        assert (ran.code, ran.err) == (0, "")
    assert run("--version").out.startswith("inspect ")
    assert "_INSPECT_COMPLETE" in run("--help").out


def list_titles(*options: str) -> list[str]:
    """Return the titles of the sections that a report prints."""
    out = run(SMALL, "--offline", "--count-only", *options).out
    return [line for line in out.splitlines()[2:] if line[:1].isupper() and ":" not in line]


def test_the_first_screen_is_the_default_and_sections_are_named() -> None:
    """In commas, in several options, in any case."""
    assert list_titles() == []
    assert list_titles("--show", "tree,Checkpoint") == list_titles("--show", "checkpoint", "--show", "tree")
    assert list_titles("--show", "tree,checkpoint") == ["Download and loading", "Modules"]
    assert {"Parameters by role", "Download and loading", "Modules"} < set(list_titles("--details"))


def test_a_depth_shows_the_tree_that_it_is_for() -> None:
    assert list_titles("--depth", "1") == ["Modules"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--show", "trees"), "did you mean tree?"),
        (("--show", "modules"), "use some of source, search"),
        (("--show", ""), "use some of source, search"),
        (("--show", "tree", "--json"), "drop --show"),
        (("--details", "--json"), "drop --details"),
    ],
)
def test_a_section_that_there_is_not_is_refused(options: tuple[str, ...], says: str) -> None:
    assert_refused(run(SMALL, "--offline", *options), 2, says)


def test_the_help_names_every_section() -> None:
    words = " ".join(run("--help").out.split())
    assert all(re.search(rf"[ ,]{name}[ ,.]", words) for name in SECTIONS)

"""`inspect train.yaml`: the report of a training file, its errors, and what can be done with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # ships no types

import inspector
from inspector.render.sections.source import format_fields
from tests.cli.running import assert_refused, run, written
from tests.contracts.json_table import closed, load_schema
from tests.source.weight_files import TINY_CONFIG
from tests.training_files.documents import AXOLOTL, LLAMAFACTORY, MODEL, TRL, write

pytestmark = pytest.mark.usefixtures("shared_answers")

PACKED = AXOLOTL | {"sample_packing": True, "fp8": True, "hf_token": "hf_SECRETSECRETSECRETSECRET"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the field that names a model of one layer, of which a plan takes a moment."""
    folder = tmp_path_factory.mktemp("tiny")
    written(folder, {**TINY_CONFIG, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 4_000})
    return {"base_model": str(folder)}


def test_a_report_says_below_its_title_what_it_read(tmp_path: Path) -> None:
    lines = run(write(tmp_path, PACKED), "--offline").out.splitlines()
    assert lines[:3] == [
        MODEL,
        "train.yaml as axolotl 0.21.0 reads it: 8 fields, 9 defaults, 1 not modelled",
        "not modelled: fp8 (either way)",
    ]


def test_the_report_of_a_file_is_that_of_the_options_which_mean_the_same(tmp_path: Path) -> None:
    options = [
        "--dtype",
        "bfloat16",
        "--lora",
        "r=8,dropout=0",
        "--targets",
        "all-linear",
        "--batch-size",
        "2",
        "--seq-len",
        "128",
    ]
    options += ["--mixed-precision", "bf16", "--no-gradient-checkpointing", "--json", "--offline"]
    by_options = run(MODEL, *options, "--attention-mask", "--preparation", "axolotl").report
    by_file = run(write(tmp_path, AXOLOTL | {"tiled_mlp": False}), "--json", "--offline").report
    assert by_file.pop("source")["file"]["framework"] == "axolotl"
    for report in (by_options, by_file):
        report["training"].pop("defaults")
    assert by_file == by_options


def test_the_json_of_a_file_says_where_each_value_is_from_and_follows_the_schema(tmp_path: Path) -> None:
    launch = write(tmp_path, {"distributed_type": "FSDP", "num_processes": 2}, "fsdp.yaml")
    ran = run(write(tmp_path, PACKED), "--launch", launch, "--seq-len", "64", "--gpu", "4090", "--json", "--offline")
    Draft202012Validator(closed(load_schema())).validate(ran.report)
    file = ran.report["source"]["file"]
    origins = {item["name"]: item["from"] for item in file["fields"]}
    assert (origins["micro_batch_size"], origins["sequence_len"], origins["bf16"]) == ("file", "option", "default")
    assert [item["effect"] for item in file["not_modelled"]] == ["unknown"]
    assert file["unknown"] == ["hf_token"]
    assert ran.report["source"]["launch"][0]["framework"] == "accelerate"
    assert "SECRET" not in ran.out


@pytest.mark.parametrize(
    ("content", "name", "options", "says"),
    [
        (PACKED, "train.yaml", ["--strict"], "--strict was given: fp8 (either way)"),
        (AXOLOTL | {"base_model": "/fsx/x"}, "train.yaml", [], "add --base-model"),
        ({"base_model": MODEL, "micro_batch_sizes": 1}, "train.yaml", [], "did you mean micro_batch_size?"),
        ({"foo": 1}, "train.yaml", [], "say whose it is with --framework"),
        (AXOLOTL, "train.yaml", ["--framework", "axolotel"], "did you mean axolotl?"),
        (AXOLOTL, "train.yaml", ["--framework", "axolotl==x"], "has no version"),
        (AXOLOTL, "train.yaml", ["--launch", "nowhere.yaml"], "there is no file 'nowhere.yaml'"),
        ({"num_processes": 1, "distributed_type": "NO"}, "a.yaml", [], "give it as --launch"),
    ],
)
def test_a_file_that_cannot_be_answered_from_is_one_line(
    content: dict[str, object], name: str, options: list[str], says: str, tmp_path: Path
) -> None:
    assert_refused(run(write(tmp_path, content, name), "--offline", *options), 2, says)


def test_a_file_that_is_not_there_and_one_of_torchtune_are_one_line(tmp_path: Path) -> None:
    assert_refused(run("nowhere.yaml", "--offline"), 2, "there is no file 'nowhere.yaml'")
    torchtune = {"model": {"_component_": "torchtune.models.qwen2_5.qwen2_5_0_5b"}}
    assert_refused(run(write(tmp_path, torchtune), "--offline"), 4, "is torchtune's")


def test_advice_is_in_the_keys_of_the_file_and_a_copy_has_it(tmp_path: Path) -> None:
    path, copy = write(tmp_path, LLAMAFACTORY | {"cutoff_len": 512}), tmp_path / "new.yaml"
    before = Path(path).read_bytes()
    ran = run(path, "--offline", "--gpu-memory", "6GiB", "--write-changes", str(copy), "--json")
    (verdict,) = json.loads(ran.out)["fit"]
    assert ran.code == 1
    first = verdict["advice"][0]["in_file"]
    assert yaml.safe_load(copy.read_text()) == {**yaml.safe_load(before), **first}
    assert first
    assert set(first) <= {"per_device_train_batch_size", "gradient_accumulation_steps", "optim", "flash_attn"}
    assert ran.err == f"inspect: wrote {copy} with {format_fields(first)}\n"
    assert Path(path).read_bytes() == before
    assert run(str(copy), "--offline", "--gpu-memory", "6GiB", "--no-advice").code == 0


def test_what_fit_found_is_in_the_keys_of_the_file(tmp_path: Path) -> None:
    copy = tmp_path / "new.yaml"
    ran = run(
        write(tmp_path, PACKED), "--offline", "--gpu", "4090", "--fit", "batch-size", "--write-changes", str(copy)
    )
    assert ran.code == 0
    found = yaml.safe_load(copy.read_text())["micro_batch_size"]
    assert found > 2
    assert f"micro_batch_size: {found}" in ran.out


def test_a_copy_without_a_file_or_over_it_is_refused(tmp_path: Path) -> None:
    assert_refused(run(MODEL, "--offline", "--write-changes", "x"), 2, "--write-changes copies a training file")
    path = write(tmp_path, AXOLOTL)
    assert_refused(run(path, "--offline", "--write-changes", path), 2, "is the file itself")


def test_a_plan_and_a_comparison_start_from_a_file(tmp_path: Path, tiny: dict[str, str]) -> None:
    path = write(tmp_path, AXOLOTL | tiny | {"optimizer": "sgd"})
    few = ("--attention", "eager", "--seq-len", "64")
    plan = json.loads(run("plan", path, "--offline", "--gpu", "4090", "--fit", "none", "--json", *few).out)
    assert "batch size 2" in plan["recipe"]
    assert plan["source"]["file"]["framework"] == "axolotl"
    assert len({(row["method"], row["options"]) for row in plan["rows"]}) == len(plan["rows"])
    spelt = [row["in_file"] for row in plan["rows"] if row.get("in_file")]
    assert {"adapter": None} in [{"adapter": fields.get("adapter", "")} for fields in spelt]
    assert any(fields.get("gradient_checkpointing") is True for fields in spelt)
    assert [fields["optimizer"] for fields in spelt] == [_find_optimizer(row["options"]) for row in plan["rows"]]
    compared = run("compare", path, "--with", "--batch-size 1", "--offline", "--json")
    changes = {change["path"]: change["values"] for change in json.loads(compared.out)["settings"]}
    assert changes["training.recipe.batch_size"] == {"A": 2, "B": 1}


def _find_optimizer(options: str) -> str:
    """Return the optimizer among options, the one that a plan begins with where there is none."""
    words = options.split()
    return words[words.index("--optimizer") + 1] if "--optimizer" in words else "adamw_torch_fused"


def test_a_plan_of_a_file_for_several_cards_says_that_one_alone_is_judged(tmp_path: Path, tiny: dict[str, str]) -> None:
    path = write(tmp_path, AXOLOTL | tiny | {"fsdp": ["full_shard", "auto_wrap"]})
    few = ("--quantization", "none", "--attention", "eager", "--seq-len", "64")
    plan = run("plan", path, "--offline", "--gpu", "4090", "--fit", "none", "--json", *few).report
    assert any("one card alone" in warning for warning in plan["warnings"])


def test_python_takes_a_file_too(tmp_path: Path) -> None:
    report = inspector.inspect(
        Path(write(tmp_path, TRL)), offline=True, recipe={"batch_size": 1}, framework="trl==0.18"
    )
    assert report.training is not None
    assert (report.training.recipe.batch_size, report.training.recipe.seq_len) == (1, 64)
    assert report.source is not None
    assert report.source.file is not None
    assert report.source.file.version == "0.18"
    with pytest.raises(inspector.UsageError, match="`strict` was given"):
        inspector.inspect(write(tmp_path, PACKED), offline=True, strict=True)


def test_nothing_of_a_script_is_run(tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'made')!r}, 'w')\nSFTTrainer(model='{MODEL}', args=SFTConfig(max_length=N))\n"
    ran = run(write(tmp_path, code, "train.py"), "--offline", "--count-only")
    assert ran.code == 0
    assert "max_length in SFTConfig" in ran.out
    assert not (tmp_path / "made").exists()


def test_models_that_are_not_traced_make_a_yes_not_known(tmp_path: Path) -> None:
    path = write(tmp_path, LLAMAFACTORY | {"stage": "ppo"})
    ran = run(path, "--offline", "--gpu", "4090")
    assert ran.code == 4
    assert "not known: PPO runs a value and a reward model, too" in ran.out
    assert "fits the RTX 4090: PPO runs a value and a reward model, too" in ran.err


def test_figures_that_are_a_lower_bound_leave_at_most_so_much(tmp_path: Path) -> None:
    ran = run(write(tmp_path, TRL | {"router_aux_loss_coef": 0.1}), "--offline", "--gpu", "4090", "--no-advice")
    assert (ran.code, "yes, at most " in ran.out) == (0, True)


def test_what_takes_less_and_is_not_modelled_makes_a_no_not_known(tmp_path: Path) -> None:
    small = ("--offline", "--gpu-memory", "700MiB", "--no-advice", "--json")
    ran = run(write(tmp_path, AXOLOTL | {"tiled_mlp": True}), *small)
    (verdict,) = json.loads(ran.out)["fit"]
    assert (ran.code, verdict["outcome"]) == (4, "not known")
    assert verdict["reason"] == "upper bound: with tiled_mlp, not modelled, the step takes less"
    assert run(write(tmp_path, AXOLOTL | {"tiled_mlp": False}), *small).code == 1

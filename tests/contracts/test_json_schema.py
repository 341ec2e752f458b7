"""The JSON report follows docs/reference/report.schema.json, and docs/reference/json.md says the same in words."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError  # type: ignore[import-untyped]  # ships no types

from inspector.records.tape import Category
from tests.cli.running import SMALL, run
from tests.source.gguf.gguf_files import write_model
from tests.source.weight_files import TINY_TENSORS, config_bytes, sharded, weight_file

from .json_table import DOCS, closed, load_schema, table

pytestmark = pytest.mark.usefixtures("shared_answers")

# The keys of the contract (its parts that exist so far), under which nothing may go missing. Others are extensions.
CONTRACT = {
    "": {
        *("schema", "versions", "model", "parameters", "adapter", "checkpoint", "training", "textbook", "fit"),
        "warnings",
    },
    "versions": {"inspector", "torch", "transformers", "peft", "python"},
    "model": {"id", "revision", "class", "model_type", "dtype", "source"},
    "parameters": {"base", "total", "trainable", "frozen", "buffers", "active", "groups", "tied", "tree"},
    "parameters.groups": {
        *("embedding", "attention", "mlp", "experts", "norm", "lm_head", "vision", "other", "adapter", "saved_copies")
    },
    "parameters.tree[]": {"name", "type", "count", "trainable", "bytes"},
    "adapter": {"type", "config", "targets", "modules_to_save", "file_bytes"},
    "adapter.targets": {"matched", "matched_count", "unmatched"},
    "adapter.modules_to_save": {"matched", "unmatched"},
    "checkpoint": {"bytes", "files", "dtypes", "largest_file_bytes", "parameters"},
    "training": {
        *("recipe", "peak_allocated_bytes", "peak_reserved_bytes", "end_of_step_allocated_bytes", "peak", "phases"),
        *("top_modules", "not_accounted", "overhead_bytes", "total_bytes"),
    },
    "training.recipe": {
        *("batch_size", "seq_len", "gradient_accumulation", "optimizer", "gradient_checkpointing", "max_grad_norm"),
        *("padding", "loop", "attention", "sdpa_backend", "mixed_precision"),
        *("use_reentrant", "use_cache", "alloc_conf"),
    },
    "training.peak": {"phase", "module", "op", "breakdown"},
    "training.peak.breakdown": {category.value for category in Category},
    "cache": {"class", "bytes_per_token", "layers", "at_end_bytes"},
    "cache.layers[]": {"kind", "count", "tensors", "bytes_per_token", "window", "fixed_bytes"},
    "training.phases[]": {"name", "end_allocated_bytes", "peak_allocated_bytes"},
    "training.top_modules[]": {"name", "bytes"},
    "training.not_accounted[]": {"what", "why"},
    "fit[]": {"gpu", "memory_bytes", "usable_bytes", "fits", "headroom_bytes", "advice"},
    "fit[].advice[]": {"change", "total_bytes"},
    "textbook.rules[]": {"name", "formula", "bytes", "source"},
    "warnings[]": {"code", "message"},
}


# One card, for which no changes are searched: others have the verdicts on common cards and advice.
NAMED = ("--gpu", "a100-80gb", "--no-advice")


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    """Return a validator of the closed schema."""
    Draft202012Validator.check_schema(load_schema())
    return Draft202012Validator(closed(load_schema()))


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param((SMALL,), id="full"),
        pytest.param((SMALL, "--count-only"), id="count-only"),
        pytest.param((SMALL, "--gpu", "a100", "--gpu", "mi300x", "--gpu-memory", "24GiB"), id="gpus"),
        pytest.param((SMALL, "--gpu", "h200", "--lora", "r=8", "--fit", "rank"), id="search"),
        pytest.param((SMALL, "--gpu", "h200", "--lora", "r=8", "--seq-len", "64"), id="turned-up"),
        pytest.param((SMALL, "--lora", "r=8", "--modules-to-save", "lm_head,embed_token", *NAMED), id="saved"),
        pytest.param((SMALL, "--peft", '{"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 8}', *NAMED), id="prompt"),
        pytest.param((SMALL, "--peft", '{"peft_type": "CPT"}', *NAMED), id="no-file-size"),
        pytest.param(("allenai/OLMoE-1B-7B-0924", "--lora", "r=16", "--targets", "all-linear"), id="experts"),
        pytest.param(
            ("openai/gpt-oss-20b", "--lora", "r=16", "--targets", "q_proj", "--depth", "64"), id="fused-experts"
        ),
        pytest.param((SMALL, "--quantization", "nf4", "--double-quant", "--lora", "r=8"), id="quantized"),
        pytest.param((SMALL, "--quantization", "int8"), id="quantized-alone"),
        pytest.param((SMALL, "--lora", "r=8", "--stage", "dpo", "--seq-len", "64"), id="dpo"),
        pytest.param((SMALL, "--stage", "grpo", "--vllm-share", "0.3", "--seq-len", "64", "--gpu", "a100"), id="grpo"),
        pytest.param(("llava-hf/llava-1.5-7b-hf", "--lora", "r=4", "--targets", ".*q_proj", *NAMED), id="vision"),
        pytest.param(("openai/whisper-small", *NAMED), id="audio"),
        pytest.param(("google-t5/t5-small", "--depth", "0", *NAMED), id="encoder-decoder"),
        pytest.param(("state-spaces/mamba-130m-hf", "--seq-len", "8"), id="state-space"),
        pytest.param((SMALL, "--engine", "vllm", "--max-num-seqs", "8"), id="vllm"),
        pytest.param((SMALL, "--engine", "sglang", "--gpu", "4090", "--mem-fraction-static", "0.8"), id="sglang"),
        pytest.param((SMALL, "--generate", "--prompt-len", "16", "--new-tokens", "3"), id="generation"),
    ],
)
def test_json_reports_follow_the_schema(arguments: tuple[str, ...], validator: Draft202012Validator) -> None:
    """Every key is described, every required one is there, counts are integers and nothing is null."""
    validator.validate(run("--offline", "--json", *arguments).report)


def test_the_json_of_a_gguf_file_follows_the_schema(tmp_path: Path, validator: Draft202012Validator) -> None:
    """Parameters, types and files come from its header; what transformers would build is absent."""
    path = str(write_model(tmp_path / "model.gguf"))
    report = run(path, "--engine", "llama.cpp", "--gpu", "4090", "--json").report
    validator.validate(report)
    assert report["checkpoint"]["format"] == "gguf"
    assert report["model"]["class"] == "qwen3"


def test_the_report_of_an_adapter_directory_follows_the_schema(tmp_path: Path, validator: Draft202012Validator) -> None:
    """A named adapter adds its own id."""
    fields = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": SMALL, "lora_dropout": 0.5, "newer_field": None}
    (tmp_path / "adapter_config.json").write_text(json.dumps(fields))
    report = run(str(tmp_path), "--offline", "--json").report
    validator.validate(report)
    assert "adapter_id" in report["model"]


def test_the_report_of_a_checkpoint_follows_the_schema(tmp_path: Path, validator: Draft202012Validator) -> None:
    """Sharded, with a variant, duplicates, a tensor too many, one too few and one of another shape."""
    tensors = {**TINY_TENSORS, "extra.weight": ("F32", (3,)), "model.norm.weight": ("BF16", (5,))}
    del tensors["lm_head.weight"]
    files = {"config.json": config_bytes(), "pytorch_model.bin": b"x", **sharded(2, tensors)}
    files["model.fp16.safetensors"] = weight_file({"a": ("F16", (2,))})
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    report = run(str(tmp_path), "--offline", "--json").report
    validator.validate(report)
    described = load_schema()["properties"]["checkpoint"]["properties"]
    assert set(report["checkpoint"]) == set(described) - {"by_format"}, "every key that is described was seen"
    assert [item["name"] for item in report["checkpoint"]["mismatched"]] == ["model.norm.weight"]
    assert report["checkpoint"]["not_in_checkpoint"]["names"] == ["lm_head.weight"]
    assert report["checkpoint"]["not_in_model"] == {"tensors": 1, "parameters": 3, "names": ["extra.weight"]}


def test_the_report_of_a_quantized_checkpoint_follows_the_schema(
    tmp_path: Path, validator: Draft202012Validator
) -> None:
    """A norm that is too long, and everything else in float: one tensor is otherwise, and the packed ones miss."""
    declared = {"quant_method": "gptq", "bits": 4, "group_size": 2}
    (tmp_path / "config.json").write_bytes(config_bytes(quantization_config=declared))
    tensors = {**TINY_TENSORS, "model.norm.weight": ("BF16", (5,))}
    (tmp_path / "model.safetensors").write_bytes(weight_file(tensors))
    report = run(str(tmp_path), "--offline", "--json", "--count-only").report
    validator.validate(report)
    found = report["checkpoint"]["by_format"]
    beyond = sum(each["stored_bytes"] - each["expected_bytes"] for each in found["differences"])
    assert found["stored_bytes"] == found["expected_bytes"] + found["varying_bytes"] + beyond
    norm = next(each for each in found["differences"] if each["names"] == ["model.norm.weight"])
    assert (norm["expected_shape"], norm["stored_shape"]) == ([4], [5])
    missing = next(each for each in found["differences"] if "stored_shape" not in each)
    assert missing["stored_bytes"] == 0


@pytest.fixture(scope="module")
def plain_report() -> str:
    """Return the JSON of a report with verdicts and rules of thumb."""
    return run(SMALL, "--offline", "--json").out


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("parameters", "base"), None),
        (("parameters", "base"), 1.5),
        (("parameters", "base"), -1),
        (("parameters", "active"), None),
        (("parameters", "groups", "mystery"), 1),
        (("model", "source"), "elsewhere"),
        (("schema",), "inspector/2"),
        (("training", "peak", "breakdown", "weights"), None),
        (("training", "peak", "phase"), "sideways"),
        (("training", "total_bytes"), -1),
        (("fit", 0, "fits"), 1),
        (("fit", 0, "advice"), None),
        (("undocumented",), 1),
        (("warnings",), [{"code": "No Kebab", "message": ""}]),
    ],
)
def test_the_json_schema_refuses_nulls_fractions_and_unknown_keys(
    path: tuple[str | int, ...], value: object, validator: Draft202012Validator, plain_report: str
) -> None:
    """Nulls, fractions, negative counts and unknown keys are not let through."""
    report = json.loads(plain_report)
    inner: Any = report
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ValidationError):
        validator.validate(report)


def test_a_reader_allows_keys_of_later_versions(plain_report: str) -> None:
    """The published schema describes what is there and forbids nothing that may be added."""
    report = {**json.loads(plain_report), "plan": [{"gpu": "H100"}]}
    Draft202012Validator(load_schema()).validate(report)


@pytest.mark.parametrize("path", CONTRACT)
def test_the_keys_of_the_contract_are_in_the_schema(path: str) -> None:
    """What the contract promises is described."""
    inner = load_schema()
    for part in filter(None, path.split(".")):
        inner = inner["properties"][part.removesuffix("[]")]
        inner = inner["items"] if part.endswith("[]") else inner
    assert CONTRACT[path] <= set(inner["properties"])


@pytest.mark.parametrize("name", ["report", "plan", "comparison"])
def test_the_documentation_describes_every_key(name: str) -> None:
    """docs/reference/json.md holds the table that the schema gives, word for word."""
    Draft202012Validator.check_schema(load_schema(name))
    assert table(name) in (DOCS / "json.md").read_text(encoding="utf-8")


def test_the_documentation_names_every_warning() -> None:
    """The table of docs/reference/json.md has the codes that the sources give their notices, and no others."""
    package = DOCS.parents[1] / "inspector"
    sources = "\n".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    documented = (DOCS / "json.md").read_text(encoding="utf-8").partition("## Warnings")[2]
    codes = {
        code for row in re.findall(r"^\| (`.*`) \|", documented, re.MULTILINE) for code in row.strip("`").split("`, `")
    }
    assert [code for code in sorted(codes) if f'"{code}"' not in sources] == []
    given = set(re.findall(r'code="([a-z-]+)"|_add_notice\(\w+, "([a-z-]+)"', sources))
    assert {first or second for first, second in given} <= codes

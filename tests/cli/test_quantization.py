"""--quantization and --double-quant on the command line: reports, and refusals in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .running import SMALL, assert_refused, run


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--quantization", "int4"], "--quantization"),
        (["--double-quant"], "add --quantization nf4"),
        (["--quantization", "int8", "--double-quant"], "4-bit weights"),
        (["--quantization", "none", "--no-double-quant"], "4-bit weights"),
        (["--no-autocast-adapter-dtype"], "add --lora r=16"),
        (["--quantization", "nf4", "--lora", "r=8", "--no-autocast-adapter-dtype"], "drop --no-autocast-adapter-dtype"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: list[str], says: str) -> None:
    assert_refused(run(SMALL, "--offline", *options), 2, says)


@pytest.mark.parametrize("options", [["--quantization", "nf4"], ["--double-quant"]])
def test_a_quantized_checkpoint_is_not_quantized_again(options: list[str]) -> None:
    assert_refused(run("openai/gpt-oss-20b", "--offline", *options), 2, "quantized already (mxfp4)")


def test_a_model_without_linear_layers_cannot_be_quantized(tmp_path: Path) -> None:
    """ResNet without its head has convolutions alone."""
    config = {"model_type": "resnet", "architectures": ["ResNetModel"], "dtype": "float32", "depths": [3, 4, 6, 3]}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert_refused(run(str(tmp_path), "--quantization", "nf4"), 2, "no linear layer")


# Two layers of q and o (256 × 256), k and v (64 × 256), gate and up (640 × 256), down (256 × 640).
LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "dtype": "bfloat16",
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "vocab_size": 96,
}
WEIGHTS = 2 * 256 * (2 * 256 + 2 * 64 + 3 * 640)
FLOATS = 2 * (2 * 96 * 256 + 5 * 256)


def declaring(folder: Path, declared: Any, **fields: Any) -> str:
    """Write a configuration that declares a quantization, and return where."""
    config = {**LLAMA, **fields, "quantization_config": declared}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


BNB = {"quant_method": "bitsandbytes"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
INT4 = {"num_bits": 4, "strategy": "group", "group_size": 128, "symmetric": True}
COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": INT4}},
    "ignore": ["lm_head"],
}
TORCHAO = {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_version": 2}}}
HQQ = {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}}
OUTPUTS = 2 * (2 * 256 + 2 * 64 + 2 * 640 + 256)
INPUTS = 2 * (6 * 256 + 640)


@pytest.mark.parametrize(
    ("declared", "packed", "unpacks", "trains"),
    [
        # A float32 for 64 weights and a table of 16; a float32 an output.
        ({**BNB, "load_in_4bit": True}, WEIGHTS // 2, WEIGHTS // 64 * 4 + 14 * 64, True),
        ({**BNB, "load_in_8bit": True}, WEIGHTS, OUTPUTS * 4, True),
        (GPTQ, WEIGHTS // 2, WEIGHTS // 128 * 2 + WEIGHTS // 256 + INPUTS * 4, True),
        ({**GPTQ, "quant_method": "awq"}, WEIGHTS // 2, WEIGHTS // 128 * 2 + WEIGHTS // 256, True),
        # Blocks of 128 × 128: 2 × 2 of q and o, 1 × 2 of k and v, 5 × 2 of gate, up and down.
        ({"quant_method": "fp8"}, WEIGHTS, 2 * (2 * 4 + 2 * 2 + 3 * 10) * 4, True),
        # 14 shapes of two int64.
        (COMPRESSED, WEIGHTS // 2, WEIGHTS // 128 * 2 + 14 * 16, False),
        (TORCHAO, WEIGHTS, OUTPUTS * 5, True),
        (HQQ, WEIGHTS // 2, WEIGHTS // 64 * 2 * 2, None),
        ({"quant_method": "quanto", "weights": "int8"}, WEIGHTS, OUTPUTS * 2 + 14 * 8, True),
    ],
    ids=lambda value: value["quant_method"] if isinstance(value, dict) else None,
)
def test_every_format_is_counted_sized_and_says_whether_it_trains(
    declared: dict[str, Any], packed: int, unpacks: int, trains: bool | None, tmp_path: Path
) -> None:
    report = run(declaring(tmp_path, declared), "--count-only", "--json").report
    facts = report["quantization"]
    assert report["parameters"]["base"] == WEIGHTS + FLOATS // 2
    assert (facts["parameters"], facts["modules_count"]) == (WEIGHTS, 14)
    assert (facts["weight_bytes"], facts["scale_bytes"], facts["kept_bytes"]) == (packed, unpacks, FLOATS)
    assert facts["loaded_bytes"] == packed + unpacks + FLOATS
    assert facts["dequantized_bytes"] == 2 * WEIGHTS + FLOATS
    assert facts.get("trains") is trains
    # quanto packs when it loads: its checkpoint holds floats. The others store what is loaded, and descriptions of it.
    in_float = declared["quant_method"] == "quanto"
    assert facts["stored_bytes"] == facts["dequantized_bytes"] if in_float else facts["loaded_bytes"]
    text = run(str(tmp_path), "--count-only", "--details").out
    assert "loaded dequantized" in text
    assert "stored in the checkpoint" in text


def test_mxfp4_is_counted_sized_and_says_that_it_does_not_train() -> None:
    facts = run("openai/gpt-oss-20b", "--offline", "--count-only", "--json").report["quantization"]
    assert (facts["loaded_bytes"], facts["stored_bytes"]) == (13_761_264_768, 13_761_264_768)
    assert facts["dequantized_bytes"] == 41_829_514_368
    assert facts["trains"] is False


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ("gptq", "must be an object, not 'gptq'"),
        ([GPTQ], "must be an object"),
        ({**GPTQ, "load_in_4bit": True}, "names 'gptq' and sets load_in_4bit"),
        ({**BNB, "load_in_4bit": "yes"}, "load_in_4bit must be a boolean"),
        ({**BNB, "load_in_4bit": True, "load_in_8bit": True}, "only one can be used"),
        (BNB, "neither load_in_4bit nor load_in_8bit"),
        ({**BNB, "load_in_4bit": True, "bnb_4bit_quant_type": "nf5"}, "'nf5', not nf4 or fp4"),
        ({**BNB, "load_in_4bit": True, "bnb_4bit_compute_dtype": "int3"}, "bnb_4bit_compute_dtype"),
        ({**BNB, "load_in_4bit": True, "llm_int8_skip_modules": ["["]}, "not a regular expression"),
        ({**BNB, "load_in_4bit": True, "llm_int8_skip_modules": ["([a-z0-9_.]+)+!"]}, "too involved a pattern"),
        ({**GPTQ, "group_size": 10**30}, "beyond 64 bit"),
    ],
    ids=str,
)
def test_a_malformed_declaration_is_refused(declared: Any, says: str, tmp_path: Path) -> None:
    assert_refused(run(declaring(tmp_path, declared), "--count-only"), 4, says)


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ({"quant_method": "newest"}, "it is not known here"),
        ({"bits": 4}, "it is not known here"),
        ({}, "it is not known here"),
        ({**GPTQ, "bits": 0}, "bits = 0"),
        ({**GPTQ, "bits": "4"}, "bits = '4'"),
        ({"quant_method": "gptq"}, "does not say how many bits"),
        ({**GPTQ, "group_size": -7}, "group size is not a size"),
        ({**GPTQ, "group_size": 0}, "group size is not a size"),
        ({**GPTQ, "group_size": None}, "group size is not a size"),
        ({**GPTQ, "modules_in_block_to_quantize": "q_proj"}, "not a list of lists"),
        ({**GPTQ, "quant_method": "awq", "group_size": 96}, "groups of 96 do not divide 256"),
        ({**GPTQ, "quant_method": "awq", "modules_to_not_convert": 5}, "not a list of names"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, "not a pair of sizes"),
        ({"quant_method": "fp8", "modules_to_not_convert": ["([a-z0-9_.]+)+!"]}, "too involved a pattern"),
        ({"quant_method": "mxfp4"}, "No weight of this model"),
        ({"quant_method": "compressed-tensors"}, "groups layers in a way"),
        ({**COMPRESSED, "ignore": ["re:["]}, "not a regular expression"),
        ({**COMPRESSED, "ignore": ["re:([a-z0-9_.]+)+!"]}, "too involved a pattern"),
        ({"quant_method": "torchao", "quant_type": "int4_weight_only"}, "int4_weight_only is laid out"),
        ({"quant_method": "hqq", "quant_config": 5}, "settings differ by layer"),
        ({"quant_method": "quanto", "weights": 4}, "not known here"),
    ],
    ids=str,
)
def test_what_no_rule_covers_is_counted_and_says_what_is_known(declared: Any, says: str, tmp_path: Path) -> None:
    """The parameters do not depend on it; the sizes are left out."""
    report = run(declaring(tmp_path, declared), "--count-only", "--json").report
    assert report["parameters"]["base"] == WEIGHTS + FLOATS // 2
    assert says in report["quantization"]["note"]
    assert any(warning["code"] == "quantized-checkpoint" for warning in report["warnings"])


def test_more_than_all_modules_can_be_left_out(tmp_path: Path) -> None:
    """One pattern is made of all names, which transformers would compile anew for every module."""
    names = [f"model.layers.{layer}.mlp.down_proj" for layer in range(5_000)]
    declared = {"quant_method": "fp8", "modules_to_not_convert": [*names, "lm_head"]}
    facts = run(declaring(tmp_path, declared), "--count-only", "--json").report["quantization"]
    assert facts["kept"] == ["model.layers.0-1.mlp.down_proj", "lm_head"]
    assert facts["parameters"] == WEIGHTS - 2 * 256 * 640


def test_quantized_weights_alone_cannot_be_trained() -> None:
    result = run(SMALL, "--offline", "--quantization", "nf4", "--json")
    assert result.code == 0
    report = json.loads(result.out)
    assert "training" not in report
    assert any("add --lora r=16" in warning["message"] for warning in report["warnings"])
    named = run(SMALL, "--offline", "--quantization", "nf4", "--gpu", "4090")
    assert (named.code, len(named.err.splitlines())) == (4, 1)
    assert "add --lora r=16" in named.err


def test_the_report_says_what_is_packed_and_what_it_takes() -> None:
    result = run(SMALL, "--offline", "--quantization", "nf4", "--double-quant", "--lora", "r=8", "--details")
    assert result.code == 0
    for words in ("Quantized weights", "scales packed too", "packed weights", "loaded as they are"):
        assert words in result.out


def test_flash_attention_on_quantized_weights_runs_in_the_dtype_of_the_model() -> None:
    """Hidden states are float32 then, and transformers casts to what the checkpoint declares, not to packed bytes."""
    plain = (SMALL, "--offline", "--json", "--quantization", "nf4", "--lora", "r=4", "--seq-len", "256")
    shared = (*plain, "--no-gradient-checkpointing")
    flash = run(*shared, "--attention", "flash_attention_2").report["training"]["peak_allocated_bytes"]
    sdpa = run(*shared).report["training"]["peak_allocated_bytes"]
    assert flash < sdpa


def test_packed_weights_alone_are_not_called_trained(tmp_path: Path) -> None:
    """Where no adapter trains, the count says itself that it cannot be trained."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    text = " ".join(run(str(tmp_path), "--quantization", "nf4").out.split())
    assert "of the total: cannot be trained on packed weights without an adapter" in text
    assert "cannot be trained" not in run(str(tmp_path), "--quantization", "nf4", "--lora", "r=4").out

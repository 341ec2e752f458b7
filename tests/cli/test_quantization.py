"""--quantization and --double-quant on the command line: reports, and refusals in one line."""

from __future__ import annotations

import json
from pathlib import Path

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
    config = {"model_type": "resnet", "architectures": ["ResNetModel"], "dtype": "float32"}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert_refused(run(str(tmp_path), "--quantization", "nf4"), 2, "no linear layer")


def test_a_malformed_declaration_is_refused(tmp_path: Path) -> None:
    declared = {"quant_method": "bitsandbytes", "load_in_4bit": "yes"}
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "quantization_config": declared}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert_refused(run(str(tmp_path), "--count-only"), 4, "quantization_config")


def test_quantized_weights_alone_cannot_be_trained() -> None:
    result = run(SMALL, "--offline", "--quantization", "nf4", "--json")
    assert result.code == 0
    report = json.loads(result.out)
    assert "training" not in report
    assert any("add --lora r=16" in warning["message"] for warning in report["warnings"])
    assert_refused(run(SMALL, "--offline", "--quantization", "nf4", "--gpu", "4090"), 4, "add --lora r=16")


def test_the_report_says_what_is_packed_and_what_it_takes() -> None:
    result = run(SMALL, "--offline", "--quantization", "nf4", "--double-quant", "--lora", "r=8", "--depth", "0")
    assert result.code == 0
    for words in ("Quantized weights", "scales packed too", "packed weights", "loaded as they are"):
        assert words in result.out


def test_flash_attention_on_quantized_weights_runs_in_the_dtype_of_the_model() -> None:
    """Hidden states are float32 then, and transformers casts to what the checkpoint declares, not to packed bytes."""
    shared = (SMALL, "--offline", "--json", "--quantization", "nf4", "--lora", "r=4", "--seq-len", "256")
    flash = run(*shared, "--attention", "flash_attention_2").report["training"]["peak_allocated_bytes"]
    sdpa = run(*shared).report["training"]["peak_allocated_bytes"]
    assert flash < sdpa

"""Quantized weights: what is converted and counted, and the step on them held against the libraries' own code.

`recorded_quantized.json` holds what torch, transformers, PEFT and bitsandbytes allocated when their real code ran over
a CUDA runtime whose kernels compute nothing; it says with which releases and how.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import transformers

import inspector
from inspector.hardware.platform import Platform
from inspector.memory.timeline import fold
from inspector.model.build import count_model
from inspector.records.recipe import Recipe
from inspector.records.report import Report
from inspector.records.request import Request
from inspector.records.source import ServedFrom, SourceFiles
from inspector.source import catalogue
from tests.workloads.tracing import trace

RECORD = json.loads((Path(__file__).parent / "recorded_quantized.json").read_text(encoding="utf-8"))
A100 = Platform(torch_version=(2, 13))
TINY_LLAMA = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"


def files_of(model: str, **changes: Any) -> SourceFiles:
    """Return a model of the catalogue with changes to its configuration."""
    files = catalogue.load_model(model)
    assert files is not None
    return SourceFiles(id=model, served_from=ServedFrom.LOCAL, config={**files.config, **changes})


def traced_peaks(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Trace what was recorded and return the peaks in the same form."""
    request = Request(
        model=run["model"],
        dtype=run["dtype"],
        quantization=run["quantization"],
        double_quant=run["double_quant"] if run["quantization"] != "int8" else None,
        peft={"peft_type": "LORA", "task_type": "CAUSAL_LM", **run["lora"]},
    )
    _, model = count_model(request, files_of(run["model"], num_hidden_layers=2))
    timeline = fold(trace(model, Recipe(**{"padding": False, "optimizer": "adamw_torch", **run["recipe"]}), A100))
    return [
        {
            "step": phase.step,
            "phase": phase.name.value,
            "peak_allocated_bytes": phase.peak_allocated_bytes,
            "peak_reserved_bytes": phase.peak_reserved_bytes,
        }
        for phase in timeline.phases
    ]


@pytest.mark.skipif(
    tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 23), reason="earlier releases load with threads"
)
@pytest.mark.parametrize(
    "run", RECORD["runs"], ids=lambda run: f"{run['model'].partition('/')[2]} {run['quantization']} {run['recipe']}"
)
@pytest.mark.filterwarnings("ignore:.*gradient.checkpointing.*:FutureWarning")
def test_every_peak_of_both_steps_is_what_the_libraries_allocate(run: dict[str, Any]) -> None:
    assert traced_peaks(run) == run["phases"]


def quantized(model: str = TINY_LLAMA, **options: Any) -> Report:
    """Inspect a model of the catalogue, counts only."""
    return inspector.inspect(model, offline=True, count_only=True, **options)


LORA = {"peft_type": "LORA", "r": 16, "target_modules": "all-linear"}


def test_packed_bytes_follow_from_the_shapes() -> None:
    # TinyLlama: 22 layers of q, o (2048 × 2048), k, v (256 × 2048), gate, up (5632 × 2048), down.
    shapes = [(2048, 2048)] * 2 + [(256, 2048)] * 2 + [(5632, 2048)] * 2 + [(2048, 5632)]
    counts = [rows * columns for rows, columns in shapes] * 22
    in_float = (2 * 32_000 * 2048 + 45 * 2048) * 2  # embedding, head and norms in bfloat16
    plain = quantized(quantization="nf4").quantization
    assert plain is not None
    assert plain.modules_count == 154
    assert plain.kept == ["lm_head"]
    assert plain.parameters == sum(counts) == 968_884_224
    assert plain.weight_bytes == sum(counts) // 2
    assert plain.scale_bytes == sum(count // 64 * 4 + 16 * 4 for count in counts)
    assert plain.kept_bytes == in_float
    assert plain.dequantized_bytes == 2 * 1_100_048_384
    double = quantized(quantization="fp4", double_quant=True).quantization
    assert double is not None
    # One byte a scale, a float32 for 256 of them (rounded up), two tables and an offset.
    nested = sum(count // 64 + -(-count // 64 // 256) * 4 + 16 * 4 + 256 * 4 + 4 for count in counts)
    assert double.scale_bytes == nested
    eight = quantized(quantization="int8").quantization
    assert eight is not None
    assert eight.weight_bytes == sum(counts)
    assert eight.scale_bytes == sum(rows for rows, _ in shapes) * 22 * 4


@pytest.mark.parametrize("method", ["nf4", "int8"])
def test_counts_of_a_packed_model_are_of_weights_and_not_of_bytes(method: str) -> None:
    in_float = quantized(peft=LORA)
    packed = quantized(peft=LORA, quantization=method)
    assert packed.parameters.base == in_float.parameters.base == 1_100_048_384
    assert packed.parameters.total == in_float.parameters.total
    assert packed.parameters.trainable == in_float.parameters.trainable
    assert packed.parameters.groups == in_float.parameters.groups
    assert packed.parameters.tree[0].count == in_float.parameters.tree[0].count


def test_unpacked_weights_prepared_for_an_adapter_are_float32() -> None:
    # 968,884,224 / 2 packed, their scales, and embedding, head and norms in float32; the adapter is float32 too.
    report = quantized(peft=LORA, quantization="nf4")
    float32 = (2 * 32_000 * 2048 + 45 * 2048) * 4 + 968_884_224 // 64 * 4 + 154 * 64 + 12_615_680 * 4
    assert report.parameters.dtypes == {"float32": float32, "uint8": 968_884_224 // 2}


def test_peft_puts_layers_for_4_bits_on_the_weights_and_counts_the_same_parameters() -> None:
    request = Request(model=TINY_LLAMA, quantization="nf4", peft={**LORA, "task_type": "CAUSAL_LM"})
    counted, model = count_model(request, files_of(TINY_LLAMA, num_hidden_layers=1))
    assert model is not None
    attached: Any = model.model
    layer = attached.base_model.model.model.layers[0].mlp.up_proj
    assert type(layer).__module__ == "peft.tuners.lora.bnb"
    assert type(layer).__name__ == "Linear4bit"
    assert attached.get_nb_trainable_parameters() == (counted.census.trainable, counted.census.total)


def test_nothing_of_the_stand_in_is_left_behind() -> None:
    quantized(peft=LORA, quantization="nf4")
    assert "bitsandbytes" not in sys.modules
    assert "peft.tuners.lora.bnb" not in sys.modules
    assert not peft.import_utils.is_bnb_available() or importlib.util.find_spec("bitsandbytes") is not None


def test_routed_experts_stay_in_float() -> None:
    # transformers replaces linear layers; routed experts are fused parameters. Mixtral: 32 layers, 8 experts, and the
    # router is no linear layer either.
    report = quantized("mistralai/Mixtral-8x7B-v0.1", quantization="nf4")
    facts = report.quantization
    assert facts is not None
    experts = 32 * 8 * 3 * 4096 * 14_336
    told = [notice.message for notice in report.warnings if notice.code == "experts-in-float"]
    assert len(told) == 1
    assert f"{experts:,}" in told[0]
    attention = 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096)
    assert facts.parameters == attention
    assert facts.kept_bytes == 2 * (46_702_792_704 - attention)


# --- checkpoints that are stored quantized ----------------------------------------------------------------------------


def test_gpt_oss_is_stored_in_13_761_264_768_bytes() -> None:
    # 24 layers of 32 experts: gate, up and down of 2,880 × 2,880, in blocks of 32; all else in bfloat16.
    report = quantized("openai/gpt-oss-20b")
    facts = report.quantization
    assert facts is not None
    weights = 24 * 32 * 3 * 2880 * 2880
    assert facts.parameters == weights == 19_110_297_600
    assert facts.weight_bytes == weights // 2
    assert facts.scale_bytes == weights // 32 == 597_196_800  # the Hub's older total counted as many scales
    assert facts.kept_bytes == 2 * (report.parameters.base - weights)
    assert facts.loaded_bytes == facts.stored_bytes == 13_761_264_768
    assert facts.dequantized_bytes == 2 * report.parameters.base == 41_829_514_368
    assert facts.trains is False


def test_deepseek_v3_has_the_fp8_weights_and_scales_of_its_checkpoint_less_the_prediction_layer() -> None:
    # The checkpoint holds 680,571,043,840 FP8 elements and 41,540,496 scales (fixtures, from its headers). The layer
    # for multi-token prediction, which transformers does not build, has 11,505,434,624 of the former: its
    # 11,610,067,968 parameters less the bfloat16 ones, 7,168 × 14,336 of the projection, 256 × 7,168 of the router and
    # 37,888 of norms. Its scales: 256 + 1 experts of 3 × 896, and 12·56 + 192·12 + 5·56 + 256·4 + 56·128 of attention.
    facts = quantized("deepseek-ai/DeepSeek-V3").quantization
    assert facts is not None
    predicted = 11_610_067_968 - 7168 * 14_336 - 256 * 7168 - 37_888
    assert predicted == 11_505_434_624
    assert facts.weight_bytes == 680_571_043_840 - predicted
    scales = 257 * 3 * 896 + 12 * 56 + 192 * 12 + 5 * 56 + 256 * 4 + 56 * 128
    assert facts.scale_bytes == 4 * (41_540_496 - scales)
    # In bytes: 680,571,043,840 of FP8, 3,918,786,560 in bfloat16, 41,555,600 in float32. The layer has beside these
    # its float weights, second copies of embedding and head (129,280 × 7,168) and a bias of 256 in its router.
    checkpoint = 680_571_043_840 + 2 * 3_918_786_560 + 4 * 41_555_600
    assert checkpoint == 688_574_839_360
    in_bfloat16 = 7168 * 14_336 + 256 * 7168 + 37_888 + 2 * 129_280 * 7168
    assert facts.stored_bytes == checkpoint - predicted - 4 * (scales + 256) - 2 * in_bfloat16
    assert facts.loaded_bytes == 673_150_552_416
    assert facts.stored_bytes == facts.loaded_bytes + 58 * 256 * 4  # the biases of the routers are buffers
    assert facts.dequantized_bytes == 1_342_052_808_704


def stored(config: dict[str, Any], model: str = "mistralai/Mistral-7B-v0.1") -> Any:
    """Return what is said of a model of the catalogue whose checkpoint declares `config`."""
    return count_model(Request(model=model), files_of(model, quantization_config=config))[0].quantization


@pytest.mark.parametrize(("method", "indices"), [("awq", 0), ("gptq", 1)])
def test_mistral_in_four_bits_of_awq_and_gptq(method: str, indices: int) -> None:
    # Linear weights of a layer: q, o 4096 × 4096, k, v 1024 × 4096, gate, up, down 14336 × 4096.
    weights = 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14_336 * 4096)
    facts = stored({"quant_method": method, "bits": 4, "group_size": 128})
    inputs = 32 * (6 * 4096 + 14_336)  # GPTQ's index of each input
    assert facts.parameters == weights
    assert facts.weight_bytes == weights // 2
    assert facts.scale_bytes == weights // 128 * 2 + weights // 128 // 2 + indices * inputs * 4
    assert facts.kept == ["lm_head"]
    assert facts.trains is True


def names_of(paths: Sequence[str]) -> set[str]:
    """Return the last part of each path."""
    return {path.rpartition(".")[2] for path in paths}


def test_a_format_without_a_rule_says_what_is_known() -> None:
    facts = stored({"quant_method": "aqlm"})
    assert facts.loaded_bytes is None
    assert facts.modules is None
    assert "codebooks of several sizes" in facts.note
    assert stored({"quant_method": "newest"}).note == "No rule for this format: it is not known here."
    assert "bits = 5" in stored({"quant_method": "gptq", "bits": 5, "group_size": 128}).note


def test_layers_that_a_configuration_leaves_out_are_not_counted_as_packed() -> None:
    facts = stored({"quant_method": "fp8", "modules_to_not_convert": ["lm_head", "down_proj"]})
    assert names_of(facts.kept) == {"down_proj", "lm_head"}
    assert facts.parameters == 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 2 * 14_336 * 4096)


def test_a_checkpoint_of_bitsandbytes_is_loaded_as_it_is() -> None:
    config = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "bfloat16",
    }
    facts = stored(config, TINY_LLAMA)
    asked = quantized(quantization="nf4", double_quant=True).quantization
    assert asked is not None
    assert (facts.method, facts.source, facts.compute_dtype) == ("nf4", "checkpoint", "bfloat16")
    assert facts.loaded_bytes == asked.loaded_bytes

"""Headers of quantized checkpoints beside what their format makes of the model.

`recorded_stored.json` holds the names, dtypes and shapes that the libraries themselves write; record_stored.py says
how. FP8 and MXFP4 are made here, by transformers' own modules.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import FineGrainedFP8Config, GptOssConfig, GptOssForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.integrations.finegrained_fp8 import replace_with_fp8_linear
from transformers.integrations.mxfp4 import Mxfp4GptOssExperts
from transformers.quantizers.quantizer_finegrained_fp8 import FineGrainedFP8HfQuantizer

import inspector
from inspector.records.checkpoint import FormatComparison, FormatDifference
from inspector.records.report import Report
from tests.source.weight_files import ITEM_BYTES, weight_file

RECORD = json.loads((Path(__file__).parent / "recorded_stored.json").read_text(encoding="utf-8"))
FORMATS: dict[str, Any] = RECORD["formats"]


def inspected(folder: Path, config: dict[str, Any], tensors: dict[str, Any]) -> Report:
    """Write a checkpoint of zeros and inspect it."""
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(weight_file({name: tuple(each) for name, each in tensors.items()}))
    return inspector.inspect(folder, count_only=True)


def by_format(report: Report) -> FormatComparison:
    """Return what the report says of the headers."""
    assert report.checkpoint is not None
    assert report.checkpoint.by_format is not None
    return report.checkpoint.by_format


@pytest.mark.parametrize("name", FORMATS)
def test_headers_that_a_library_writes_agree_with_the_rule_of_the_format(name: str, tmp_path: Path) -> None:
    report = inspected(tmp_path, FORMATS[name]["config"], FORMATS[name]["tensors"])
    found = by_format(report)
    assert found.differences == ()
    assert found.expected_bytes + found.varying_bytes == found.stored_bytes
    assert report.checkpoint is not None
    assert found.stored_bytes == report.checkpoint.tensor_bytes == sum(map(size_of, FORMATS[name]["tensors"].values()))


# Stored alone, to be read on loading: settings that take no memory of the model.
DESCRIPTIONS = re.compile(
    r"\.quant_state\.bitsandbytes__|\.weight_format$|\.(shape|axis|group_size|nbits|packing|unpack_view_dtype|compute_dtype"
    r"|channel_wise|encoded_state_dict|offload_meta|optimize|quant_scale|quant_zero|round_zero|stores_quant_config"
    r"|view_as_float)$"
)


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_loaded_is_what_is_stored_less_its_descriptions(name: str, tmp_path: Path) -> None:
    config, tensors = FORMATS[name]["config"], FORMATS[name]["tensors"]
    facts = inspected(tmp_path, config, tensors).quantization
    assert facts is not None
    stored = sum(size_of(each) for own, each in tensors.items() if not DESCRIPTIONS.search(own))
    # bitsandbytes writes the mean of packed scales into their description, and keeps it as a float32 a layer.
    means = 4 * 7 if "double" in name else 0
    assert facts.loaded_bytes == stored + means
    # 7 linear layers: 256 inputs and outputs of q and o, 64 outputs of k and v, 640 of gate and up, 640 inputs of down.
    assert facts.parameters == 256 * (2 * 256 + 2 * 64 + 3 * 640)
    # A text whose length depends on data leaves the size of the whole open.
    whole = sum(map(size_of, tensors.values()))
    assert facts.stored_bytes == (None if "double" in name else whole)


# Qwen2.5-7B, 28 layers: q and o (3584 × 3584), k and v (512 × 3584), gate and up (18944 × 3584), down (3584 × 18944).
QWEN_WEIGHTS = 28 * (2 * 3584 * 3584 + 2 * 512 * 3584 + 3 * 18_944 * 3584)
QWEN_INPUTS = 28 * (6 * 3584 + 18_944)
# Embedding and head, two norms a layer and one at the end, in float16; biases of q, k and v come with the layers.
QWEN_REST = 2 * (2 * 152_064 * 3584 + (2 * 28 + 1) * 3584)
QWEN_BIASES = 2 * 28 * (3584 + 2 * 512)


@pytest.mark.parametrize(
    ("model", "method", "loaded"),
    [
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "awq", 5_570_747_392),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "gptq", 5_575_277_568),
    ],
)
def test_awq_and_gptq_models_of_the_catalogue(model: str, method: str, loaded: int) -> None:
    """By the rule, by the layers that transformers makes of gptqmodel in these sizes, and by hand."""
    report = inspector.inspect(model, offline=True, count_only=True)
    facts = report.quantization
    assert facts is not None
    assert facts.loaded_bytes == facts.stored_bytes == loaded
    layers = sum(size_of(each) for each in RECORD["qwen2.5-7b"][method].values())
    assert 28 * layers + QWEN_REST == loaded
    # Half a byte a weight; in groups of 128 a float16 scale and half a byte of zero point; GPTQ's int32 an input.
    scales = QWEN_WEIGHTS // 128 * 2 + QWEN_WEIGHTS // 128 // 2 + (4 * QWEN_INPUTS if method == "gptq" else 0)
    assert (facts.weight_bytes, facts.scale_bytes) == (QWEN_WEIGHTS // 2, scales)
    assert facts.kept_bytes == QWEN_REST + QWEN_BIASES
    assert report.parameters.base == QWEN_WEIGHTS + facts.kept_bytes // 2 == 7_615_616_512
    assert facts.dequantized_bytes == 2 * 7_615_616_512
    assert facts.kept == ["lm_head"]
    assert facts.trains is True


def size_of(each: list[Any]) -> int:
    """Return the bytes of a recorded tensor."""
    return int(math.prod(each[1])) * ITEM_BYTES[each[0]]


def llama_in_fp8(tmp_path: Path, **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return configuration and tensors of a Llama whose layers transformers has made FP8 ones."""
    declared = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128], **fields}
    config = FORMATS["bitsandbytes nf4"]["config"] | {"quantization_config": declared}
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(
            LlamaConfig(**{key: config[key] for key in config if key != "quantization_config"})
        )
    model.to(torch.bfloat16)
    left_out = FineGrainedFP8HfQuantizer.get_modules_to_not_convert(model, declared.get("modules_to_not_convert"))
    replace_with_fp8_linear(
        model, modules_to_not_convert=left_out, quantization_config=FineGrainedFP8Config(**declared), pre_quantized=True
    )
    state = model.state_dict()
    # FP8Linear makes its bias in the default dtype; it is loaded in the checkpoint's.
    dtypes = {name: "BF16" if name.endswith("bias") else NAMES[tensor.dtype] for name, tensor in state.items()}
    return config, {name: [dtypes[name], list(tensor.shape)] for name, tensor in state.items()}


NAMES = {torch.bfloat16: "BF16", torch.float32: "F32", torch.float8_e4m3fn: "F8_E4M3"}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"weight_block_size": None},
        {"weight_block_size": [64, 96]},
        {"activation_scheme": "static"},
        {"modules_to_not_convert": ["lm_head", "down_proj"]},
        {"modules_to_not_convert": []},
    ],
    ids=str,
)
def test_fp8_layers_of_transformers_hold_what_the_format_says(fields: dict[str, Any], tmp_path: Path) -> None:
    config, tensors = llama_in_fp8(tmp_path, **fields)
    found = by_format(inspected(tmp_path, config, tensors))
    assert found.differences == ()
    assert found.expected_bytes == found.stored_bytes == sum(map(size_of, tensors.values()))


GPT_OSS: dict[str, Any] = {
    "model_type": "gpt_oss",
    "architectures": ["GptOssForCausalLM"],
    "dtype": "bfloat16",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
    "vocab_size": 30,
    "layer_types": ["full_attention"],
    "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]},
}


def test_mxfp4_experts_of_transformers_hold_what_the_format_says(tmp_path: Path) -> None:
    config = GptOssConfig(**{key: value for key, value in GPT_OSS.items() if key != "quantization_config"})
    with torch.device("meta"):
        model: Any = GptOssForCausalLM(config)
        model.to(torch.bfloat16)
        experts = Mxfp4GptOssExperts(config)
    prefix = "model.layers.0.mlp.experts."
    tensors = {name: ["BF16", list(each.shape)] for name, each in model.state_dict().items() if prefix not in name}
    for name, each in experts.state_dict().items():
        if name.endswith("bias"):
            tensors[prefix + name] = ["BF16", list(each.shape)]
            continue
        # Mxfp4ReverseDeserialize stores the bytes in blocks of 16, and an exponent for each.
        scales = [*each.shape[:2], each.shape[2] // 16]
        tensors |= {f"{prefix}{name}_blocks": ["U8", [*scales, 16]], f"{prefix}{name}_scales": ["U8", scales]}
    found = by_format(inspected(tmp_path, GPT_OSS, tensors))
    assert found.differences == ()
    # 3 experts of gate, up (96 × 64) and down (64 × 96): two values a byte, an exponent for 32.
    weights = 3 * 3 * 96 * 64
    packed = sum(size_of(each) for name, each in tensors.items() if name.endswith(("_blocks", "_scales")))
    assert packed == weights // 2 + weights // 32


MOE: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "architectures": ["Qwen3MoeForCausalLM"],
    "dtype": "bfloat16",
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "num_experts": 3,
    "num_experts_per_tok": 2,
    "vocab_size": 30,
}


def experts_in(pack: Callable[[str, int, int], dict[str, Any]]) -> dict[str, Any]:
    """Return the tensors of the small model of experts, each expert stored by itself."""
    tensors: dict[str, Any] = {"model.embed_tokens.weight": ["BF16", [30, 64]], "lm_head.weight": ["BF16", [30, 64]]}
    tensors["model.norm.weight"] = ["BF16", [64]]
    for layer in ("model.layers.0.", "model.layers.1."):
        for norm, size in (("input_layernorm", 64), ("post_attention_layernorm", 64)):
            tensors[f"{layer}{norm}.weight"] = ["BF16", [size]]
        for norm in ("q_norm", "k_norm"):
            tensors[f"{layer}self_attn.{norm}.weight"] = ["BF16", [32]]
        tensors[f"{layer}mlp.gate.weight"] = ["BF16", [3, 64]]
        for name, rows, columns in (("q", 64, 64), ("k", 32, 64), ("v", 32, 64), ("o", 64, 64)):
            tensors |= pack(f"{layer}self_attn.{name}_proj", rows, columns)
        for expert in range(3):
            for name, rows, columns in (("gate", 96, 64), ("up", 96, 64), ("down", 64, 96)):
                tensors |= pack(f"{layer}mlp.experts.{expert}.{name}_proj", rows, columns)
    return tensors


def in_fp8(name: str, rows: int, columns: int) -> dict[str, Any]:
    """Return a weight in blocks of 64 × 64."""
    scales = [-(-rows // 64), -(-columns // 64)]
    return {f"{name}.weight": ["F8_E4M3", [rows, columns]], f"{name}.weight_scale_inv": ["F32", scales]}


def in_gptq(name: str, rows: int, columns: int) -> dict[str, Any]:
    """Return a weight in 4 bits and groups of 32."""
    return {
        f"{name}.qweight": ["I32", [columns // 8, rows]],
        f"{name}.qzeros": ["I32", [columns // 32, rows // 8]],
        f"{name}.scales": ["F16", [columns // 32, rows]],
        f"{name}.g_idx": ["I32", [columns]],
    }


@pytest.mark.parametrize(
    ("declared", "pack"),
    [
        ({"quant_method": "fp8", "weight_block_size": [64, 64]}, in_fp8),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, in_gptq),
    ],
    ids=["fp8", "gptq"],
)
def test_experts_are_expected_one_by_one_as_they_are_stored(
    declared: dict[str, Any], pack: Callable[[str, int, int], dict[str, Any]], tmp_path: Path
) -> None:
    tensors = experts_in(pack)
    report = inspected(tmp_path, {**MOE, "quantization_config": declared}, tensors)
    found = by_format(report)
    assert found.differences == ()
    assert found.expected_bytes == found.stored_bytes == sum(map(size_of, tensors.values()))
    assert report.quantization is not None
    assert report.quantization.loaded_bytes == found.stored_bytes


def test_layers_of_gpt2_are_packed_with_inputs_before_outputs(tmp_path: Path) -> None:
    """`Conv1D` holds inputs before outputs; its bias stays, as do embeddings, norms and the tied head."""
    config = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "dtype": "float16",
        "n_embd": 32,
        "n_layer": 1,
    }
    config |= {"n_head": 2, "vocab_size": 30, "n_positions": 8}
    config |= {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32}}
    tensors: dict[str, Any] = {"transformer.wte.weight": ["F16", [30, 32]], "transformer.wpe.weight": ["F16", [8, 32]]}
    for name in ("transformer.h.0.ln_1", "transformer.h.0.ln_2", "transformer.ln_f"):
        tensors |= {f"{name}.weight": ["F16", [32]], f"{name}.bias": ["F16", [32]]}
    layers = (("attn.c_attn", 96, 32), ("attn.c_proj", 32, 32), ("mlp.c_fc", 128, 32), ("mlp.c_proj", 32, 128))
    for name, rows, columns in layers:
        own = f"transformer.h.0.{name}"
        tensors |= {**in_gptq(own, rows, columns), f"{own}.bias": ["F16", [rows]]}
    found = by_format(inspected(tmp_path, config, tensors))
    assert found.differences == ()
    assert found.expected_bytes == found.stored_bytes


def test_experts_that_stay_one_parameter_are_sized_and_not_compared(tmp_path: Path) -> None:
    """Nothing says under which names gpt-oss' experts would be stored in another format than MXFP4."""
    declared = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    config = {**GPT_OSS, "quantization_config": declared}
    report = inspected(tmp_path, config, {"lm_head.weight": ["BF16", [30, 64]]})
    assert report.checkpoint is not None
    assert report.checkpoint.by_format is None
    assert any(notice.code == "checkpoint-not-compared" for notice in report.warnings)
    assert report.quantization is not None
    # 3 experts of gate, up and down, and q (64 × 64), k, v (32 × 64), o.
    assert report.quantization.parameters == 3 * 3 * 96 * 64 + 2 * 64 * 64 + 2 * 32 * 64


# --- differences ------------------------------------------------------------------------------------------------------


def test_a_bias_that_the_model_does_not_have_is_named_with_its_bytes(tmp_path: Path) -> None:
    """AutoGPTQ puts a bias of zeros beside every packed weight; here q, k, v and o have one of their own."""
    recorded = FORMATS["gptq 4 bits, groups of 128"]
    extra = {f"model.layers.0.mlp.{name}_proj.bias": ["F16", [640]] for name in ("gate", "up")}
    report = inspected(tmp_path, recorded["config"], recorded["tensors"] | extra)
    found = by_format(report)
    assert found.differences == (
        FormatDifference(
            names=("model.layers.0.mlp.gate_proj.bias", "model.layers.0.mlp.up_proj.bias"),
            tensors=2,
            stored_dtype="F16",
            stored_shape=(640,),
            stored_bytes=2 * 640 * 2,
        ),
    )
    assert found.stored_bytes == found.expected_bytes + 2560
    told = [notice.message for notice in report.warnings if notice.code == "stored-otherwise"]
    assert told == [
        f"The checkpoint is stored in {found.stored_bytes:,} bytes, 2,560 more than its format (gptq) makes of the "
        "model, but otherwise: model.layers.0.mlp.gate_proj.bias is not expected."
    ]


def test_other_groups_than_declared_and_a_missing_tensor_are_named(tmp_path: Path) -> None:
    recorded = FORMATS["awq groups of 64"]
    tensors = dict(recorded["tensors"])
    del tensors["model.layers.0.self_attn.k_proj.qweight"]
    tensors["model.layers.0.mlp.down_proj.scales"] = ["F16", [5, 256]]  # of groups of 128
    found = by_format(inspected(tmp_path, recorded["config"], tensors))
    scales, weight = found.differences
    assert (scales.names, scales.expected_shape, scales.stored_shape) == (
        ("model.layers.0.mlp.down_proj.scales",),
        (10, 256),
        (5, 256),
    )
    assert (weight.names, weight.stored_shape) == (("model.layers.0.self_attn.k_proj.qweight",), None)
    assert weight.expected_bytes == 256 * 64 // 2
    beyond = sum(each.stored_bytes - each.expected_bytes for each in found.differences)
    assert found.stored_bytes == found.expected_bytes + beyond


def test_an_output_head_that_is_packed_without_a_declaration_is_listed(tmp_path: Path) -> None:
    """The configuration says nothing of it, so the rule expects it in float."""
    config, tensors = llama_in_fp8(tmp_path)
    tensors["lm_head.weight"] = ["F8_E4M3", [96, 256]]
    tensors["lm_head.weight_scale_inv"] = ["F32", [1, 2]]
    found = by_format(inspected(tmp_path, config, tensors))
    assert [each.names for each in found.differences] == [("lm_head.weight",), ("lm_head.weight_scale_inv",)]
    assert found.stored_bytes - found.expected_bytes == 96 * 256 + 8 - 2 * 96 * 256


def test_a_format_without_a_rule_is_not_compared(tmp_path: Path) -> None:
    config = FORMATS["bitsandbytes nf4"]["config"] | {"quantization_config": {"quant_method": "aqlm"}}
    report = inspected(tmp_path, config, {"lm_head.weight": ["BF16", [96, 256]]})
    assert report.checkpoint is not None
    assert report.checkpoint.by_format is None
    assert any(notice.code == "checkpoint-not-compared" for notice in report.warnings)

"""Stored formats: bytes of packed weights by integer arithmetic, written beside the expected numbers."""

from __future__ import annotations

from typing import Any

import pytest

from inspector.quantization.formats import FORMATS, KNOWN, TRAINS, Block, Matrix, NoRuleError, Packed, format_of

# Mistral-7B's down_proj: 4,096 outputs of 14,336 inputs, 58,720,256 weights.
MATRIX = Matrix(rows=4096, columns=14_336)
GROUPS = 14_336 // 128  # 112


def packed(method: str, config: dict[str, Any], matrix: Matrix = MATRIX) -> Packed:
    """Apply the rule of a method."""
    return FORMATS[method].rule(config, matrix)


def grouped(**weights: Any) -> dict[str, Any]:
    """Return a configuration of compressed-tensors with one group for all linear layers."""
    layout = weights.pop("layout")
    return {"format": layout, "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}


def test_a_block_that_is_not_full_takes_as_many_bytes() -> None:
    block = Block(bytes=17, elements=32)
    assert [block.of(count) for count in (0, 1, 32, 33)] == [0, 17, 17, 34]


def test_gptq_keeps_a_scale_and_a_packed_zero_a_group_and_an_index_an_input() -> None:
    # qweight: 14,336 / 8 rows of int32 for each output. scales: float16. qzeros: 4,096 / 8 int32. g_idx: int32.
    assert packed("gptq", {"bits": 4, "group_size": 128}) == Packed(
        weight_bytes=14_336 // 8 * 4 * 4096,
        scale_bytes=GROUPS * 4096 * 2 + GROUPS * 4096 // 8 * 4 + 14_336 * 4,
    )
    one_group = packed("gptq", {"bits": 8, "group_size": -1})
    assert one_group == Packed(weight_bytes=MATRIX.count, scale_bytes=4096 * 2 + 4096 + 14_336 * 4)


def test_awq_packs_along_the_outputs_without_an_index() -> None:
    assert packed("awq", {"bits": 4, "group_size": 128, "version": "gemm"}) == Packed(
        weight_bytes=MATRIX.count // 2,
        scale_bytes=GROUPS * 4096 * 2 + GROUPS * 4096 // 2,
    )
    with pytest.raises(NoRuleError, match="gemv layout"):
        packed("awq", {"bits": 4, "group_size": 128, "version": "GEMV"})


def test_fp8_keeps_a_float32_scale_for_each_block_begun() -> None:
    # DeepSeek-V3's kv_a_proj: 576 outputs are 4.5 blocks of 128, so 5 × 56 scales.
    narrow = Matrix(rows=576, columns=7168)
    assert packed("fp8", {"weight_block_size": [128, 128]}, narrow) == Packed(
        weight_bytes=576 * 7168, scale_bytes=5 * 56 * 4
    )
    assert packed("fp8", {}, narrow).scale_bytes == 4


def test_mxfp4_blocks_are_16_bytes_and_an_exponent_for_32_values() -> None:
    # gpt-oss: 32 experts of 2,880 outputs and 2,880 inputs, 90 blocks a line.
    matrix = Matrix(rows=2880, columns=2880, copies=32)
    assert packed("mxfp4", {}, matrix) == Packed(weight_bytes=32 * 2880 * 90 * 16, scale_bytes=32 * 2880 * 90)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            grouped(layout="pack-quantized", num_bits=4, strategy="group", group_size=128, symmetric=True),
            Packed(weight_bytes=MATRIX.count // 2, scale_bytes=4096 * GROUPS * 2 + 16),
        ),
        (
            grouped(layout="pack-quantized", num_bits=4, strategy="group", group_size=128, symmetric=False),
            Packed(weight_bytes=MATRIX.count // 2, scale_bytes=4096 * GROUPS * 2 + 4096 // 2 * GROUPS + 16),
        ),
        (
            grouped(layout="float-quantized", num_bits=8, strategy="channel"),
            Packed(weight_bytes=MATRIX.count, scale_bytes=4096 * 2),
        ),
        (
            grouped(layout="int-quantized", num_bits=8, strategy="tensor"),
            Packed(weight_bytes=MATRIX.count, scale_bytes=2),
        ),
        (
            grouped(layout="float-quantized", num_bits=8, strategy="block", block_structure=[128, 128]),
            Packed(weight_bytes=MATRIX.count, scale_bytes=32 * 112 * 2),
        ),
        (
            grouped(layout="nvfp4-pack-quantized", num_bits=4),
            Packed(weight_bytes=MATRIX.count // 2, scale_bytes=MATRIX.count // 16 + 4),
        ),
    ],
    ids=["int4", "int4 asymmetric", "fp8 by channel", "int8 by tensor", "fp8 by block", "nvfp4"],
)
def test_compressed_tensors_by_layout_and_strategy(config: dict[str, Any], expected: Packed) -> None:
    assert packed("compressed-tensors", config) == expected


def test_hqq_keeps_a_scale_and_a_zero_in_float16_a_group() -> None:
    config = {"quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}, "scale_quant_params": None}}
    assert packed("hqq", config) == Packed(weight_bytes=MATRIX.count // 2, scale_bytes=MATRIX.count // 64 * 2 * 2)


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("gptq", {"bits": 3, "group_size": 128}),
        ("gptq", {"bits": "4", "group_size": 128}),
        ("gptq", {"bits": 4, "group_size": 0}),
        ("awq", {}),
        ("fp8", {"weight_block_size": [128]}),
        ("fp8", {"weight_block_size": [0, 128]}),
        ("compressed-tensors", {}),
        ("compressed-tensors", {"config_groups": {"a": {}, "b": {}}}),
        ("compressed-tensors", grouped(layout="sparse-24", num_bits=4, strategy="channel")),
        ("compressed-tensors", grouped(layout="float-quantized", num_bits=8, strategy="token")),
        ("hqq", {"quant_config": {"weight_quant_params": {"nbits": 3}}}),
        ("hqq", {"quant_config": 1}),
    ],
)
def test_what_no_rule_covers_says_so(method: str, config: dict[str, Any]) -> None:
    with pytest.raises(NoRuleError):
        packed(method, config)


def test_a_method_is_read_from_a_configuration_as_transformers_reads_it() -> None:
    assert format_of({"quant_method": "GPTQ"}) == "gptq"
    assert format_of({"load_in_4bit": True}) == "bitsandbytes"
    assert format_of({"quant_method": 4}) == ""


def test_every_format_says_whether_it_trains_and_has_a_rule_or_a_reason() -> None:
    assert not set(FORMATS) & set(KNOWN)
    assert set(FORMATS) | set(KNOWN) | {"bitsandbytes"} >= set(TRAINS)
    assert set(FORMATS) <= set(TRAINS)

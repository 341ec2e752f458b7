"""Stored formats: bytes of packed weights by integer arithmetic, written beside the expected numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector.quantization.compressed_tensors import is_ignored
from inspector.quantization.formats import FORMATS, KNOWN, find_format, find_training_support
from inspector.quantization.layout import Block, Matrix, NoRuleError

# Mistral-7B's down_proj: 4,096 outputs of 14,336 inputs, 58,720,256 weights.
MATRIX = Matrix(rows=4096, columns=14_336)
GROUPS = 14_336 // 128  # 112


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a rule's tensors add up to."""

    weight_bytes: int
    scale_bytes: int


def packed(method: str, config: dict[str, Any], matrix: Matrix = MATRIX) -> Sizes:
    """Apply the rule of a method."""
    found = FORMATS[method].rule(config, matrix)
    return Sizes(weight_bytes=found.weight_bytes, scale_bytes=found.scale_bytes)


def grouped(**weights: Any) -> dict[str, Any]:
    """Return a configuration of compressed-tensors with one group for all linear layers."""
    layout = weights.pop("layout")
    return {"format": layout, "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}


def test_a_block_that_is_not_full_takes_as_many_bytes() -> None:
    block = Block(bytes=17, elements=32)
    assert [block.of(count) for count in (0, 1, 32, 33)] == [0, 17, 17, 34]


def test_gptq_keeps_a_scale_and_a_packed_zero_a_group_and_an_index_an_input() -> None:
    # qweight: 14,336 / 8 rows of int32 for each output. scales: float16. qzeros: 4,096 / 8 int32. g_idx: int32.
    assert packed("gptq", {"bits": 4, "group_size": 128}) == Sizes(
        weight_bytes=14_336 // 8 * 4 * 4096,
        scale_bytes=GROUPS * 4096 * 2 + GROUPS * 4096 // 8 * 4 + 14_336 * 4,
    )
    one_group = packed("gptq", {"bits": 8, "group_size": -1})
    assert one_group == Sizes(weight_bytes=MATRIX.count, scale_bytes=4096 * 2 + 4096 + 14_336 * 4)


def test_awq_packs_along_the_outputs_without_an_index() -> None:
    assert packed("awq", {"bits": 4, "group_size": 128, "version": "gemm"}) == Sizes(
        weight_bytes=MATRIX.count // 2,
        scale_bytes=GROUPS * 4096 * 2 + GROUPS * 4096 // 2,
    )
    with pytest.raises(NoRuleError, match="gemv layout"):
        packed("awq", {"bits": 4, "group_size": 128, "version": "GEMV"})


def test_fp8_keeps_a_float32_scale_for_each_block_begun() -> None:
    # DeepSeek-V3's kv_a_proj: 576 outputs are 4.5 blocks of 128, so 5 × 56 scales.
    narrow = Matrix(rows=576, columns=7168)
    assert packed("fp8", {"weight_block_size": [128, 128]}, narrow) == Sizes(
        weight_bytes=576 * 7168, scale_bytes=5 * 56 * 4
    )
    # transformers' FineGrainedFP8Config: blocks of 128 × 128 where no size is given, one scale where it is null.
    assert packed("fp8", {}, narrow).scale_bytes == 5 * 56 * 4
    assert packed("fp8", {"weight_block_size": None}, narrow).scale_bytes == 4
    assert packed("fp8", {"activation_scheme": "static"}, narrow).scale_bytes == 5 * 56 * 4 + 4
    assert packed("fp8", {"scale_fmt": "ue8m0"}, narrow).scale_bytes == 5 * 56


def test_mxfp4_blocks_are_16_bytes_and_an_exponent_for_32_values() -> None:
    # gpt-oss: 32 experts of 2,880 outputs and 2,880 inputs, 90 blocks a line.
    matrix = Matrix(rows=2880, columns=2880, copies=32)
    assert packed("mxfp4", {}, matrix) == Sizes(weight_bytes=32 * 2880 * 90 * 16, scale_bytes=32 * 2880 * 90)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            grouped(layout="pack-quantized", num_bits=4, strategy="group", group_size=128, symmetric=True),
            Sizes(weight_bytes=MATRIX.count // 2, scale_bytes=4096 * GROUPS * 2 + 16),
        ),
        (
            grouped(layout="pack-quantized", num_bits=4, strategy="group", group_size=128, symmetric=False),
            Sizes(weight_bytes=MATRIX.count // 2, scale_bytes=4096 * GROUPS * 2 + 4096 // 2 * GROUPS + 16),
        ),
        (
            grouped(layout="float-quantized", num_bits=8, strategy="channel"),
            Sizes(weight_bytes=MATRIX.count, scale_bytes=4096 * 2),
        ),
        (
            grouped(layout="int-quantized", num_bits=8, strategy="tensor"),
            Sizes(weight_bytes=MATRIX.count, scale_bytes=2),
        ),
        (
            grouped(layout="float-quantized", num_bits=8, strategy="block", block_structure=[128, 128]),
            Sizes(weight_bytes=MATRIX.count, scale_bytes=32 * 112 * 2),
        ),
        (
            grouped(layout="nvfp4-pack-quantized", num_bits=4),
            Sizes(weight_bytes=MATRIX.count // 2, scale_bytes=MATRIX.count // 16 + 4),
        ),
    ],
    ids=["int4", "int4 asymmetric", "fp8 by channel", "int8 by tensor", "fp8 by block", "nvfp4"],
)
def test_compressed_tensors_by_layout_and_strategy(config: dict[str, Any], expected: Sizes) -> None:
    assert packed("compressed-tensors", config) == expected


def test_hqq_keeps_a_scale_and_a_zero_in_float16_a_group() -> None:
    config = {"quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}, "scale_quant_params": None}}
    assert packed("hqq", config) == Sizes(weight_bytes=MATRIX.count // 2, scale_bytes=MATRIX.count // 64 * 2 * 2)


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("gptq", {"bits": 5, "group_size": 128}),
        ("gptq", {"bits": 0, "group_size": 128}),
        ("gptq", {"bits": True, "group_size": 128}),
        ("gptq", {"bits": [4], "group_size": 128}),
        ("gptq", {"bits": 4, "group_size": True}),
        ("gptq", {"bits": 4, "group_size": -2}),
        ("gptq", {"bits": 4, "group_size": 128, "dynamic": {"-:.*down.*": {}}}),
        ("gptq", {"bits": 4, "group_size": 128, "checkpoint_format": "marlin"}),
        ("awq", {"bits": 4, "group_size": 96}),
        ("awq", {"bits": 4, "group_size": 10**30}),
        ("gptq", {"bits": "4", "group_size": 128}),
        ("gptq", {"bits": 4, "group_size": 0}),
        ("awq", {"bits": 3}),
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
def test_a_quantization_method_without_a_rule_raises_an_error(method: str, config: dict[str, Any]) -> None:
    with pytest.raises(NoRuleError):
        packed(method, config)


def test_a_method_is_read_from_a_configuration_as_transformers_reads_it() -> None:
    assert find_format({"quant_method": "GPTQ"}) == "gptq"
    assert find_format({"load_in_4bit": True}) == "bitsandbytes"
    assert find_format({"quant_method": 4}) == ""


def test_every_format_says_whether_it_trains_and_has_a_rule_or_a_reason() -> None:
    assert not set(FORMATS) & set(KNOWN)
    for method in (*FORMATS, "eetq", "fbgemm_fp8"):
        assert find_training_support({"quant_method": method}) != (None, None)
    assert find_training_support({"quant_method": "newest"}) == (None, None)


@pytest.mark.parametrize(("name", "trains"), [("Int8WeightOnlyConfig", True), ("Int4WeightOnlyConfig", False)])
def test_torchao_trains_in_8_bits_alone(name: str, trains: bool) -> None:
    """Transformers reads it off the name of the type."""
    assert find_training_support({"quant_method": "torchao", "quant_type": {"default": {"_type": name}}})[0] is trains


def torchao(name: str, **data: Any) -> dict[str, Any]:
    """Return a configuration of torchao as transformers writes it."""
    return {"quant_type": {"default": {"_type": name, "_version": 2, "_data": data}}}


def test_torchao_keeps_a_float32_an_output_and_a_zero_point_of_integers() -> None:
    row = {"_type": "PerRow", "_data": {"dim": -1}}
    assert packed("torchao", torchao("Int8WeightOnlyConfig", granularity=row)) == Sizes(
        weight_bytes=MATRIX.count, scale_bytes=4096 * (4 + 1)
    )
    assert packed("torchao", torchao("Float8WeightOnlyConfig")).scale_bytes == 4096 * 4
    with pytest.raises(NoRuleError, match="Int4WeightOnlyConfig is laid out for the kernels"):
        packed("torchao", torchao("Int4WeightOnlyConfig", group_size=128))
    with pytest.raises(NoRuleError, match="its type is laid out"):
        packed("torchao", {"quant_type": {"a": {}, "b": {}}})


def test_quanto_keeps_a_scale_an_output_or_a_scale_and_a_shift_a_group() -> None:
    # Two float32 a layer are for its activations.
    assert packed("quanto", {"weights": "int8"}) == Sizes(weight_bytes=MATRIX.count, scale_bytes=4096 * 2 + 8)
    assert packed("quanto", {"weights": "int4"}) == Sizes(
        weight_bytes=MATRIX.count // 2, scale_bytes=2 * MATRIX.count // 128 * 2 + 8
    )
    # 96 is the first of 128, 96, 64 and 32 that divides 480 inputs.
    assert packed("quanto", {"weights": "int2"}, Matrix(rows=64, columns=480)) == Sizes(
        weight_bytes=64 * 480 // 4, scale_bytes=2 * 64 * 5 * 2 + 8
    )


@pytest.mark.parametrize(
    ("entry", "left_out"),
    [("lm_head", False), ("model.fc", True), ("model", False), ("Linear", True), ("re:.*fc", True), ("re:fc", False)],
)
def test_compressed_tensors_leaves_out_whole_names_patterns_and_classes(entry: str, left_out: bool) -> None:
    assert is_ignored("model.fc", "Linear", [entry]) is left_out


KEYS = (
    *("bits", "group_size", "dynamic", "checkpoint_format", "version", "format", "weight_block_size", "scale_fmt"),
    *("activation_scheme", "config_groups", "targets", "weights", "input_activations", "num_bits", "strategy", "type"),
    *("symmetric", "block_structure", "quant_config", "weight_quant_params", "nbits", "axis", "quant_type", "default"),
    *("_type", "_version", "_data", "granularity", "load_in_8bit", "bnb_4bit_quant_type", "bnb_4bit_quant_storage"),
)
WORDS = ("Linear", "pack-quantized", "float-quantized", "nvfp4-pack-quantized", "group", "channel", "block", "int4")
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-9, 200), st.just(2**63), st.sampled_from(WORDS))
VALUES = LEAVES
for _ in range(3):
    VALUES = st.one_of(LEAVES, st.lists(LEAVES, max_size=2), st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))


@given(method=st.sampled_from(sorted(FORMATS)), config=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=8))
def test_whatever_a_repository_declares_has_sizes_or_no_rule(method: str, config: dict[str, Any]) -> None:
    """A rule answers with sizes that are not negative, or says that it has none; nothing else is raised."""
    find_training_support({**config, "quant_method": method})
    try:
        found = FORMATS[method].rule(config, Matrix(rows=96, columns=64, copies=2))
    except NoRuleError:
        return
    assert found.weight_bytes > 0
    assert found.scale_bytes >= 0
    assert found.stored_bytes is None or found.stored_bytes >= found.weight_bytes

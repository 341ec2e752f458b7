"""What weights weigh that a checkpoint stores quantized: integer arithmetic of blocks, a rule for each format.

A format is a rule in a registry, from a `quantization_config` and the shape of a weight to the bytes of the packed
weight and of all that is kept to unpack it (scales, zero points, permutations). Blocks are integer pairs, block bytes
and block elements; nothing is bits per weight. A format without a rule is named in `KNOWN`, with what is known of it.
Pure: no torch.

Not covered: groups of a configuration that treat layers differently, and files beside the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["FORMATS", "KNOWN", "TRAINS", "Block", "Format", "Matrix", "NoRuleError", "Packed", "format_of"]

_INT32 = 4
_INT64 = 8
_FLOAT32 = 4
_HALF = 2


class NoRuleError(Exception):
    """No rule covers this configuration; the message says what is known of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """A weight of `rows` outputs and `columns` inputs; `copies` of it, one for each expert."""

    rows: int
    columns: int
    copies: int = 1

    @property
    def count(self) -> int:
        """Return the number of weights."""
        return self.rows * self.columns * self.copies


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """The bytes of one matrix: the packed weight, and what unpacks it."""

    weight_bytes: int
    scale_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block of `elements` values that takes `bytes` bytes; a last block that is not full takes as many."""

    bytes: int
    elements: int

    def of(self, count: int) -> int:
        """Return the bytes of `count` values."""
        return -(-count // self.elements) * self.bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A stored format: which weights it packs, and what one of them weighs.

    `experts_only` leaves linear layers as they are. `rule` raises NoRuleError for what it does not cover.
    """

    rule: Callable[[Mapping[str, Any], Matrix], Packed]
    experts_only: bool = False


# --- rules ------------------------------------------------------------------------------------------------------------


def _gptq(config: Mapping[str, Any], matrix: Matrix) -> Packed:
    """Integers packed into int32 along the inputs, a float16 scale and a packed zero point a group, one index an input.

    Source: AutoGPTQ's qlinear layers, whose layout GPTQModel keeps: qweight, qzeros, scales, g_idx.
    """
    bits = _bits(config, "bits", (2, 4, 8))
    groups = _groups(matrix.columns, config.get("group_size", 128))
    return Packed(
        weight_bytes=matrix.copies * _packed_int32(matrix.columns, bits) * matrix.rows,
        scale_bytes=matrix.copies
        * (groups * matrix.rows * _HALF + groups * _packed_int32(matrix.rows, bits) + matrix.columns * _INT32),
    )


def _awq(config: Mapping[str, Any], matrix: Matrix) -> Packed:
    """Integers packed into int32 along the outputs, a float16 scale and a packed zero point a group.

    Source: AutoAWQ's WQLinear_GEMM: qweight, qzeros, scales.
    """
    version = str(config.get("version", "gemm")).lower()
    if version != "gemm":
        raise NoRuleError(f"AWQ stores its {version} layout with padding that is not known here")
    bits = _bits(config, "bits", (4,), "w_bit")
    groups = _groups(matrix.columns, config.get("group_size", config.get("q_group_size", 128)))
    return Packed(
        weight_bytes=matrix.copies * matrix.columns * _packed_int32(matrix.rows, bits),
        scale_bytes=matrix.copies * groups * (matrix.rows * _HALF + _packed_int32(matrix.rows, bits)),
    )


def _fp8(config: Mapping[str, Any], matrix: Matrix) -> Packed:
    """One byte a weight, a float32 scale for each block, or for the whole weight.

    Source: DeepSeek-V3's weight_scale_inv; transformers/integrations/finegrained_fp8.py, FP8Linear.
    """
    size = config.get("weight_block_size")
    scales = 1
    if size is not None:
        if not _is_shape(size):
            raise NoRuleError("weight_block_size is not a pair of sizes")
        scales = -(-matrix.rows // size[0]) * -(-matrix.columns // size[1])
    return Packed(weight_bytes=matrix.count, scale_bytes=matrix.copies * scales * _FLOAT32)


def _mxfp4(_config: Mapping[str, Any], matrix: Matrix) -> Packed:
    """Blocks of 32 values along the inputs: 16 bytes of values, one byte of exponent.

    Source: OCP Microscaling Formats 1.0, section 5.3; openai/gpt-oss stores them as blocks and scales.
    """
    lines = matrix.rows * matrix.copies
    values, exponent = Block(bytes=16, elements=32), Block(bytes=1, elements=32)
    return Packed(weight_bytes=lines * values.of(matrix.columns), scale_bytes=lines * exponent.of(matrix.columns))


def _compressed_tensors(config: Mapping[str, Any], matrix: Matrix) -> Packed:
    """Packed integers, bytes, or NVFP4, of one group of layers that all linear ones belong to.

    Source: compressed-tensors, compressors/quantized_compressors: pack_quantized, naive_quantized, nvfp4_quantized.
    """
    groups = config.get("config_groups")
    group = next(iter(groups.values()), None) if isinstance(groups, Mapping) and len(groups) == 1 else None
    weights = group.get("weights") if isinstance(group, Mapping) else None
    if not isinstance(group, Mapping) or not isinstance(weights, Mapping) or group.get("targets") != ["Linear"]:
        raise NoRuleError("its configuration groups layers in a way that is not known here")
    layout = str(group.get("format") or config.get("format"))
    if layout == "nvfp4-pack-quantized":
        half, scale = Block(bytes=1, elements=2), Block(bytes=1, elements=16)
        lines = matrix.rows * matrix.copies
        return Packed(
            weight_bytes=lines * half.of(matrix.columns),
            scale_bytes=lines * scale.of(matrix.columns) + matrix.copies * _FLOAT32,
        )
    scales = _scale_count(weights, matrix)
    if layout in ("float-quantized", "int-quantized", "naive-quantized"):
        _bits(weights, "num_bits", (8,))
        return Packed(weight_bytes=matrix.count, scale_bytes=matrix.copies * scales * _HALF)
    if layout == "pack-quantized":
        bits = _bits(weights, "num_bits", (4, 8))
        zeros = 0 if weights.get("symmetric", True) else _packed_int32(matrix.rows, bits) * scales // matrix.rows
        shape = 2 * _INT64
        return Packed(
            weight_bytes=matrix.copies * matrix.rows * _packed_int32(matrix.columns, bits),
            scale_bytes=matrix.copies * (scales * _HALF + zeros + shape),
        )
    raise NoRuleError(f"the layout {layout} is not known here")


def _hqq(config: Mapping[str, Any], matrix: Matrix) -> Packed:
    """Integers packed into bytes, a float16 scale and zero point a group.

    Source: hqq/core/quantize.py, Quantizer.bit_to_packing; scales that are quantized themselves are not covered.
    """
    settings = config.get("quant_config")
    weights = settings.get("weight_quant_params") if isinstance(settings, Mapping) else None
    if not isinstance(settings, Mapping) or not isinstance(weights, Mapping) or settings.get("scale_quant_params"):
        raise NoRuleError("its settings differ by layer or pack the scales too, which is not known here")
    bits = _bits(weights, "nbits", (1, 2, 4, 8))
    groups = _groups(matrix.count, weights.get("group_size", 64))
    return Packed(weight_bytes=Block(bytes=bits, elements=8).of(matrix.count), scale_bytes=2 * groups * _HALF)


FORMATS: dict[str, Format] = {
    "gptq": Format(rule=_gptq),
    "awq": Format(rule=_awq),
    "fp8": Format(rule=_fp8),
    "mxfp4": Format(rule=_mxfp4, experts_only=True),
    "compressed-tensors": Format(rule=_compressed_tensors),
    "hqq": Format(rule=_hqq),
}

# Formats that have no rule, and why.
KNOWN = {
    "torchao": "its tensors are laid out for the kernels of the GPU that stored them",
    "quanto": "transformers quantizes with it on loading only and stores no checkpoint",
    "aqlm": "codebooks of several sizes, which the configuration alone does not fix",
    "eetq": "int8 weights in the layout of its kernels, with a float16 scale for each output",
    "fbgemm_fp8": "one byte a weight, with a float32 scale for each output",
}

# Whether transformers and PEFT train an adapter on the weights as they are (`is_trainable` of transformers' quantizers,
# 5.23), and on what that depends. What is not here is not known.
TRAINS = {
    "bitsandbytes": (True, None),
    "gptq": (True, "with GPTQModel installed"),
    "awq": (True, "with GPTQModel 5.0 or newer installed"),
    "fp8": (True, "on a GPU whose kernels take FP8, compute capability 8.9 or newer"),
    "mxfp4": (False, "transformers trains it dequantized only: Mxfp4Config(dequantize=True)"),
    "compressed-tensors": (True, "not through its FP8 kernels: load those dequantized"),
    "hqq": (True, "with hqq installed"),
    "torchao": (None, "8-bit weights alone"),
    "quanto": (True, "with optimum-quanto installed"),
    "eetq": (True, "with eetq installed"),
    "fbgemm_fp8": (False, None),
}


def format_of(config: Mapping[str, Any]) -> str:
    """Return the name of the method that a quantization_config declares; empty where it names none."""
    method = config.get("quant_method")
    if isinstance(method, str):
        return method.lower()
    return "bitsandbytes" if config.get("load_in_4bit") or config.get("load_in_8bit") else ""


# --- parts of rules ---------------------------------------------------------------------------------------------------


def _bits(config: Mapping[str, Any], key: str, known: tuple[int, ...], other_key: str = "") -> int:
    """Return the bits of a value, which must be among those whose packing is known."""
    bits = config.get(key, config.get(other_key))
    if not isinstance(bits, int) or bits not in known:
        raise NoRuleError(f"values of {bits} bits are packed in a way that is not known here")
    return bits


def _groups(count: int, size: Any) -> int:
    """Return how many groups of a size there are; -1 is one of all."""
    if not isinstance(size, int) or (size <= 0 and size != -1):
        raise NoRuleError("its group size is not a size")
    return 1 if size == -1 else -(-count // size)


def _packed_int32(count: int, bits: int) -> int:
    """Return the bytes of values that are packed into int32, none of them over the border of two."""
    return Block(bytes=_INT32, elements=32 // bits).of(count)


def _scale_count(weights: Mapping[str, Any], matrix: Matrix) -> int:
    """Return how many scales compressed-tensors keeps for a weight."""
    strategy = weights.get("strategy")
    if strategy == "tensor":
        return 1
    if strategy == "channel":
        return matrix.rows
    if strategy == "group":
        return matrix.rows * _groups(matrix.columns, weights.get("group_size"))
    shape: Any = weights.get("block_structure")
    if strategy == "block" and _is_shape(shape):
        rows, columns = map(int, shape)
        return -(-matrix.rows // rows) * -(-matrix.columns // columns)
    raise NoRuleError(f"scales by {strategy} are not known here")


def _is_shape(value: Any) -> bool:
    """Tell whether a value is a pair of sizes."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(isinstance(size, int) and size > 0 for size in value)
    )

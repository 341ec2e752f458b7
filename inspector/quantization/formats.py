"""What weights are that a checkpoint stores quantized: a rule for each format, and what is known of the others.

A format is a rule in a registry, from a `quantization_config` and the shape of a weight to the tensors that stand for
it: the packed weight and all that is kept to unpack it (scales, zero points, permutations). Their names, dtypes and
shapes are those that the libraries write (tests/model/recorded_stored.json). A format without a rule is named in
`KNOWN`, with what is known of it. Pure: no torch.

Not covered: groups of a configuration that treat layers differently, and files beside the weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from inspector.dtypes import BY_SAFETENSORS_NAME, BY_TORCH_NAME
from inspector.quantization.compressed_tensors import pack_compressed_tensors
from inspector.quantization.layout import (
    Format,
    Matrix,
    NoRuleError,
    Packed,
    Part,
    Purpose,
    Skips,
    count_packed_int32,
    is_shape,
    is_size,
)

__all__ = ["FORMATS", "KNOWN", "find_format", "find_torchao_type", "find_training_support", "write_4bit_fields"]


# --- rules ------------------------------------------------------------------------------------------------------------


def _pack_gptq(config: Mapping[str, Any], matrix: Matrix) -> Packed:
    """Integers packed into int32 along the inputs, a float16 scale and a packed zero point a group, one index an input.

    Source: gptqmodel/nn_modules/qlinear, `_register_gptq_buffers`; AutoGPTQ's layers are the same.
    """
    if config.get("dynamic"):
        raise NoRuleError("it quantizes layers differently (`dynamic`), which is not known here")
    layout = config.get("checkpoint_format", "gptq")
    if layout not in ("gptq", "gptq_v2"):
        raise NoRuleError(f"the layout {layout} is not known here")
    bits = _read_bits(config, "bits", (2, 3, 4, 8))
    groups = _count_groups(matrix.columns, config.get("group_size", 128))
    return Packed(
        copies=matrix.copies,
        parts=(
            Part(
                suffix=".qweight",
                dtype="I32",
                shape=(count_packed_int32(matrix.columns, bits), matrix.rows),
                purpose=Purpose.WEIGHT,
            ),
            Part(suffix=".qzeros", dtype="I32", shape=(groups, count_packed_int32(matrix.rows, bits))),
            Part(suffix=".scales", dtype="F16", shape=(groups, matrix.rows)),
            Part(suffix=".g_idx", dtype="I32", shape=(matrix.columns,)),
        ),
    )


def _pack_awq(config: Mapping[str, Any], matrix: Matrix) -> Packed:
    """Integers packed into int32 along the outputs, a float16 scale and a packed zero point a group.

    Source: AutoAWQ's WQLinear_GEMM; gptqmodel/nn_modules/qlinear, AWQuantLinear.
    """
    version = str(config.get("version") or config.get("format") or "gemm").lower()
    if version != "gemm":
        raise NoRuleError(f"AWQ stores its {version} layout with padding that is not known here")
    bits = _read_bits({"bits": 4, **config}, "w_bit" if "w_bit" in config else "bits", (4,))
    size = config.get("group_size", config.get("q_group_size", 128))
    groups = _count_groups(matrix.columns, size)
    if size != -1 and matrix.columns % size:
        raise NoRuleError(f"AWQ has no group that is not full, and groups of {size} do not divide {matrix.columns}")
    rows = count_packed_int32(matrix.rows, bits)
    return Packed(
        copies=matrix.copies,
        parts=(
            Part(suffix=".qweight", dtype="I32", shape=(matrix.columns, rows), purpose=Purpose.WEIGHT),
            Part(suffix=".qzeros", dtype="I32", shape=(groups, rows)),
            Part(suffix=".scales", dtype="F16", shape=(groups, matrix.rows)),
        ),
    )


def _pack_fp8(config: Mapping[str, Any], matrix: Matrix) -> Packed:
    """One byte a weight, a float32 scale for each block (of 128 × 128 where no size is given), or one for the weight.

    Source: transformers/integrations/finegrained_fp8.py, FP8Linear; DeepSeek-V3's weight_scale_inv.
    """
    size = config.get("weight_block_size", (128, 128))
    if size is not None and not is_shape(size):
        raise NoRuleError("weight_block_size is not a pair of sizes")
    scheme, scale = config.get("activation_scheme", "dynamic"), config.get("scale_fmt", "float")
    if scheme not in ("dynamic", "static") or scale not in ("float", "ue8m0"):
        raise NoRuleError(f"transformers has no FP8 of activation_scheme {scheme!r:.40} and scale_fmt {scale!r:.40}")
    if config.get("expert_dtype", "fp8") != "fp8" or config.get("modules_to_convert"):
        raise NoRuleError("it packs experts or embeddings in another way, which is not known here")
    blocks = None if size is None else (-(-matrix.rows // size[0]), -(-matrix.columns // size[1]))
    exponents = blocks is not None and scale == "ue8m0"
    shape = (matrix.rows, matrix.columns)
    parts = [
        Part(suffix=".weight", dtype="F8_E4M3", shape=shape, purpose=Purpose.WEIGHT),
        Part(suffix=".weight_scale_inv", dtype="F8_E8M0" if exponents else "F32", shape=blocks or ()),
    ]
    if scheme == "static":
        parts.append(Part(suffix=".activation_scale", dtype="F32", shape=()))
    return Packed(copies=matrix.copies, parts=tuple(parts))


def _pack_mxfp4(_config: Mapping[str, Any], matrix: Matrix) -> Packed:
    """Blocks of 32 values along the inputs: 16 bytes of values, one byte of exponent; all experts in one tensor.

    Source: OCP Microscaling Formats 1.0, section 5.3; transformers/integrations/mxfp4.py, Mxfp4GptOssExperts.
    """
    blocks = -(-matrix.columns // 32)
    lines = (matrix.copies, matrix.rows, blocks)
    return Packed(
        parts=(
            Part(suffix="_blocks", dtype="U8", shape=(*lines, 16), purpose=Purpose.WEIGHT),
            Part(suffix="_scales", dtype="U8", shape=lines),
        )
    )


# Dtypes in whose elements bitsandbytes packs 4-bit weights (bnb_4bit_quant_storage).
_STORAGES = ("uint8", "float16", "bfloat16", "float32")


def _pack_bitsandbytes(config: Mapping[str, Any], matrix: Matrix) -> Packed:
    """Two values in a byte and a scale for 64 of them, which may be packed too; or a byte and a scale an output.

    Source: bitsandbytes 0.50, functional.py (QuantState.as_dict) and nn/modules.py (`_save_to_state_dict`).
    """
    if config.get("load_in_8bit"):
        return Packed(
            copies=matrix.copies,
            parts=(
                Part(suffix=".weight", dtype="I8", shape=(matrix.rows, matrix.columns), purpose=Purpose.WEIGHT),
                Part(suffix=".SCB", dtype="F32", shape=(matrix.rows,)),
                Part(suffix=".weight_format", dtype="U8", shape=(), purpose=Purpose.DESCRIPTION),
            ),
        )
    kind = str(config.get("bnb_4bit_quant_type", "fp4"))
    nested = bool(config.get("bnb_4bit_use_double_quant"))
    count = matrix.rows * matrix.columns
    storage_name = str(config.get("bnb_4bit_quant_storage", "uint8"))
    storage = BY_TORCH_NAME[storage_name if storage_name in _STORAGES else "uint8"]
    packed = (count + 1) // (storage.bits // 4)
    scales = -(-count // 64)
    parts = [
        Part(suffix=".weight", dtype=str(storage.safetensors), shape=(packed, 1), purpose=Purpose.WEIGHT),
        Part(suffix=".weight.absmax", dtype="U8" if nested else "F32", shape=(scales,)),
        Part(suffix=".weight.quant_map", dtype="F32", shape=(16,)),
    ]
    if nested:
        parts.append(Part(suffix=".weight.nested_absmax", dtype="F32", shape=(-(-scales // 256),)))
        parts.append(Part(suffix=".weight.nested_quant_map", dtype="F32", shape=(256,)))
    # With packed scales the text holds their mean, in as many digits as it has.
    dtype = str(BY_SAFETENSORS_NAME[matrix.dtype].torch)
    text = write_4bit_fields(kind, dtype, (matrix.rows, matrix.columns))
    parts.append(
        Part(
            suffix=f".weight.quant_state.bitsandbytes__{kind}",
            dtype="U8",
            shape=None if nested else (len(text),),
            purpose=Purpose.DESCRIPTION,
        )
    )
    return Packed(copies=matrix.copies, parts=tuple(parts), extra_bytes=4 if nested else 0)


def write_4bit_fields(kind: str, dtype: str, shape: Sequence[int], *, nested_offset: float | None = None) -> str:
    """Return the JSON text that bitsandbytes stores beside a 4-bit weight (functional.py, `QuantState.as_dict`).

    `nested_offset` is the mean of the scales where they are packed too, which depends on data.
    """
    fields: dict[str, object] = {"quant_type": kind, "blocksize": 64, "dtype": dtype, "shape": list(shape)}
    if nested_offset is not None:
        fields |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": nested_offset}
    return json.dumps(fields)


# What HQQ writes beside each weight: settings, each a tensor of its own (hqq/core/quantize.py, `state_dict`).
_HQQ_FLAGS = (
    "channel_wise",
    "encoded_state_dict",
    "offload_meta",
    "optimize",
    "quant_scale",
    "quant_zero",
    "round_zero",
    "stores_quant_config",
    "view_as_float",
)


def _pack_hqq(config: Mapping[str, Any], matrix: Matrix) -> Packed:
    """Integers packed into bytes, a scale and a zero point a group in the dtype of the products.

    Source: hqq/core/quantize.py, Quantizer.bit_to_packing; scales that are quantized themselves are not covered.
    """
    settings = config.get("quant_config")
    weights = settings.get("weight_quant_params") if isinstance(settings, Mapping) else None
    if not isinstance(settings, Mapping) or not isinstance(weights, Mapping) or settings.get("scale_quant_params"):
        raise NoRuleError("its settings differ by layer or pack the scales too, which is not known here")
    bits = _read_bits(weights, "nbits", (1, 2, 4, 8))
    size = weights.get("group_size", 64)
    size = matrix.columns if size is None else size
    if not is_size(size) or matrix.rows * matrix.columns % size or weights.get("axis", 1) != 1:
        raise NoRuleError("its groups do not lie along the inputs, or do not divide the weight")
    groups = matrix.rows * matrix.columns // size
    text = {"compute_dtype": f"torch.{BY_SAFETENSORS_NAME[matrix.dtype].torch}", "packing": f"{bits}bit_u8"}
    text["unpack_view_dtype"] = "torch.uint8"
    descriptions = [("shape", "I64", (2,)), *((name, "I32", ()) for name in ("axis", "group_size", "nbits"))]
    descriptions += [(name, "U8", (len(value),)) for name, value in text.items()]
    descriptions += [(name, "U8", ()) for name in _HQQ_FLAGS]
    return Packed(
        copies=matrix.copies,
        parts=(
            Part(suffix=".W_q", dtype="U8", shape=(-(-groups * bits // 8), size), purpose=Purpose.WEIGHT),
            Part(suffix=".scale", dtype=matrix.dtype, shape=(groups, 1)),
            Part(suffix=".zero", dtype=matrix.dtype, shape=(groups, 1)),
            *(
                Part(suffix=f".{name}", dtype=dtype, shape=shape, purpose=Purpose.DESCRIPTION)
                for name, dtype, shape in descriptions
            ),
        ),
    )


# torchao's configurations whose tensors are known: dtype of the values, and whether there are zero points.
_TORCHAO = {
    "Int8WeightOnlyConfig": ("I8", True),
    "Int8DynamicActivationInt8WeightConfig": ("I8", True),
    "Float8WeightOnlyConfig": ("F8_E4M3", False),
}


def _pack_torchao(config: Mapping[str, Any], matrix: Matrix) -> Packed:
    """Bytes of weights, and for each output a float32 scale and, of integers, a zero point of one byte.

    Source: torchao/quantization, Int8Tensor and Float8Tensor (version 2 of these configurations), as transformers saves
    them.
    """
    name, fields = _read_torchao_type(config)
    known = _TORCHAO.get(name)
    if known is None or config.get("include_input_output_embeddings"):
        raise NoRuleError(f"{name or 'its type'} is laid out for the kernels of the GPU that stored it")
    settings = fields.get("_data")
    settings = settings if isinstance(settings, Mapping) else {}
    granularity = settings.get("granularity")
    by_row = granularity is None or (isinstance(granularity, Mapping) and granularity.get("_type") == "PerRow")
    if fields.get("_version") != 2 or settings.get("group_size") is not None or not by_row:
        raise NoRuleError(f"{name} with these settings, or of an earlier release of torchao, is not known here")
    dtype, has_zeros = known
    shape, a_row = (matrix.rows, matrix.columns), (matrix.rows, 1)
    parts = [
        Part(suffix="._weight_qdata", dtype=dtype, shape=shape, purpose=Purpose.WEIGHT),
        Part(suffix="._weight_scale", dtype="F32", shape=a_row),
    ]
    if has_zeros:
        parts.append(Part(suffix="._weight_zero_point", dtype="I8", shape=a_row))
    return Packed(copies=matrix.copies, parts=tuple(parts))


_QUANTO_BITS = {"int8": 8, "float8": 8, "int4": 4, "int2": 2}


def _pack_quanto(config: Mapping[str, Any], matrix: Matrix) -> Packed:
    """Bytes of weights and a scale an output; 4 and 2 bits packed into bytes, with a scale and a shift a group.

    Source: optimum-quanto 0.2.7, nn/qmodule.py (groups of 128 inputs, or of the next multiple of 32 that divides them)
    and tensor/weights; scales are in the dtype of the model, and a layer has two float32 for its activations.
    """
    bits = _QUANTO_BITS.get(str(config.get("weights", "int8")))
    if bits is None or config.get("activations") is not None:
        raise NoRuleError("these types of weights or activations are not known here")
    groups, shifts = matrix.rows, 0
    if bits < 8:
        size = next((size for size in (128, 96, 64, 32) if matrix.columns % size == 0), matrix.columns)
        groups = matrix.rows * matrix.columns // (size if matrix.columns > 128 else matrix.columns)
        shifts = 1
    count = matrix.rows * matrix.columns
    scale = Part(suffix=".weight._scale", dtype=matrix.dtype, shape=(groups, 1))
    return Packed(
        copies=matrix.copies,
        parts=(
            Part(suffix=".weight._data", dtype="U8", shape=(-(-count * bits // 8),), purpose=Purpose.WEIGHT),
            *([scale] * (1 + shifts)),
            *(Part(suffix=f".{name}_scale", dtype="F32", shape=()) for name in ("input", "output")),
        ),
    )


FORMATS: dict[str, Format] = {
    "bitsandbytes": Format(rule=_pack_bitsandbytes, conv1d=True),
    "gptq": Format(rule=_pack_gptq, conv1d=True, in_blocks=True),
    "awq": Format(rule=_pack_awq),
    "fp8": Format(rule=_pack_fp8, skips=Skips.UNLISTED),
    "mxfp4": Format(rule=_pack_mxfp4, skips=Skips.UNLISTED, experts_only=True),
    "compressed-tensors": Format(rule=pack_compressed_tensors, skips=Skips.NEVER, skip_key="ignore"),
    "hqq": Format(rule=_pack_hqq, skips=Skips.NEVER, skip_key="skip_modules"),
    "torchao": Format(rule=_pack_torchao, skips=Skips.UNLISTED),
    "quanto": Format(rule=_pack_quanto, skips=Skips.UNLISTED, on_loading=True),
}

# Formats that have no rule, and why.
KNOWN = {
    "mlx": "weights, scales and biases are packed for Apple's MLX, and transformers does not load them",
    "aqlm": "codebooks of several sizes, which the configuration alone does not fix",
    "eetq": "int8 weights in the layout of its kernels, with a float16 scale for each output",
    "fbgemm_fp8": "one byte a weight, with a float32 scale for each output",
}

# Whether transformers 5.23 and PEFT 0.21 train an adapter on the weights as they are (`is_trainable` of transformers'
# quantizers, PEFT's `is_..._available`), and on what that depends. What is not here is not known. On the CPU a LoRA
# was attached and a gradient taken with GPTQ, AWQ, torchao's int8 and quanto. compressed-tensors calls itself
# trainable, but PEFT finds no weight on its packed layers, which unpack for good in the first forward pass, and no
# gradient passes inputs that are quantized.
_TRAINS = {
    "bitsandbytes": (True, None),
    "gptq": (True, "with GPTQModel 7.0 and optimum 1.24 or newer installed"),
    "awq": (True, "with GPTQModel 7.0 and optimum 1.24 or newer installed"),
    "fp8": (True, "on a GPU whose kernels take FP8, compute capability 8.9 or newer; older ones load it dequantized"),
    "mxfp4": (False, "transformers trains it dequantized only: Mxfp4Config(dequantize=True)"),
    "compressed-tensors": (False, "load it dequantized, with CompressedTensorsConfig(dequantize=True)"),
    "hqq": (None, "PEFT has layers for it, but transformers 5.23 does not load it"),
    "quanto": (True, "with optimum-quanto installed"),
    "eetq": (True, "with eetq installed"),
    "fbgemm_fp8": (False, None),
}


def find_training_support(config: Mapping[str, Any]) -> tuple[bool | None, str | None]:
    """Return whether an adapter trains on weights of this configuration as they are, and on what that depends."""
    method = find_format(config)
    if method != "torchao":
        return _TRAINS.get(method, (None, None))
    name, _ = _read_torchao_type(config)
    if not name:
        return None, "8-bit weights alone"
    # transformers' `_fuzzy_match_size`, and PEFT's TorchaoLoraLinear.
    return re.search(r"8weight", name.lower()) is not None, "8-bit weights alone, with torchao 0.16 or newer installed"


def find_torchao_type(config: Mapping[str, Any]) -> str:
    """Return the name of torchao's configuration; empty where there is not one for all weights."""
    return _read_torchao_type(config)[0]


def find_format(config: Mapping[str, Any]) -> str:
    """Return the name of the method that a quantization_config declares; empty where it names none."""
    method = config.get("quant_method")
    if isinstance(method, str):
        return method.lower()
    return "bitsandbytes" if config.get("load_in_4bit") or config.get("load_in_8bit") else ""


# --- parts of rules ---------------------------------------------------------------------------------------------------


def _read_torchao_type(config: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the name of torchao's configuration and its fields; an empty name where there is not one for all."""
    types = config.get("quant_type")
    if isinstance(types, str):
        return types, {}
    default = types.get("default") if isinstance(types, Mapping) and len(types) == 1 else None
    name = default.get("_type") if isinstance(default, Mapping) else None
    return (name, default) if isinstance(name, str) and isinstance(default, Mapping) else ("", {})


def _read_bits(config: Mapping[str, Any], key: str, known: tuple[int, ...]) -> int:
    """Return the bits of a value, which must be among those whose packing is known."""
    bits = config.get(key)
    if bits is None:
        raise NoRuleError(f"it does not say how many bits a value has ({key})")
    if not is_size(bits) or bits not in known:
        raise NoRuleError(f"how values of {key} = {bits!r:.40} are packed is not known here")
    return int(bits)


def _count_groups(count: int, size: Any) -> int:
    """Return how many groups of a size there are; -1 is one of all."""
    if size != -1 and not is_size(size):
        raise NoRuleError("its group size is not a size")
    return 1 if size == -1 else -(-count // int(size))

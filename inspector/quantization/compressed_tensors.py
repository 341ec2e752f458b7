"""The rule of compressed-tensors: packed integers, bytes, or NVFP4, of one group that all linear layers belong to.

Source: compressed-tensors 0.20, compressors (pack_quantized, naive_quantized, nvfp4) and
quantization/lifecycle/initialize.py. Scales are in the dtype of the model. Pure: no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from inspector.quantization.layout import (
    Matrix,
    NoRuleError,
    Packed,
    Part,
    Purpose,
    count_packed_int32,
    is_shape,
    is_size,
)

__all__ = ["is_ignored", "pack_compressed_tensors"]


def pack_compressed_tensors(config: Mapping[str, Any], matrix: Matrix) -> Packed:
    """Return the tensors of a weight by the layout of its only group."""
    group = _find_group(config)
    layout = str(group.get("format") or config.get("format"))
    rule = _LAYOUTS.get(layout)
    if rule is None:
        raise NoRuleError(f"the layout {layout} is not known here")
    weights = group["weights"]
    parts = [*rule(weights, matrix), *_list_input_scales(group.get("input_activations"), layout, matrix)]
    return Packed(copies=matrix.copies, parts=tuple(parts))


def is_ignored(name: str, class_name: str, ignore: Sequence[str] | None) -> bool:
    """Tell whether `ignore` leaves a module out: by its whole name, a regular expression after `re:`, or its class."""
    for entry in ignore or ():
        pattern = entry.removeprefix("re:")
        if re.match(pattern, name) if pattern != entry else entry in (name, class_name):
            return True
    return False


def _find_group(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the group that all linear layers belong to."""
    groups = config.get("config_groups")
    group = next(iter(groups.values()), None) if isinstance(groups, Mapping) and len(groups) == 1 else None
    if not isinstance(group, Mapping) or not isinstance(group.get("weights"), Mapping):
        raise NoRuleError("its configuration groups layers in a way that is not known here")
    if group.get("targets") != ["Linear"] or group.get("output_activations"):
        raise NoRuleError("its configuration groups layers in a way that is not known here")
    return group


def _pack_integers(weights: Mapping[str, Any], matrix: Matrix) -> list[Part]:
    """Return integers packed into int32 along the inputs, and the shape that they had."""
    bits = _read_bits(weights, (2, 4, 8))
    shape = (matrix.rows, count_packed_int32(matrix.columns, bits))
    scales = _find_scales_shape(weights, matrix)
    parts = [
        Part(suffix=".weight_packed", dtype="I32", shape=shape, purpose=Purpose.WEIGHT),
        Part(suffix=".weight_scale", dtype=matrix.dtype, shape=scales),
        Part(suffix=".weight_shape", dtype="I64", shape=(2,)),
    ]
    if not weights.get("symmetric", True):
        if len(scales) != 2 or scales[0] != matrix.rows:
            raise NoRuleError("zero points that are not by output are not known here")
        zeros = (count_packed_int32(matrix.rows, bits), scales[1])
        parts.append(Part(suffix=".weight_zero_point", dtype="I32", shape=zeros))
    if weights.get("actorder") in ("group", True):
        parts.append(Part(suffix=".weight_g_idx", dtype="I32", shape=(matrix.columns,)))
    return parts


def _pack_bytes(weights: Mapping[str, Any], matrix: Matrix) -> list[Part]:
    """Return weights of one byte, with scales and zero points."""
    _read_bits(weights, (8,))
    scales = _find_scales_shape(weights, matrix)
    dtype = "F8_E4M3" if weights.get("type") == "float" else "I8"
    parts = [
        Part(suffix=".weight", dtype=dtype, shape=(matrix.rows, matrix.columns), purpose=Purpose.WEIGHT),
        Part(suffix=".weight_scale", dtype=matrix.dtype, shape=scales),
    ]
    if not weights.get("symmetric", True):
        parts.append(Part(suffix=".weight_zero_point", dtype=dtype, shape=scales))
    return parts


def _pack_nvfp4(_weights: Mapping[str, Any], matrix: Matrix) -> list[Part]:
    """Return two values in a byte, an FP8 scale for 16 of them, a float32 for all."""
    blocks = -(-matrix.columns // 16)
    half = (matrix.rows, -(-matrix.columns // 2))
    return [
        Part(suffix=".weight_packed", dtype="U8", shape=half, purpose=Purpose.WEIGHT),
        Part(suffix=".weight_scale", dtype="F8_E4M3", shape=(matrix.rows, blocks)),
        Part(suffix=".weight_global_scale", dtype="F32", shape=(1,)),
    ]


_LAYOUTS: dict[str, Callable[[Mapping[str, Any], Matrix], list[Part]]] = {
    "pack-quantized": _pack_integers,
    "float-quantized": _pack_bytes,
    "int-quantized": _pack_bytes,
    "naive-quantized": _pack_bytes,
    "nvfp4-pack-quantized": _pack_nvfp4,
}


def _list_input_scales(inputs: Any, layout: str, matrix: Matrix) -> list[Part]:
    """Return what is stored for inputs: a scale where it is not found anew for each of them."""
    if not isinstance(inputs, Mapping) or inputs.get("dynamic") is True:
        return []
    if layout == "nvfp4-pack-quantized":
        return [Part(suffix=".input_global_scale", dtype="F32", shape=(1,))]
    if inputs.get("strategy", "tensor") != "tensor" or not inputs.get("symmetric", True):
        raise NoRuleError("scales of inputs that are kept otherwise than one for a layer are not known here")
    return [Part(suffix=".input_scale", dtype=matrix.dtype, shape=(1,))]


def _find_scales_shape(weights: Mapping[str, Any], matrix: Matrix) -> tuple[int, ...]:
    """Return the shape of the scales of a weight."""
    strategy = weights.get("strategy")
    if strategy == "tensor":
        return (1,)
    if strategy == "channel":
        return (matrix.rows, 1)
    size: Any = weights.get("group_size")
    shape: Any = weights.get("block_structure")
    if strategy == "group":
        if not is_size(size):
            raise NoRuleError("its group size is not a size")
        return (matrix.rows, -(-matrix.columns // int(size)))
    if strategy == "block" and is_shape(shape):
        rows, columns = map(int, shape)
        return (-(-matrix.rows // rows), -(-matrix.columns // columns))
    raise NoRuleError(f"scales by {strategy} are not known here")


def _read_bits(weights: Mapping[str, Any], known: tuple[int, ...]) -> int:
    """Return the bits of a value, which must be among those whose packing is known."""
    bits = weights.get("num_bits")
    if not is_size(bits) or bits not in known:
        raise NoRuleError(f"how values of num_bits = {bits!r:.40} are packed is not known here")
    return int(bits)

"""The one table of dtypes: torch's name, safetensors' name, bits; and the quantizations of 4 bits.

A safetensors file holds its tensors in the reverse order of this table (safetensors/src/tensor.rs, `Dtype`). Bits are
those of safetensors' `Dtype::bitsize` and of `torch.dtype.itemsize`; tests/contracts holds both against the libraries.
torch's own 4-bit dtype counts pairs of values and not values, so that it is not listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = [
    "BY_SAFETENSORS_NAME",
    "BY_TORCH_NAME",
    "DTYPES",
    "FOUR_BIT",
    "LOADED_IN",
    "Dtype",
    "dtype_bytes",
    "dtype_name",
]

# Dtypes in which models are loaded; others (I32, U8, F8_E4M3) hold packed or scaled weights, which say nothing of it.
LOADED_IN = ("float64", "float32", "float16", "bfloat16")
# The quantizations of bitsandbytes whose scales can be packed too.
FOUR_BIT = ("nf4", "fp4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dtype:
    """One dtype; a name is None where that library has no such dtype, or no name for it."""

    torch: str | None
    safetensors: str | None
    bits: int


DTYPES = (
    Dtype(torch="bool", safetensors="BOOL", bits=8),
    Dtype(torch=None, safetensors="F4", bits=4),
    Dtype(torch=None, safetensors="F6_E2M3", bits=6),
    Dtype(torch=None, safetensors="F6_E3M2", bits=6),
    Dtype(torch="uint8", safetensors="U8", bits=8),
    Dtype(torch="int8", safetensors="I8", bits=8),
    Dtype(torch="float8_e5m2", safetensors="F8_E5M2", bits=8),
    Dtype(torch="float8_e4m3fn", safetensors="F8_E4M3", bits=8),
    Dtype(torch="float8_e8m0fnu", safetensors="F8_E8M0", bits=8),
    Dtype(torch="float8_e4m3fnuz", safetensors="F8_E4M3FNUZ", bits=8),
    Dtype(torch="float8_e5m2fnuz", safetensors="F8_E5M2FNUZ", bits=8),
    Dtype(torch="int16", safetensors="I16", bits=16),
    Dtype(torch="uint16", safetensors="U16", bits=16),
    Dtype(torch="float16", safetensors="F16", bits=16),
    Dtype(torch="bfloat16", safetensors="BF16", bits=16),
    Dtype(torch="int32", safetensors="I32", bits=32),
    Dtype(torch="uint32", safetensors="U32", bits=32),
    Dtype(torch="float32", safetensors="F32", bits=32),
    Dtype(torch="complex64", safetensors="C64", bits=64),
    Dtype(torch="float64", safetensors="F64", bits=64),
    Dtype(torch="int64", safetensors="I64", bits=64),
    Dtype(torch="uint64", safetensors="U64", bits=64),
    Dtype(torch="complex128", safetensors=None, bits=128),
)
BY_TORCH_NAME: Mapping[str, Dtype] = {dtype.torch: dtype for dtype in DTYPES if dtype.torch is not None}
BY_SAFETENSORS_NAME: Mapping[str, Dtype] = {
    dtype.safetensors: dtype for dtype in DTYPES if dtype.safetensors is not None
}


def dtype_bytes(name: str) -> int:
    """Return the bytes of one element of the torch dtype called `name`; KeyError for a name that is not known."""
    return BY_TORCH_NAME[name].bits // 8


def dtype_name(dtype: object) -> str:
    """Return the name of a `torch.dtype`, such as bfloat16."""
    return str(dtype).removeprefix("torch.")

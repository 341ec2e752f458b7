"""The size of an element of torch's dtypes, and the quantizations of 4 bits.

Sizes are in bytes; source: `torch.dtype.itemsize`, asserted in tests/contracts.
"""

from __future__ import annotations

__all__ = ["FOUR_BIT", "dtype_bytes"]

# The quantizations of bitsandbytes whose scales can be packed too.
FOUR_BIT = ("nf4", "fp4")

_ITEM_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
    "complex64": 8,
    "complex128": 16,
}


def dtype_bytes(name: str) -> int:
    """Return the bytes of one element of the torch dtype called `name`; KeyError for a name that is not known."""
    return _ITEM_BYTES[name]

"""What the header of a GGUF file says: its metadata and the table of its tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["GgufModel", "GgufTensor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTensor:
    """One tensor: `type` is ggml's name (Q4_K), `shape` in ggml's order (rows last), `bytes` the size of its data."""

    name: str
    type: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def elements(self) -> int:
        """Return the number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufModel:
    """One model of one GGUF file, or of the parts that it was split into.

    `metadata` has the values and short arrays by key; of a long array or one of texts it has the length.
    `file_bytes` is the size of all parts, `files` their names.
    """

    files: Sequence[str]
    file_bytes: int
    metadata: Mapping[str, Any]
    tensors: Sequence[GgufTensor]

"""What stands for a quantized weight in a checkpoint: tensors with names, dtypes and shapes, and their bytes.

Pure: no torch. Names of dtypes are those of safetensors. Blocks are integer pairs, block bytes and block elements;
nothing is bits per weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from inspector.dtypes import BY_SAFETENSORS_NAME

__all__ = [
    "Block",
    "Format",
    "Matrix",
    "NoRuleError",
    "Packed",
    "Part",
    "Purpose",
    "Skips",
    "count_packed_int32",
    "is_shape",
    "is_size",
]


class NoRuleError(Exception):
    """No rule covers this configuration; the message says what is known of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """A weight of `rows` outputs and `columns` inputs; `copies` of it, one for each expert.

    `dtype` is that of the model, which some formats keep their scales in.
    """

    rows: int
    columns: int
    copies: int = 1
    dtype: str = "BF16"

    @property
    def count(self) -> int:
        """Return the number of weights in all copies."""
        return self.rows * self.columns * self.copies


class Purpose(Enum):
    """What a stored tensor is for.

    WEIGHT holds the weight's values, SCALE what they are unpacked with, also on the GPU. DESCRIPTION is stored alone:
    small settings that are read on loading and take no memory of the model.
    """

    WEIGHT = "weight"
    SCALE = "scale"
    DESCRIPTION = "description"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One stored tensor; `suffix` follows the name of the module, or of the parameter where that is packed alone.

    `shape` is None for text whose length depends on data.
    """

    suffix: str
    dtype: str
    shape: tuple[int, ...] | None
    purpose: Purpose = Purpose.SCALE

    @property
    def bytes(self) -> int | None:
        """Return the size of one copy, where it is known."""
        return None if self.shape is None else math.prod(self.shape) * BY_SAFETENSORS_NAME[self.dtype].bits // 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """The tensors that stand for one matrix. `extra_bytes` is made on loading and not stored."""

    parts: tuple[Part, ...]
    copies: int = 1
    extra_bytes: int = 0

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of the packed values of all copies."""
        return self._bytes(Purpose.WEIGHT)

    @property
    def scale_bytes(self) -> int:
        """Return the size of what unpacks it in memory."""
        return self._bytes(Purpose.SCALE) + self.copies * self.extra_bytes

    @property
    def stored_bytes(self) -> int | None:
        """Return the size of all tensors, where that does not depend on data."""
        sizes = [part.bytes for part in self.parts]
        known = [size for size in sizes if size is not None]
        return self.copies * sum(known) if len(known) == len(sizes) else None

    def _bytes(self, purpose: Purpose) -> int:
        return self.copies * sum(part.bytes or 0 for part in self.parts if part.purpose is purpose)


class Skips(Enum):
    """When a quantizer of transformers leaves out the output head and what is tied to it.

    ALWAYS adds them to what is listed, UNLISTED does so where nothing is listed, NEVER takes the list as it is.
    """

    ALWAYS = "always"
    UNLISTED = "unlisted"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A stored format: which weights it packs, and what one of them is.

    `rule` raises NoRuleError for what it does not cover. `skip_key` is the field that lists modules to leave out.
    `experts_only` leaves linear layers as they are and packs fused experts as one parameter; `conv1d` takes GPT-2's
    layers too; `in_blocks` takes the repeated layers of the model alone. Where `on_loading`, the checkpoint holds
    floats, and they are packed when they are loaded.
    """

    rule: Callable[[Mapping[str, Any], Matrix], Packed]
    skips: Skips = Skips.ALWAYS
    skip_key: str = "modules_to_not_convert"
    experts_only: bool = False
    conv1d: bool = False
    in_blocks: bool = False
    on_loading: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block of `elements` values that takes `bytes` bytes; a last block that is not full takes as many."""

    bytes: int
    elements: int

    def of(self, count: int) -> int:
        """Return the bytes of `count` values."""
        return -(-count // self.elements) * self.bytes


def count_packed_int32(count: int, bits: int) -> int:
    """Return how many int32 hold so many values that are packed bit after bit."""
    return -(-count * bits // 32)


def is_size(value: Any) -> bool:
    """Tell whether a value is a positive integer; JSON's true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_shape(value: Any) -> bool:
    """Tell whether a value is a pair of sizes."""
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(is_size(size) for size in value)

"""GGUF files for tests: real headers, and data that is a hole in the file."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inspector.source.gguf.types import BY_NAME, GGML_TYPES

__all__ = ["QWEN3_8B", "make_header", "make_tensors", "write_model"]

_NUMBERS = {kind.name.lower(): number for number, kind in GGML_TYPES.items()}
# The metadata of a file that convert_hf_to_gguf.py makes of Qwen3-8B.
QWEN3_8B: Mapping[str, Any] = {
    "general.architecture": "qwen3",
    "general.name": "Qwen3 8B",
    "qwen3.block_count": 36,
    "qwen3.context_length": 40960,
    "qwen3.embedding_length": 4096,
    "qwen3.feed_forward_length": 12288,
    "qwen3.attention.head_count": 32,
    "qwen3.attention.head_count_kv": 8,
    "qwen3.attention.key_length": 128,
    "qwen3.attention.value_length": 128,
    "tokenizer.ggml.tokens": ["a", "bc", ""],
    "tokenizer.ggml.scores": [0.5, 1.5, 2.5],
}

Tensor = tuple[str, str, tuple[int, ...]]


def make_tensors(layers: int = 36, hidden: int = 4096, inner: int = 12288, vocabulary: int = 151936) -> list[Tensor]:
    """Return the tensors of a Qwen3-8B as Q4_K_M packs it, some of them in Q6_K, its output not tied."""
    tensors: list[Tensor] = [
        ("token_embd.weight", "q4_k", (hidden, vocabulary)),
        ("output_norm.weight", "f32", (hidden,)),
        ("output.weight", "q6_k", (hidden, vocabulary)),
    ]
    for layer in range(layers):
        tensors += [
            (f"blk.{layer}.attn_norm.weight", "f32", (hidden,)),
            (f"blk.{layer}.attn_q.weight", "q4_k", (hidden, hidden)),
            (f"blk.{layer}.attn_k.weight", "q4_k", (hidden, 1024)),
            (f"blk.{layer}.attn_v.weight", "q6_k", (hidden, 1024)),
            (f"blk.{layer}.attn_output.weight", "q4_k", (hidden, hidden)),
            (f"blk.{layer}.ffn_norm.weight", "f32", (hidden,)),
            (f"blk.{layer}.ffn_gate.weight", "q4_k", (hidden, inner)),
            (f"blk.{layer}.ffn_up.weight", "q4_k", (hidden, inner)),
            (f"blk.{layer}.ffn_down.weight", "q6_k", (inner, hidden)),
        ]
    return tensors


def make_header(metadata: Mapping[str, Any], tensors: Sequence[Tensor], *, version: int = 3) -> tuple[bytes, int]:
    """Return the header of a file and the size of the data behind it."""
    content = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        content += _text(key) + _value(value)
    offset = 0
    for name, kind, shape in tensors:
        content += _text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        content += struct.pack("<IQ", _NUMBERS[kind], offset)
        offset += -(-BY_NAME[kind].size(math.prod(shape)) // 32) * 32
    return content + bytes(-len(content) % 32), offset


def write_model(path: Path, metadata: Mapping[str, Any] = QWEN3_8B, tensors: Sequence[Tensor] | None = None) -> Path:
    """Write a file whose data takes no room on the disk."""
    header, size = make_header(metadata, make_tensors() if tensors is None else tensors)
    path.write_bytes(header)
    os.truncate(path, len(header) + size)
    return path


def _text(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def _value(value: Any) -> bytes:
    if isinstance(value, list):
        inner = _value(value[0])[:4] if value else struct.pack("<I", 4)
        return (
            struct.pack("<I", 9) + inner + struct.pack("<Q", len(value)) + b"".join(_value(item)[4:] for item in value)
        )
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    return struct.pack("<I", 8) + _text(value)

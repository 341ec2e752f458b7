"""Small safetensors files and sharded repositories for tests: real layout, data of zeros."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["TINY_CONFIG", "TINY_TENSORS", "config_bytes", "framed", "index_of", "shard_names", "sharded", "weight_file"]

ITEM_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "F8_E4M3": 1, "I8": 1, "I32": 4, "I64": 8, "U8": 1}

# A Llama of one layer: 10 x 4 embedded twice, 4 x 4 four times, 6 x 4 three times, three norms of 4.
TINY_CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "dtype": "bfloat16",
    "hidden_size": 4,
    "intermediate_size": 6,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 10,
}
_LAYER = "model.layers.0."
TINY_TENSORS: dict[str, tuple[str, tuple[int, ...]]] = {
    "model.embed_tokens.weight": ("BF16", (10, 4)),
    **{f"{_LAYER}self_attn.{name}_proj.weight": ("BF16", (4, 4)) for name in "qkvo"},
    **{f"{_LAYER}mlp.{name}_proj.weight": ("BF16", (6, 4)) for name in ("gate", "up")},
    f"{_LAYER}mlp.down_proj.weight": ("BF16", (4, 6)),
    f"{_LAYER}input_layernorm.weight": ("BF16", (4,)),
    f"{_LAYER}post_attention_layernorm.weight": ("BF16", (4,)),
    "model.norm.weight": ("BF16", (4,)),
    "lm_head.weight": ("BF16", (10, 4)),
}


def config_bytes(**fields: Any) -> bytes:
    """Return the tiny model's config.json, with other fields added."""
    return json.dumps({**TINY_CONFIG, **fields}).encode()


def framed(header: bytes, data: bytes = b"") -> bytes:
    """Return a file with this header and data."""
    return len(header).to_bytes(8, "little") + header + data


def weight_file(tensors: Mapping[str, tuple[str, Sequence[int]]], *, padding: int = 0) -> bytes:
    """Return a safetensors file of zeros; `padding` spaces make its header longer, as the format allows."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape) * ITEM_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    return framed(json.dumps(header).encode() + b" " * padding, bytes(position))


def shard_names(count: int, stem: str = "model") -> list[str]:
    """Return the names that transformers gives the files of a checkpoint."""
    return [f"{stem}-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def sharded(count: int, tensors: Mapping[str, tuple[str, Sequence[int]]] = TINY_TENSORS) -> dict[str, bytes]:
    """Return a checkpoint of `count` files, tensors dealt out in turn, with its index."""
    names = shard_names(count)
    parts: dict[str, dict[str, tuple[str, Sequence[int]]]] = {name: {} for name in names}
    for position, (tensor, facts) in enumerate(tensors.items()):
        parts[names[position % count]][tensor] = facts
    files = {name: weight_file(part) for name, part in parts.items()}
    return {**files, "model.safetensors.index.json": index_of(parts)}


def index_of(parts: Mapping[str, Mapping[str, object]]) -> bytes:
    """Return the index of files that hold these tensors; its total size is as wrong as DeepSeek-V3's."""
    weight_map = {tensor: name for name, part in parts.items() for tensor in part}
    return json.dumps({"metadata": {"total_size": 2**50}, "weight_map": weight_map}).encode()

"""What a cache of transformers holds: its layers by kind, their tensors, and what a token takes in each.

All is read off the tensors that a step has made, none of it off the configuration but the names of two kinds: a latent
vector for all heads is a cache of one head, and a chunk a window.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from inspector.compat.torch import storage_address
from inspector.records.memory import CacheFacts, CacheLayers, CacheTensor, LayerKind

__all__ = ["describe_cache", "list_layers", "list_tensors"]

# Tensors of a layer that have rows of tokens, the second dimension from the end.
_ROWS = 4
_INDEX_ROWS = 3


def describe_cache(cache: Any, config: Any) -> CacheFacts | None:
    """Return what a cache holds; `config` is the model's. None where there is none."""
    if cache is None:
        return None
    described = [_describe_layer(kind, layer) for kind, layer in _list_kinds(cache, config)]
    counts: dict[CacheLayers, int] = {}
    for item in described:
        if item.tensors:
            counts[item] = counts.get(item, 0) + 1
    layers = [dataclasses.replace(item, count=count) for item, count in counts.items()]
    storages = {
        storage_address(tensor.untyped_storage()): tensor.untyped_storage().nbytes()
        for layer in list_layers(cache)
        for _name, tensor in list_tensors(layer)
    }
    return CacheFacts(
        cache_class=type(cache).__name__,
        bytes_per_token=sum(item.bytes_per_token * item.count for item in layers if item.kind is not LayerKind.CROSS),
        at_end_bytes=sum(storages.values()),
        layers=tuple(layers),
    )


def list_layers(cache: Any) -> list[Any]:
    """Return the layers of a cache, those of an encoder-decoder's two caches one after the other."""
    return [layer for part in _list_parts(cache) for layer in getattr(part, "layers", ())]


def list_tensors(layer: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that a layer of a cache holds, those in its lists and mappings included."""
    for name, value in vars(layer).items():
        items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else (value,)
        for item in items:
            if isinstance(item, Tensor):
                yield name, item


def _list_parts(cache: Any) -> list[Any]:
    """Return the caches in a cache: in an encoder-decoder's those of its own and of the encoder's tokens."""
    parts = [getattr(cache, name, None) for name in ("self_attention_cache", "cross_attention_cache")]
    return [cache] if parts[0] is None else [part for part in parts if part is not None]


def _list_kinds(cache: Any, config: Any) -> Iterator[tuple[LayerKind, Any]]:
    """Yield the layers of a cache with their kinds."""
    for index, part in enumerate(_list_parts(cache)):
        for layer in getattr(part, "layers", ()):
            yield (LayerKind.CROSS if index else _find_kind(layer, config)), layer


def _find_kind(layer: Any, config: Any) -> LayerKind:
    """Return the kind of a layer."""
    name, text = type(layer).__name__, config.get_text_config(decoder=True)
    if name.startswith("LinearAttentionAnd"):
        return LayerKind.STATE_AND_FULL
    if name.startswith("LinearAttention"):
        return LayerKind.STATE
    if "Indexed" in name:
        return LayerKind.INDEXED
    if "Sliding" in name:
        return LayerKind.CHUNKED if getattr(text, "attention_chunk_size", None) else LayerKind.SLIDING
    keys = getattr(layer, "keys", None)
    is_latent = isinstance(keys, Tensor) and keys.dim() == _ROWS and keys.shape[1] == 1
    return LayerKind.LATENT if is_latent and getattr(text, "kv_lora_rank", None) else LayerKind.FULL


def _describe_layer(kind: LayerKind, layer: Any) -> CacheLayers:
    """Return what one layer keeps."""
    tensors, per_token, fixed = [], 0, 0
    for name, tensor in list_tensors(layer):
        if tensor.device.type == "cpu":  # a layer that was not used has its scalars where it was made
            continue
        grows = kind is not LayerKind.STATE and tensor.dim() in (_ROWS, _INDEX_ROWS) and _is_of_tokens(name, tensor)
        size = tensor.numel() * tensor.element_size()
        if grows and tensor.numel():
            per_token += size // (tensor.shape[0] * tensor.shape[-2])
        else:
            fixed += size
        dtype = str(tensor.dtype).removeprefix("torch.")
        tensors.append(CacheTensor(name=name.lstrip("_"), shape=tuple(tensor.shape), dtype=dtype, grows=grows))
    window = getattr(layer, "sliding_window", None) or (
        layer.max_cache_len
        if kind in (LayerKind.SLIDING, LayerKind.CHUNKED) and hasattr(layer, "max_cache_len")
        else None
    )
    return CacheLayers(
        kind=kind, count=1, tensors=tuple(tensors), bytes_per_token=per_token, fixed_bytes=fixed, window=window
    )


def _is_of_tokens(name: str, tensor: Tensor) -> bool:
    """Tell whether a tensor has a row for each token: states have the same dimensions and other names."""
    return "state" not in name and (tensor.dim() == _ROWS or "index" in name)

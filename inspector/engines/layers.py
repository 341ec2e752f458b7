"""A transformers configuration -> what each layer keeps of the tokens that it has seen, before any engine's rule.

The kinds are those of transformers' `layer_types`; where a configuration has none, every layer is full attention, or
sliding where it has a window that it uses. Kinds that no rule is known for are refused by name, not counted as full.

Not covered: indexers of sparse attention (DeepSeek-V3.2), speculative heads, and what an encoder of images holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from inspector.dtypes import BY_TORCH_NAME
from inspector.errors import UnsupportedModelError, one_line, quoted
from inspector.records.engines.serving import CacheKind

__all__ = ["LayerCache", "State", "list_layers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A tensor of fixed size that a layer keeps: its whole shape, and its dtype, None for that of the model.

    Dimension `sharded` is divided over the ranks of tensor parallelism.
    """

    shape: tuple[int, ...]
    dtype: str | None = None
    sharded: int = 0

    def size(self, ranks: int, model_dtype: str) -> int:
        """Return the bytes of one rank."""
        shape = list(self.shape)
        shape[self.sharded] //= ranks
        return prod(shape) * (BY_TORCH_NAME[self.dtype or model_dtype].bits // 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCache:
    """What one layer keeps: of each token `heads` keys and values of these sizes, or one latent, or states."""

    kind: CacheKind
    heads: int = 0
    key_size: int = 0
    value_size: int = 0
    window: int | None = None
    states: tuple[State, ...] = ()

    def values_per_token(self, ranks: int) -> int:
        """Return how many values of a token one rank keeps; heads that are fewer than the ranks are replicated."""
        heads = self.heads if self.kind is CacheKind.LATENT else max(1, self.heads // ranks)
        return heads * (self.key_size + self.value_size)


def list_layers(config: Any) -> tuple[LayerCache, ...]:
    """Return what each layer of the text part keeps, layers that keep nothing left out.

    Raises UnsupportedModelError for a model that generates nothing, and for layers that no rule is known for.
    """
    text = config.get_text_config(decoder=True)
    if config.is_encoder_decoder:
        return _list_encoder_decoder(config)
    if not _generates(config):
        raise UnsupportedModelError(
            f"{_name(config)} generates nothing, so that there is no KV cache; name a decoder, or drop `engine`."
        )
    if getattr(text, "index_head_dim", None) or getattr(text, "index_topk", None):
        raise UnsupportedModelError(
            f"{_name(config)} selects tokens by an indexer, whose cache no rule here counts; drop `engine`."
        )
    count = getattr(text, "num_hidden_layers", None)
    if type(count) is not int or count < 1:
        raise UnsupportedModelError(f"{_name(config)} does not say how many layers it has; drop `engine`.")
    kinds = _list_kinds(text, count)
    shared = getattr(text, "num_kv_shared_layers", None) or 0
    return tuple(layer for kind in kinds[: count - shared] for layer in _READERS.get(kind, _refuse(kind, config))(text))


def _generates(config: Any) -> bool:
    """Tell whether a configuration is of a model that generates."""
    names: Sequence[str] = config.architectures or ()
    return any(name.endswith(("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")) for name in names)


def _list_kinds(text: Any, count: int) -> list[str]:
    """Return the kind of every layer."""
    kinds = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None)
    if kinds is not None:
        if len(kinds) != count:
            raise UnsupportedModelError(
                f"{_name(text)} has {count} layers and the kinds of {len(kinds)}; correct its config.json."
            )
        return [str(kind) for kind in kinds]
    if _get_window(text) is not None:
        return ["sliding_attention"] * count
    return ["full_attention"] * count


def _get_window(text: Any) -> int | None:
    """Return the window of sliding attention, None where a configuration does not use one."""
    window = getattr(text, "sliding_window", None)
    return window if window and getattr(text, "use_sliding_window", True) else None


def _read_attention(text: Any, kind: CacheKind, window: int | None = None) -> tuple[LayerCache, ...]:
    """Return the keys and values of one layer, or its latent."""
    rank, rotated = getattr(text, "kv_lora_rank", None), getattr(text, "qk_rope_head_dim", None)
    if rank and rotated:
        return (LayerCache(kind=CacheKind.LATENT, heads=1, key_size=rank + rotated),)
    size, heads = _get_head_size(text), _count_heads(text)
    if kind is CacheKind.FULL and getattr(text, "global_head_dim", None):
        size = text.global_head_dim
        heads = getattr(text, "num_global_key_value_heads", None) or heads
    value_size = getattr(text, "v_head_dim", None) or size
    return (LayerCache(kind=kind, heads=heads, key_size=size, value_size=value_size, window=window),)


def _get_head_size(text: Any) -> int:
    """Return the size of a head."""
    size = getattr(text, "head_dim", None) or getattr(text, "d_kv", None)
    return int(size or text.hidden_size // text.num_attention_heads)


def _count_heads(text: Any) -> int:
    """Return how many heads have keys and values of their own."""
    if getattr(text, "multi_query", False) and not getattr(text, "new_decoder_architecture", False):
        return 1  # Falcon and GPTBigCode
    heads = getattr(text, "num_key_value_heads", None) or getattr(text, "num_kv_heads", None)
    return int(heads or text.num_attention_heads)


def _read_full(text: Any) -> tuple[LayerCache, ...]:
    return _read_attention(text, CacheKind.FULL)


def _read_sliding(text: Any) -> tuple[LayerCache, ...]:
    return _read_attention(text, CacheKind.SLIDING, _get_window(text))


def _read_chunked(text: Any) -> tuple[LayerCache, ...]:
    return _read_attention(text, CacheKind.CHUNKED, text.attention_chunk_size)


def _read_linear(text: Any) -> tuple[LayerCache, ...]:
    """Return the states of a layer without attention over tokens, by the kind of its model.

    Shapes as vLLM's `MambaStateShapeCalculator` has them, with one column of the convolution less than transformers.
    """
    reader = _STATES.get(text.model_type)
    if reader is None:
        raise UnsupportedModelError(
            f"{_name(text)} keeps a state whose shape no rule here says (model_type {quoted(text.model_type, 40)}); "
            "drop `engine`."
        )
    return (LayerCache(kind=CacheKind.STATE, states=reader(text)),)


def _read_mamba1(text: Any) -> tuple[State, ...]:
    inner = getattr(text, "intermediate_size", None)
    if text.model_type == "jamba":
        inner = text.mamba_expand * text.hidden_size
        return State(shape=(inner, text.mamba_d_conv - 1)), State(shape=(inner, text.mamba_d_state))
    return State(shape=(inner or text.expand * text.hidden_size, text.conv_kernel - 1)), State(
        shape=(inner or text.expand * text.hidden_size, text.state_size)
    )


def _read_mamba2(text: Any) -> tuple[State, ...]:
    inner = text.expand * text.hidden_size
    convolved = inner + 2 * text.n_groups * text.state_size
    return (
        State(shape=(convolved, text.conv_kernel - 1)),
        State(shape=(text.num_heads, text.head_dim, text.state_size)),
    )


def _read_gated_delta_net(text: Any) -> tuple[State, ...]:
    keys = text.linear_num_key_heads * text.linear_key_head_dim
    convolved = 2 * keys + text.linear_num_value_heads * text.linear_value_head_dim
    return (
        State(shape=(convolved, text.linear_conv_kernel_dim - 1)),
        State(
            shape=(text.linear_num_value_heads, text.linear_value_head_dim, text.linear_key_head_dim),
            dtype=getattr(text, "mamba_ssm_dtype", None),
        ),
    )


_STATES: Mapping[str, Callable[[Any], tuple[State, ...]]] = {
    **dict.fromkeys(("mamba", "falcon_mamba", "jamba"), _read_mamba1),
    "mamba2": _read_mamba2,
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), _read_gated_delta_net),
}
_READERS: Mapping[str, Callable[[Any], tuple[LayerCache, ...]]] = {
    **dict.fromkeys(("full_attention", "attention"), _read_full),
    "sliding_attention": _read_sliding,
    "chunked_attention": _read_chunked,
    **dict.fromkeys(("linear_attention", "mamba"), _read_linear),
    **dict.fromkeys(("mlp", "moe"), lambda _text: ()),
}


def _list_encoder_decoder(config: Any) -> tuple[LayerCache, ...]:
    """Return the layers of the only encoder-decoder that the engines serve."""
    if config.model_type != "whisper":
        raise UnsupportedModelError(
            f"{_name(config)} has an encoder and a decoder, and no rule of an engine here counts its cache; drop "
            "`engine`."
        )
    heads, count = int(config.decoder_attention_heads), int(config.decoder_layers)
    size = config.d_model // heads
    own = LayerCache(kind=CacheKind.FULL, heads=heads, key_size=size, value_size=size)
    cross = LayerCache(
        kind=CacheKind.CROSS, heads=heads, key_size=size, value_size=size, window=config.max_source_positions
    )
    return (own,) * count + (cross,) * count


def _refuse(kind: str, config: Any) -> Callable[[Any], tuple[LayerCache, ...]]:
    """Return what refuses a kind of layer by its name."""

    def refuse(_text: Any) -> tuple[LayerCache, ...]:
        raise UnsupportedModelError(
            f"{_name(config)} has layers of the kind {quoted(kind, 40)}, whose cache no rule here counts; drop "
            "`engine`."
        )

    return refuse


def _name(config: Any) -> str:
    """Return what a configuration is called."""
    names = config.architectures
    return one_line(names[0] if names else type(config).__name__, 60)

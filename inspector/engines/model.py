"""What the rules of engines read of a model: sizes of its configuration, its layers' caches and its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inspector.engines.layers import LayerCache
from inspector.engines.shards import WeightTensor, find_share
from inspector.errors import UsageError
from inspector.records.engines.serving import CacheKind, Span

__all__ = ["ServedModel", "count_rank_weights", "describe_room", "describe_waiting", "find_length", "read_model"]

# Names of the most positions, in vLLM's order (transformers_utils/model_arch_config_convertor.py).
_LENGTHS = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length"),
    *("max_sequence_length", "max_seq_length", "seq_len", "max_target_positions"),
)
_DEFAULT_LENGTH = 2048
# Kinds of RoPE whose most positions are scaled already (vLLM 0.33.0, `_get_and_verify_max_len`).
_SCALED_ALREADY = ("default", "su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model as engines read it.

    `dtype` is what it computes in: half precision also where the checkpoint is in float32, as engines load it.
    `weights` are its parameters in float, `packed_bytes` their size where a checkpoint is quantized. `most_length` is
    how many positions its configuration has, `default_length` what an engine takes where nobody says a length.
    `rotary` is how many values tables of rotations have: one of all positions, or one more for each kind of RoPE.
    `inner_size` is the widest inner size of an MLP that one token uses: that of an expert times the experts of a token.
    """

    architecture: str
    dtype: str
    layers: Sequence[LayerCache]
    weights: Sequence[WeightTensor]
    packed_bytes: int | None
    hidden_size: int
    vocabulary: int
    inner_size: int | None
    experts_per_token: int | None
    most_length: int | None
    default_length: int
    heads: int
    kv_heads: int
    rotary: Span
    has_tower: bool


def read_model(config: Any, layers: Sequence[LayerCache], weights: Sequence[WeightTensor], **facts: Any) -> ServedModel:
    """Return the model of a transformers configuration; `facts` are `dtype`, `packed_bytes` and `has_tower`."""
    text = config.get_text_config(decoder=True)
    most, default = find_length(text)
    experts = _first(text, "num_experts_per_tok", "experts_per_token", "num_experts_per_token", "moe_topk")
    inner = _first(text, "moe_intermediate_size") if experts else None
    return ServedModel(
        architecture=(config.architectures or ("",))[0],
        layers=layers,
        weights=weights,
        hidden_size=_first(text, "hidden_size", "d_model") or 0,
        vocabulary=text.vocab_size,
        inner_size=inner or _first(text, "intermediate_size", "ffn_dim", "n_inner", "decoder_ffn_dim"),
        experts_per_token=experts,
        most_length=most,
        default_length=default,
        heads=_first(text, "num_attention_heads", "decoder_attention_heads") or 1,
        rotary=_count_rotary(text, most),
        kv_heads=max((layer.heads for layer in layers if layer.kind is not CacheKind.LATENT), default=1),
        **facts,
    )


def find_length(text: Any) -> tuple[int | None, int]:
    """Return the most positions of a configuration, None where it has none, and what vLLM takes by default."""
    found = [length for name in _LENGTHS if type(length := getattr(text, name, None)) is int and length > 0]
    if not found:
        return None, _DEFAULT_LENGTH
    rope = getattr(text, "rope_parameters", None) or {}
    scaled = [rope] if "rope_type" in rope else [item for item in rope.values() if isinstance(item, dict)]
    factors = [
        item["factor"]
        for item in scaled
        if item.get("rope_type") not in _SCALED_ALREADY and isinstance(item.get("factor"), (int, float))
    ]
    is_scaled = "gemma3" in text.model_type or not factors
    most = min(found) if is_scaled else int(min(found) * factors[-1])
    if any(item.get("rope_type") == "longrope" for item in scaled):
        original = getattr(text, "original_max_position_embeddings", None)
        return most, original if type(original) is int and original > 0 else most
    return most, most


def _count_rotary(text: Any, positions: int | None) -> Span:
    """Return the values of the tables of rotations: cosines and sines of every position."""
    rope = getattr(text, "rope_parameters", None)
    if not isinstance(rope, dict) or not rope or positions is None:
        return Span(low=0, high=0)
    kinds = [rope] if "rope_type" in rope else [item for item in rope.values() if isinstance(item, dict)]
    size = _first(text, "qk_rope_head_dim", "head_dim")
    size = size or (_first(text, "hidden_size") or 0) // (_first(text, "num_attention_heads") or 1)
    share = min((part for item in kinds if isinstance(part := item.get("partial_rotary_factor"), float)), default=1.0)
    return Span(low=positions * int(size * share), high=positions * size * max(len(kinds), 1))


def count_rank_weights(model: ServedModel, ranks: int) -> Span:
    """Return the bytes of the parameters on one of so many ranks; raises UsageError where they cannot be cut so."""
    if ranks > 1 and model.heads % ranks:
        raise UsageError(
            f"`tensor_parallel_size` {ranks} does not divide the {model.heads} attention heads of the model; give one "
            "that does."
        )
    share = find_share(model.weights, ranks, model.kv_heads)
    if model.packed_bytes is None:
        return share
    # Packed weights are cut like those that they stand for.
    whole = sum(tensor.bytes for tensor in model.weights)
    return Span(low=model.packed_bytes // ranks, high=max(-(-share.high * model.packed_bytes // whole), 0))


def describe_requests(count: int, length: int) -> str:
    """Return in words so many requests of a length."""
    return f"{count:,} request{'' if count == 1 else 's'} of {length:,} tokens"


def describe_room(asked: int | None, running: Span, length: int) -> str:
    """Return in words that as many requests run at once as were asked for; where no number was, how many have room."""
    if asked is not None:
        return f"{describe_requests(asked, length)} at once"
    least = "" if running.is_exact else "at least "
    return f"room for {least}{describe_requests(running.low, length)}"


def describe_waiting(asked: int, running: Span, length: int) -> str:
    """Return in words that fewer requests of a length than were asked for surely run at once."""
    if running.high < asked:
        counts = f"{running.low:,}" if running.is_exact else f"{running.low:,} to {running.high:,}"
        verb = "runs" if running.high == 1 else "run"
        return f"it starts; of {describe_requests(asked, length)} {counts} {verb} at once, the others wait"
    return (
        f"it starts; of {describe_requests(asked, length)} {running.low:,} surely run at once, and only the machine "
        "says whether all do"
    )


def _first(config: Any, *names: str) -> int | None:
    """Return the first of these fields that is a count."""
    return next((value for name in names if type(value := getattr(config, name, None)) is int and value > 0), None)

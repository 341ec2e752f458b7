"""The metadata of a GGUF file -> the sizes that llama.cpp reads of it, and what each layer keeps of the tokens.

As src/models/*.cpp, src/llama-hparams.cpp and src/llama-model.cpp of llama-cpp-python 0.3.36's llama.cpp read it. The
file is untrusted: a value of another type or beyond its range counts as absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inspector.errors import UnsupportedModelError, one_line, quoted
from inspector.records.engines.gguf import GgufModel
from inspector.records.engines.serving import CacheKind

__all__ = ["CacheBuffer", "Sizes", "read_sizes"]

_MOST_LAYERS = 10_000
_LARGEST = 2**31 - 1
# Sliding layers where a file has no pattern: how many layers make a period, and whether its full one is the first
# (src/models/*.cpp, `load_swa_pattern`). All others of a period slide.
_PERIODS: Mapping[str, tuple[int, bool]] = {
    **dict.fromkeys(("cohere2", "exaone4", "exaone-moe", "olmo2", "afmoe", "mellum", "llama4"), (4, False)),
    **dict.fromkeys(("gemma2", "gpt-oss"), (2, False)),
    "gemma3": (6, False),
    "gemma3n": (5, False),
    "plamo3": (8, False),
    **dict.fromkeys(("smallthinker", "cohere2moe", "laguna"), (4, True)),
}
# Read with a pattern of the file alone.
_WITH_A_PATTERN = ("gemma4", "mimo2", "step35", "granite-swa")
# A window that a file need not name (src/models/llama4.cpp).
_CHUNKS: Mapping[str, int] = {"llama4": 8192}
_WITH_AN_INDEXER = ("deepseek32", "deepseek4", "glm-dsa", "minimax-m3", "dots3note", "hy-v4", "glm5-next")
_WITHOUT_CACHE = (
    *("bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert", "eurobert"),
    *("t5encoder", "gemma-embedding", "clip", "dream", "llada", "llada-moe", "rnd1", "wavtokenizer-dec"),
)
# Layers that keep a state for which `n_embd_r` and `n_embd_s` have rules of their own.
_OTHER_STATES = ("kimi-linear", "kimi-k3", "minimax-01", "plamo2", "falcon-h1", "bailingmoe3", "qwen4exp", "t5")
_INTERVAL = 4  # full_attention_interval of Qwen3-Next and Qwen3.5, where a file does not say it


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheBuffer:
    """The cache of layers of one kind: which, the values of K and V of a cell, and the window where it slides.

    Of recurrent layers `key_values` and `value_values` are the float32 values of a sequence.
    """

    kind: CacheKind
    layers: tuple[int, ...]
    key_values: int
    value_values: int
    window: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a file says of the model: its architecture, layers, widths and the length it was trained for."""

    architecture: str
    layers: int
    length: int
    hidden_size: int
    vocabulary: int
    buffers: tuple[CacheBuffer, ...]
    heads: int
    inner_size: int
    experts_per_token: int


class _Fields:
    """The values of one architecture, as counts."""

    def __init__(self, model: GgufModel, architecture: str) -> None:
        self.model, self.architecture = model, architecture

    def count(self, name: str, default: int = 0) -> int:
        """Return a count, the default where a file has none; raise UnsupportedModelError for what is no count."""
        value = self.model.metadata.get(f"{self.architecture}.{name}")
        if type(value) is int and 0 <= value <= _LARGEST:
            return value
        if type(value) in (int, float, str):
            raise _lacks(self.model, f"{one_line(self.architecture, 40)}.{name} as a count up to {_LARGEST:,}")
        return default

    def need(self, name: str, most: int = _LARGEST) -> int:
        """Return a count that a file has to give."""
        value = self.count(name)
        if not 0 < value <= most:
            raise _lacks(self.model, f"{one_line(self.architecture, 40)}.{name}")
        return value

    def counts(self, name: str, layers: int, default: int = 0) -> list[int]:
        """Return a count for each layer; one value holds for all."""
        value = self.model.metadata.get(f"{self.architecture}.{name}")
        if not isinstance(value, list):
            return [self.count(name, default)] * layers
        if len(value) < layers or any(type(item) is not int or not 0 <= item <= _LARGEST for item in value):
            raise _lacks(self.model, f"{one_line(self.architecture, 40)}.{name} for each layer")
        return value[:layers]

    def flags(self, name: str, layers: int) -> list[bool] | None:
        """Return a flag for each layer, None where there is none."""
        value = self.model.metadata.get(f"{self.architecture}.{name}")
        return [bool(item) for item in value[:layers]] if isinstance(value, list) and len(value) >= layers else None


def read_sizes(model: GgufModel) -> Sizes:
    """Return the sizes that a file gives; raises UnsupportedModelError where it lacks one, or no rule is known."""
    architecture = model.metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise _lacks(model, "general.architecture")
    what = f"{quoted(model.files[0])} is of the architecture {one_line(architecture, 40)}, which"
    if architecture in _WITHOUT_CACHE:
        raise UnsupportedModelError(f"{what} keeps no cache of tokens; name a decoder.")
    if architecture in _WITH_AN_INDEXER or architecture in _OTHER_STATES:
        raise UnsupportedModelError(f"{what} keeps a cache that no rule here counts; name another model.")
    fields = _Fields(model, architecture)
    layers = fields.need("block_count", _MOST_LAYERS)
    inner = max(fields.counts("feed_forward_length", layers), default=0)
    return Sizes(
        architecture=architecture,
        layers=layers,
        length=fields.need("context_length"),
        hidden_size=fields.need("embedding_length"),
        vocabulary=_count_vocabulary(model),
        buffers=_list_buffers(fields, layers),
        heads=max(fields.counts("attention.head_count", layers), default=0),
        inner_size=fields.count("expert_feed_forward_length") or inner,
        experts_per_token=fields.count("expert_used_count"),
    )


def _list_buffers(fields: _Fields, layers: int) -> tuple[CacheBuffer, ...]:
    """Return what the layers keep, by kind."""
    heads = fields.counts("attention.head_count", layers)
    kv_heads = fields.counts("attention.head_count_kv", layers) if _has(fields, "attention.head_count_kv") else heads
    recurrent, sliding = _find_recurrent(fields, kv_heads, layers), _find_sliding(fields, layers)
    if not any(recurrent) and not (any(kv_heads) and any(heads)):
        raise _lacks(fields.model, f"{one_line(fields.architecture, 40)}.attention.head_count")
    usual = fields.need("embedding_length") // (max(heads, default=0) or 1)
    keys, values = fields.count("attention.key_length", usual), fields.count("attention.value_length", usual)
    is_latent = fields.count("attention.key_length_mla") and fields.count("attention.value_length_mla")
    window = fields.count("attention.sliding_window") or _CHUNKS.get(fields.architecture, 0)
    found: dict[tuple[CacheKind, int, int, int | None], list[int]] = {}
    key: tuple[CacheKind, int, int, int | None]
    for layer in range(max(layers - fields.count("attention.shared_kv_layers"), 0)):
        own = kv_heads[layer]
        if recurrent[layer]:
            key = (CacheKind.STATE, *_count_state(fields), None)
        elif not own:
            continue
        elif sliding[layer]:
            own_keys = fields.count("attention.key_length_swa", keys)
            own_values = fields.count("attention.value_length_swa", values)
            key = (CacheKind.SLIDING, own_keys * own, own_values * own, window)
        elif is_latent:
            key = (CacheKind.LATENT, keys * own, 0, None)
        else:
            key = (CacheKind.FULL, keys * own, values * own, None)
        found.setdefault(key, []).append(layer)
    return tuple(
        CacheBuffer(kind=kind, layers=tuple(own), key_values=first, value_values=second, window=width)
        for (kind, first, second, width), own in found.items()
    )


def _find_sliding(fields: _Fields, layers: int) -> list[bool]:
    """Return which layers slide; of an architecture that has no pattern, llama.cpp keeps every token of all."""
    name, architecture = "attention.sliding_window_pattern", fields.architecture
    if not (fields.count("attention.sliding_window") or architecture in _CHUNKS):
        return [False] * layers
    if architecture not in _PERIODS and architecture not in _WITH_A_PATTERN:
        return [False] * layers
    flags = fields.flags(name, layers)
    if flags is not None:
        return flags
    period, full_first = _PERIODS.get(architecture, (0, False))
    period = fields.count(name, period)
    if not period:
        return [True] * layers
    return [layer % period != (0 if full_first else period - 1) for layer in range(layers)]


def _find_recurrent(fields: _Fields, kv_heads: Sequence[int], layers: int) -> list[bool]:
    """Return which layers keep a state in the place of keys and values."""
    if fields.architecture in ("mamba", "mamba2", "rwkv6", "rwkv7"):
        return [True] * layers
    if fields.architecture in ("qwen3next", "qwen35", "qwen35moe"):
        flags = fields.flags("attention.recurrent_layers", layers)
        every = fields.count("full_attention_interval") or _INTERVAL
        return flags or [(layer + 1) % every != 0 for layer in range(layers)]
    if fields.count("ssm.inner_size") or fields.count("shortconv.l_cache"):
        has_mlp = fields.counts("feed_forward_length", layers)
        is_mixed = fields.architecture == "nemotron_h"  # a layer of it is a mixer, attention or an MLP
        return [not heads and not (is_mixed and has_mlp[layer]) for layer, heads in enumerate(kv_heads)]
    return [False] * layers


def _count_state(fields: _Fields) -> tuple[int, int]:
    """Return the values of the convolution and of the state that a sequence keeps (`n_embd_r`, `n_embd_s`)."""
    hidden = fields.count("embedding_length")
    if fields.count("wkv.head_size"):
        return fields.count("token_shift_count", 2) * hidden, hidden * fields.count("wkv.head_size")
    if fields.count("shortconv.l_cache"):
        return hidden * (fields.count("shortconv.l_cache") - 1), 0
    inner, state, groups = (fields.count(f"ssm.{name}") for name in ("inner_size", "state_size", "group_count"))
    return max(fields.count("ssm.conv_kernel") - 1, 0) * (inner + 2 * groups * state), state * inner


def _has(fields: _Fields, name: str) -> bool:
    """Tell whether a file has a value at all."""
    return f"{fields.architecture}.{name}" in fields.model.metadata


def _count_vocabulary(model: GgufModel) -> int:
    """Return how many tokens there are: rows of the embedding."""
    table = next((tensor for tensor in model.tensors if tensor.name == "token_embd.weight"), None)
    if table is None or len(table.shape) != 2 or not 0 < table.shape[1] <= _LARGEST:
        raise _lacks(model, "token_embd.weight")
    return table.shape[1]


def _lacks(model: GgufModel, name: str) -> UnsupportedModelError:
    """Return the error of a file that lacks a value."""
    return UnsupportedModelError(
        f"{quoted(model.files[0])} does not say {name}, as a model of llama.cpp does; get it again, or name another."
    )

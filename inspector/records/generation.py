"""Generation: its settings as a record of their own, its cache by kind, and its memory over tokens."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from inspector.records.recipe import PROMPT_LEN, Attention, CacheKind, Precision, Recipe, SdpaBackend

__all__ = [
    "CacheFacts",
    "CacheLayers",
    "CacheTensor",
    "CurvePoint",
    "Generation",
    "LayerKind",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """How text is generated: the fields of a `Recipe` that mean something to it, with their meaning and defaults there.

    `batch_size` prompts of `prompt_len` tokens are continued by `new_tokens`.
    """

    batch_size: int = 1
    prompt_len: int = PROMPT_LEN
    new_tokens: int = 256
    cache: CacheKind | str = CacheKind.DYNAMIC
    prefill_chunk_size: int | None = None
    mixed_precision: Precision | str = Precision.NO
    padding: bool | None = None
    attention: Attention | str | None = None
    sdpa_backend: SdpaBackend | str = SdpaBackend.AUTO
    alloc_conf: str | None = None

    def to_recipe(self) -> Recipe:
        """Return the recipe with these settings; raises UsageError where one is not of its type or its range."""
        return Recipe(**{item.name: getattr(self, item.name) for item in dataclasses.fields(self)})


class LayerKind(str, enum.Enum):
    """What a layer keeps of the tokens so far.

    FULL: keys and values of all. SLIDING: of the last ones, as many as its window has, less one. CHUNKED: of those in
    its chunk. LATENT: one compressed vector a token for all heads, and its rotary part (MLA). INDEXED: keys, values and
    what an indexer finds them by. STATE: a state of fixed size (linear attention, state spaces, convolutions).
    STATE_AND_FULL: a state, and keys and values of all tokens. CROSS: keys and values of the encoder's tokens.
    """

    FULL = "full"
    SLIDING = "sliding"
    CHUNKED = "chunked"
    LATENT = "latent"
    INDEXED = "indexed"
    STATE = "state"
    STATE_AND_FULL = "state_and_full"
    CROSS = "cross"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheTensor:
    """A tensor of a layer's cache at the end, of all sequences. `grows` tells whether it has a row for each token."""

    name: str
    shape: Sequence[int]
    dtype: str
    grows: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLayers:
    """Layers that keep the same: how many, and the tensors of one.

    `bytes_per_token` is what a token of a sequence takes in one layer while no window is full, `fixed_bytes` what all
    sequences take there whatever their length, `window` the most tokens that are kept, None for all.
    """

    kind: LayerKind
    count: int
    tensors: Sequence[CacheTensor]
    bytes_per_token: int
    fixed_bytes: int
    window: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFacts:
    """What a generation keeps of the tokens so far.

    `cache_class` is transformers' class. `bytes_per_token` is what one more token of a sequence takes while no window
    is full; cross attention does not grow and is left out. `at_end_bytes` is what all sequences hold after the last
    step.
    """

    cache_class: str = field(metadata={"key": "class"})
    bytes_per_token: int
    at_end_bytes: int
    layers: Sequence[CacheLayers]

    def lengthen(self, tokens: int, batch_size: int) -> CacheFacts:
        """Return what the cache holds when it has rows of so many tokens more; those of the encoder stay."""
        layers = []
        for item in self.layers:
            grows = item.kind is not LayerKind.CROSS
            tensors = [
                dataclasses.replace(tensor, shape=(*tensor.shape[:-2], tensor.shape[-2] + tokens, tensor.shape[-1]))
                if grows and tensor.grows
                else tensor
                for tensor in item.tensors
            ]
            layers.append(dataclasses.replace(item, tensors=tensors))
        at_end_bytes = self.at_end_bytes + tokens * batch_size * self.bytes_per_token
        return dataclasses.replace(self, at_end_bytes=at_end_bytes, layers=layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """A step of a generation: how many tokens are chosen when it ends, and what is allocated and reserved then.

    `peak_allocated_bytes` is the most that was allocated during it.
    """

    new_tokens: int
    peak_allocated_bytes: int
    end_allocated_bytes: int
    reserved_bytes: int

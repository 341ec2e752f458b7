"""vLLM's pages: what a block of a layer takes, how layers form groups, and what a request of some length holds.

Read in vLLM 0.33.0 and held against its own classes in tests/engines (v1/kv_cache_interface.py, `page_size_bytes` and
`max_memory_usage_bytes`; v1/core/kv_cache_planning.py, `unify_kv_cache_spec_page_size` and
`_get_kv_cache_groups_uniform_page_size`; platforms/interface.py, `_align_hybrid_block_size`). All groups draw blocks
from one pool; a block is as large as the pages of the widest group together.

Not covered: the packed layouts of models whose pages differ and whose attention kernel stores blocks outermost, and
context parallelism.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from inspector.engines.layers import LayerCache
from inspector.errors import UnsupportedModelError
from inspector.records.engines.serving import CacheKind

__all__ = ["Group", "Page", "Pool", "build_pool"]

# A group is as small as the kind with the fewest layers, unless the largest kind has less than this times as many.
_NEARLY_AS_MANY = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A block of one layer on one rank: for how many tokens (None: a state), and its bytes with what it is padded to.

    `padded` tells whether padding alone made it as large, which moves it into a group of its own; `states` is how many
    states a request holds.
    """

    layer: LayerCache
    tokens: int | None
    bytes: int
    padded: bool = False
    states: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Layers that share a table of blocks: how many there are, and the page of each kind of them."""

    pages: tuple[Page, ...]

    @property
    def bytes(self) -> int:
        """Return the bytes of a block of all its layers."""
        return sum(page.bytes for page in self.pages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The groups of a model; `block_bytes` is what one block of the pool takes."""

    groups: tuple[Group, ...]

    @property
    def block_bytes(self) -> int:
        """Return the bytes of a block: those of the widest group."""
        return max(group.bytes for group in self.groups)

    def count_blocks(self, length: int, in_flight: int) -> int:
        """Return the most blocks that a request of so many tokens holds, with so many more that are in flight."""
        return sum(count_blocks(group.pages[0], length, in_flight) for group in self.groups)


def count_blocks(page: Page, length: int, in_flight: int) -> int:
    """Return the most blocks of one layer that a request holds (`max_admission_blocks_per_request`)."""
    layer, tokens = page.layer, page.tokens
    if tokens is None:
        return page.states
    if layer.kind is CacheKind.SLIDING:
        assert layer.window is not None
        # One more, since a window may begin inside a block.
        return _divide_up(min(layer.window - 1 + in_flight, length), tokens) + 1
    if layer.kind is CacheKind.CHUNKED:
        assert layer.window is not None
        return _divide_up(min(layer.window + in_flight, length), tokens)
    if layer.kind is CacheKind.CROSS:
        assert layer.window is not None
        return _divide_up(layer.window, tokens)
    return _divide_up(length, tokens)


def build_pool(
    layers: Sequence[LayerCache], *, block_size: int, element_bytes: int, ranks: int, model_dtype: str
) -> Pool:
    """Return the groups of a model's layers; raises UnsupportedModelError where their pages cannot be made equal."""
    attention = [layer for layer in layers if layer.kind is not CacheKind.STATE]
    states = [layer for layer in layers if layer.kind is CacheKind.STATE]
    if states and attention:
        block_size = _raise_block_size(states, attention, block_size, element_bytes, ranks, model_dtype)
    pages = [_build_page(layer, block_size, element_bytes, ranks, model_dtype) for layer in layers]
    if len({(page.layer.kind, page.layer.window) for page in pages}) == 1:
        return Pool(groups=(Group(pages=tuple(pages)),))
    # Beside attention, prefixes are cached by default: a state is kept at the last border of a block ("align").
    pages = [replace(page, states=2 if attention else 1) for page in pages]
    return Pool(groups=_group(_make_equal(pages)))


def _raise_block_size(
    states: Sequence[LayerCache],
    attention: Sequence[LayerCache],
    block_size: int,
    element_bytes: int,
    ranks: int,
    model_dtype: str,
) -> int:
    """Return a block size with which a page of attention is no smaller than the states of a layer."""
    state = max(sum(item.size(ranks, model_dtype) for item in layer.states) for layer in states)
    token = attention[0].values_per_token(ranks) * element_bytes
    return max(block_size, block_size * _divide_up(state, block_size * token))


def _build_page(layer: LayerCache, block_size: int, element_bytes: int, ranks: int, model_dtype: str) -> Page:
    """Return the page of one layer, unpadded."""
    if layer.kind is CacheKind.STATE:
        return Page(layer=layer, tokens=None, bytes=sum(item.size(ranks, model_dtype) for item in layer.states))
    return Page(layer=layer, tokens=block_size, bytes=block_size * layer.values_per_token(ranks) * element_bytes)


def _make_equal(pages: Sequence[Page]) -> list[Page]:
    """Return pages of one size: smaller ones hold more tokens, or are padded where that does not come out even."""
    largest = max(page.bytes for page in pages)
    return [_enlarge(page, largest) for page in pages]


def _enlarge(page: Page, largest: int) -> Page:
    """Return a page as large as the largest one."""
    if page.tokens is None:
        return replace(page, bytes=largest, padded=True)
    if page.bytes == largest:
        return page
    if largest % page.bytes == 0:
        return replace(page, bytes=largest, tokens=page.tokens * (largest // page.bytes))
    if page.layer.kind is CacheKind.LATENT:
        raise UnsupportedModelError(
            "the pages of its latent layers do not divide those of the others, which vLLM 0.33.0 refuses; drop "
            "`engine`."
        )
    return replace(page, bytes=largest, padded=True)


def _group(pages: Sequence[Page]) -> tuple[Group, ...]:
    """Return groups of as many layers each, the last of a kind with fewer: their block is padded all the same."""
    kinds: dict[object, list[Page]] = {}
    for page in pages:
        kinds.setdefault((page.layer.kind, page.layer.window, page.tokens, page.padded), []).append(page)
    counts = [len(found) for found in kinds.values()]
    size = max(counts) if max(counts) < min(counts) * _NEARLY_AS_MANY else min(counts)
    groups = []
    for found in kinds.values():
        number = _divide_up(len(found), size)
        groups += [Group(pages=tuple(found[index::number])) for index in range(number)]
    return tuple(groups)


def _divide_up(number: int, by: int) -> int:
    """Return the quotient, rounded up."""
    return -(-number // by)

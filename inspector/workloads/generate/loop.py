"""The steps of `model.generate`: where the prompt ends, and which cache each step leaves behind.

transformers' own method runs, greedy unless the model's generation_config.json or the recipe says otherwise. What is
added watches: hooks on the model tell where a step begins and hand out the cache. Nobody stops early: the check that
every sequence is over runs its ops, and its answer is not read.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from transformers.generation import utils as generation_utils

from inspector.records.memory import CacheFacts
from inspector.records.recipe import CacheKind, Recipe, find_prompt_len
from inspector.records.tape import Phase
from inspector.runtime.patches import call_at_end, replace_attribute, restore_changes
from inspector.workloads.base import OnPhase, base_model
from inspector.workloads.generate.caches import describe_cache, list_layers, list_tensors

__all__ = ["Generation", "run_generation"]

# What a model calls its cache.
_CACHE_NAMES = ("past_key_values", "cache_params")
# transformers' names of the caches that are not the default.
_CACHES: Mapping[CacheKind | str, Mapping[str, Any]] = {
    CacheKind.DYNAMIC: {},
    # A static cache lets `generate` compile its decoding on a GPU: its graphs keep what no tape knows.
    CacheKind.STATIC: {"cache_implementation": "static", "disable_compile": True},
    CacheKind.FP8: {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}},
    CacheKind.NONE: {"use_cache": False},
}


class Generation:
    """The cache of a generation while it runs: `cache` is transformers' object, None before and after.

    `facts` is what the cache held when the last step was over.
    """

    def __init__(self) -> None:
        self._cache: weakref.ref[Any] | None = None
        self.facts: CacheFacts | None = None

    @property
    def cache(self) -> Any:
        """Return the cache, None where there is none."""
        return None if self._cache is None else self._cache()

    def note(self, cache: Any) -> None:
        """Remember a cache without keeping it alive."""
        self._cache = None if cache is None else weakref.ref(cache)

    def list_tensors(self) -> Iterator[Tensor]:
        """Yield the tensors of the cache as they are now."""
        for layer in list_layers(self.cache):
            yield from (tensor for _name, tensor in list_tensors(layer))


def run_generation(
    model: Any, batch: Mapping[str, Any], state: Generation, on_phase: OnPhase, recipe: Recipe
) -> tuple[Any, ...]:
    """Generate as many tokens as the recipe says after the prompt; return what is still held then."""
    base = base_model(model)
    on_phase(Phase.PREFILL, 1)
    with restore_changes(), _watch_steps(base, state, on_phase, recipe), _stop_at_length(recipe):
        return (model.generate(**batch, **_list_arguments(base, recipe)),)


def _list_arguments(base: Any, recipe: Recipe) -> dict[str, Any]:
    """Return the arguments of `generate`, which go before the model's own generation configuration."""
    arguments: dict[str, Any] = {
        "max_new_tokens": recipe.new_tokens,
        "do_sample": False,
        "num_beams": 1,
        **(recipe.generation or {}),
        "use_cache": True,
        **_CACHES[recipe.cache],
    }
    if recipe.prefill_chunk_size is not None:
        arguments["prefill_chunk_size"] = recipe.prefill_chunk_size
    settings = base.generation_config
    ids = [arguments.get(name, getattr(settings, name)) for name in ("eos_token_id", "pad_token_id")]
    if ids == [None, None]:
        arguments["pad_token_id"] = 0  # nothing reads it; without one transformers looks for it
    return arguments


@contextlib.contextmanager
def _watch_steps(base: Any, state: Generation, on_phase: OnPhase, recipe: Recipe) -> Iterator[None]:
    """Say when each step begins, and note the cache that a step leaves, inside the block."""
    pieces = 1 if recipe.prefill_chunk_size is None else -(-find_prompt_len(recipe) // recipe.prefill_chunk_size)
    calls = 0

    def begin(_module: nn.Module, _args: Any) -> None:
        nonlocal calls
        calls += 1
        enter()

    def enter() -> None:
        on_phase(*((Phase.PREFILL, 1) if calls <= pieces else (Phase.DECODE, calls - pieces + 1)))

    def end(_module: nn.Module, _args: Any, outputs: Any) -> None:
        found = (getattr(outputs, name, None) for name in _CACHE_NAMES)
        state.note(next((cache for cache in found if cache is not None), None))
        if calls - pieces + 1 == recipe.new_tokens:
            state.facts = describe_cache(state.cache, base.config)
        enter()  # once more, so that whoever watches sees the cache before the last step gives it back

    call_at_end(base.register_forward_pre_hook(begin).remove)
    call_at_end(base.register_forward_hook(end).remove)
    yield


@contextlib.contextmanager
def _stop_at_length(recipe: Recipe) -> Iterator[None]:
    """Let no sequence end before its last token, whatever the weights make of it, inside the block."""
    check = getattr(generation_utils, "StopCheck", None)
    if check is not None:
        original, left = check.__call__, recipe.new_tokens

        def call(self: Any, *args: Any, **kwargs: Any) -> bool:
            nonlocal left
            original(self, *args, **kwargs)
            left -= 1
            return left <= 0

        replace_attribute(check, "__call__", call)
    yield

"""What makes an engine serve a model as it was asked to, where it does not: each change by the engine's own rules.

The changes, each alone, in the order of the harm that they do: a cache in 8 bits, fewer requests at a time, shorter
ones, shorter ones with a cache in 8 bits where that alone does not suffice, more cards. Last is what the weights may
take at most, which another checkpoint of the model may do. Nothing is estimated: a change is told where the verdict
with it is a sure yes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from inspector.errors import InspectorError
from inspector.records.engines.serving import Engine, EngineAdvice, EngineVerdict, Serving, ServingOptions
from inspector.records.fit import Fit
from inspector.units import format_bytes

__all__ = ["find_engine_advice"]

# Serves with other options, on so many cards.
Serve = Callable[[ServingOptions, int], Serving]

_PACKED_CACHE: Mapping[Engine, Mapping[str, str]] = {
    Engine.VLLM: {"kv_cache_dtype": "fp8"},
    Engine.SGLANG: {"kv_cache_dtype": "fp8_e4m3"},
    Engine.LLAMA_CPP: {"cache_type_k": "q8_0", "cache_type_v": "q8_0"},
}
_LENGTH = {Engine.VLLM: "max_model_len", Engine.SGLANG: "context_length", Engine.LLAMA_CPP: "ctx_size"}
_REQUESTS = {Engine.VLLM: "max_num_seqs", Engine.SGLANG: "max_running_requests", Engine.LLAMA_CPP: "parallel"}
# Lengths are told in steps of so many tokens.
_STEP = 1024
_RANKS = (2, 4, 8)


def find_engine_advice(serve: Serve, options: ServingOptions, serving: Serving) -> tuple[EngineAdvice, ...]:
    """Return the changes of options with which one card's verdict, the first of `serving`, is a sure yes."""
    verdict = serving.verdicts[0]
    if verdict.outcome is Fit.YES:
        return ()
    found = [item for item in _Search(serve, options, serving).list_changes() if item is not None]
    weights = _bound_weights(options, serving, verdict)
    return (*found, *((weights,) if weights is not None else ()))


class _Search:
    """Serves a model anew with changed options."""

    def __init__(self, serve: Serve, options: ServingOptions, serving: Serving) -> None:
        self._serve, self._options, self._serving = serve, options, serving
        self._engine = serving.engine
        self._count = serving.verdicts[0].count

    def list_changes(self) -> Iterator[EngineAdvice | None]:
        """Yield what each change alone comes to, None where it does not suffice."""
        packed = _PACKED_CACHE[self._engine]
        has_packed = any(getattr(self._options, name) is not None for name in packed)
        alone = None if has_packed else self._try(packed)
        yield alone
        requests = _REQUESTS[self._engine]
        asked = getattr(self._options, requests)
        # llama.cpp lays its whole cache out for all of them.
        if asked is not None and asked > 1 and self._engine is not Engine.LLAMA_CPP:
            yield self._find_most({}, requests, asked - 1, 1)
        yield self._shorten({})
        if alone is None and not has_packed:
            yield self._shorten(packed)
        if self._engine is not Engine.LLAMA_CPP:
            ranks = (count for count in _RANKS if count > self._count)
            yield next((item for count in ranks if (item := self._try({"tensor_parallel_size": count}, count))), None)

    def _shorten(self, base: Mapping[str, Any]) -> EngineAdvice | None:
        """Return the longest requests that are surely served with a `base` of changes."""
        name = _LENGTH[self._engine]
        return self._find_most(base, name, self._serving.options[name] - 1, _STEP)

    def _find_most(self, base: Mapping[str, Any], name: str, most: int, step: int) -> EngineAdvice | None:
        """Return the advice with the largest multiple of a step, up to `most`, that suffices; None where none does."""
        low, high, found = 0, most // step + 1, None
        while high - low > 1:
            middle = (low + high) // 2
            tried = self._try({**base, name: middle * step})
            low, high, found = (middle, high, tried) if tried is not None else (low, middle, found)
        return found

    def _try(self, change: Mapping[str, Any], count: int | None = None) -> EngineAdvice | None:
        """Return what a change comes to where that is a sure yes."""
        try:
            serving = self._serve(dataclasses.replace(self._options, **change), count or self._count)
        except InspectorError:  # heads that so many cards do not divide, for one
            return None
        verdict = serving.verdicts[0]
        if verdict.outcome is not Fit.YES:
            return None
        words = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in change.items())
        return EngineAdvice(change=words, reason=verdict.reason)


def _bound_weights(options: ServingOptions, serving: Serving, verdict: EngineVerdict) -> EngineAdvice | None:
    """Return what weights may take at most for the requests that were asked for to run at once."""
    asked = 1 if serving.engine is Engine.LLAMA_CPP else getattr(options, _REQUESTS[serving.engine]) or 1
    beside = sum(item.bytes.high for item in verdict.budget if item.what != "weights")
    # llama.cpp counts its cache among what goes off the card.
    cache = 0 if serving.engine is Engine.LLAMA_CPP else asked * serving.request_bytes
    room = verdict.allowed_bytes - beside - cache
    low = serving.weights_bytes.low
    # Half precision is packed to 4 bits with their scales at best; a file of llama.cpp is packed already.
    least = low // 2 if serving.engine is Engine.LLAMA_CPP else low * 28 // 100
    if not least <= room < low:
        return None
    words = f"a checkpoint with at most {format_bytes(room)} of weights"
    return EngineAdvice(change=words, reason=f"in fewer bits than these, which take {format_bytes(low)}")

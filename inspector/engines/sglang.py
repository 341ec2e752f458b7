"""SGLang 0.5.23: what it takes of a GPU, what its pools get, and how many tokens that is.

Read in the wheel of PyPI (paths below sglang/srt/). Exact are the bytes of a token; what is left for them SGLang
measures on the machine:

- rest = free memory after loading - free memory before x (1 - `mem_fraction_static`)
  (mem_cache/kv_cache_configurator.py, `_profile_available_bytes`), tokens = rest // bytes of a token, whole pages
  (model_executor/pool_configurator.py, `DefaultPoolConfigurator`).
- without `mem_fraction_static` the slack follows from the card (arg_groups/memory_hook.py,
  `handle_gpu_memory_settings`): where pools are sized after CUDA graphs were captured, which is so unless the cache is
  latent, 1.5 GiB and the graphs themselves; else 0.5 GiB, 1.5 MiB for each token of a chunk, 2 MiB for each sequence
  of the largest graph, and 10 GiB at least on cards above 60 GiB. The span has both.
- models that SGLang knows to mix sliding and full attention have a pool of each, the sliding one with 0.8 of the
  tokens (`HybridSWAPoolConfigurator`); of all others every layer keeps every token.

Not covered: states of linear attention, whose pool is split by ratios; speculative decoding, data parallelism.
"""

from __future__ import annotations

from collections.abc import Iterator

from inspector.dtypes import BY_TORCH_NAME
from inspector.engines.layers import LayerCache
from inspector.engines.model import ServedModel, count_rank_weights, describe_room, describe_waiting
from inspector.errors import UnsupportedModelError, UsageError
from inspector.memory.verdict import find_overhead, find_usable_bytes
from inspector.records.engines.serving import (
    BudgetItem,
    CacheGroup,
    CacheKind,
    Engine,
    EngineVerdict,
    Serving,
    ServingOptions,
    Span,
)
from inspector.records.fit import Fit
from inspector.records.hardware import Gpu
from inspector.units import format_bytes

__all__ = ["RELEASE", "serve"]

RELEASE = "0.5.23"
_MIB, _GIB = 2**20, 2**30
_CACHE_BYTES = {"bf16": 2, "bfloat16": 2, "fp8_e4m3": 1, "fp8_e5m2": 1}
# configs/model_config.py, `is_hybrid_swa_model`; of those that transformers has.
_TWO_POOLS = (
    *("Llama4ForConditionalGeneration", "GptOssForCausalLM", "Gemma4ForCausalLM"),
    "Gemma4ForConditionalGeneration",
)
# `swa_full_tokens_ratio`, in tenths: integers keep the division exact.
_SLIDING_TENTHS = 8
# Memory of the card below so many MiB: tokens of a chunk, sequences of the largest graph on up to three ranks and more.
_DEFAULTS = (
    (20 * 1024, 2048, 8, 8),
    (35 * 1024, 4096, 48, 160),
    (60 * 1024, 4096, 32, 160),
    (160 * 1024, 8192, 256, 512),
    (2**40, 16384, 512, 512),
)
_OUTSIDE = Span(low=0, high=int(0.55 * _GIB))


def serve(model: ServedModel, options: ServingOptions, gpus: list[tuple[Gpu, int]]) -> Serving:
    """Return what SGLang makes of a model, on each of the GPUs and how many of it there are."""
    if any(layer.kind in (CacheKind.STATE, CacheKind.CROSS) for layer in model.layers):
        raise UnsupportedModelError(
            f"SGLang {RELEASE} splits its pools between tokens and states by ratios, for which there is no rule here; "
            'ask for `engine="vllm"`.'
        )
    ranks = options.tensor_parallel_size or 1
    length = options.context_length or model.most_length or model.default_length
    if model.most_length is not None and length > model.most_length:
        raise UsageError(
            f"`context_length` {length} is more than the {model.most_length} positions of the model, which SGLang "
            f"refuses; give at most {model.most_length}."
        )
    element_bytes = _find_cache_bytes(model, options)
    page = options.page_size or 1
    weights = count_rank_weights(model, ranks)
    cell_tenths = _count_cell_tenths(model, ranks, element_bytes)
    token_bytes = sum(layer.values_per_token(ranks) * element_bytes for layer in model.layers)
    settings: dict[str, object] = {"context_length": length, "page_size": page, "tensor_parallel_size": ranks}
    settings["kv_cache_dtype"] = options.kv_cache_dtype or "auto"
    for name in ("max_running_requests", "chunked_prefill_size", "mem_fraction_static"):
        if getattr(options, name) is not None:
            settings[name] = getattr(options, name)
    pages = -(-length // page)
    return Serving(
        engine=Engine.SGLANG,
        rules_of=RELEASE,
        options=settings,
        defaults=tuple(name for name in settings if getattr(options, name) is None),
        weights_bytes=weights,
        bytes_per_token=token_bytes,
        request_bytes=pages * page * token_bytes,
        groups=tuple(_describe_groups(model, ranks, element_bytes, page, pages)),
        verdicts=tuple(_judge(model, options, gpu, count, cell_tenths, length, weights) for gpu, count in gpus),
        notes=tuple(_list_notes(model, options)),
    )


def _find_cache_bytes(model: ServedModel, options: ServingOptions) -> int:
    """Return the bytes of a value in the cache."""
    name = options.kv_cache_dtype or "auto"
    if name == "auto":
        return BY_TORCH_NAME[model.dtype].bits // 8
    if name not in _CACHE_BYTES:
        known = ", ".join(("auto", *_CACHE_BYTES))
        raise UsageError(f"`kv_cache_dtype` {name!r} has no rule here for sglang; use one of {known}.")
    return _CACHE_BYTES[name]


def _count_cell_tenths(model: ServedModel, ranks: int, element_bytes: int) -> int:
    """Return ten times the bytes that the pools take for each token of the full one."""
    has_two = model.architecture in _TWO_POOLS
    return sum(
        (_SLIDING_TENTHS if has_two and layer.kind in (CacheKind.SLIDING, CacheKind.CHUNKED) else 10)
        * layer.values_per_token(ranks)
        * element_bytes
        for layer in model.layers
    )


def _describe_groups(model: ServedModel, ranks: int, element_bytes: int, page: int, pages: int) -> Iterator[CacheGroup]:
    """Yield the layers of each kind."""
    found: dict[LayerCache, int] = {}
    for layer in model.layers:
        found[layer] = found.get(layer, 0) + 1
    for layer, count in found.items():
        size = layer.values_per_token(ranks) * element_bytes
        yield CacheGroup(
            kind=layer.kind,
            layers=count,
            page_tokens=page,
            page_bytes=page * size,
            bytes_per_token=count * size,
            window=layer.window,
            request_bytes=count * pages * page * size,
        )


def _judge(
    model: ServedModel,
    options: ServingOptions,
    gpu: Gpu,
    count: int,
    cell_tenths: int,
    length: int,
    weights: Span,
) -> EngineVerdict:
    """Return the verdict on one GPU, or on as many of it as there are ranks."""
    free = find_usable_bytes(gpu, find_overhead(gpu).bytes)
    slack = _find_slack(model, options, gpu, free)
    budget = (
        BudgetItem(what="weights", bytes=weights, source="the parameters as they are loaded"),
        BudgetItem(what="outside torch", bytes=_OUTSIDE, source="taken to be as in published logs of vllm"),
        BudgetItem(
            what="slack",
            bytes=slack,
            source=f"sglang {RELEASE}, arg_groups/memory_hook.py; activations and CUDA graphs run in it",
        ),
    )
    cache = Span(
        low=max(free - sum(item.bytes.high for item in budget), 0),
        high=max(free - sum(item.bytes.low for item in budget), 0),
    )
    page = options.page_size or 1
    tokens = Span(low=10 * cache.low // cell_tenths // page * page, high=10 * cache.high // cell_tenths // page * page)
    outcome, reason = _decide(options, tokens, length, cache)
    return EngineVerdict(
        gpu=gpu.name,
        count=count,
        memory_bytes=gpu.memory_bytes,
        allowed_bytes=free,
        budget=budget,
        cache_bytes=cache,
        tokens=tokens,
        concurrency_hundredths=Span(low=100 * tokens.low // length, high=100 * tokens.high // length),
        outcome=outcome,
        reason=reason,
    )


def _find_slack(model: ServedModel, options: ServingOptions, gpu: Gpu, free: int) -> Span:
    """Return what SGLang leaves beside weights and pools."""
    if options.mem_fraction_static is not None:
        size = round(free * (1 - options.mem_fraction_static))
        return Span(low=size, high=size)
    ranks = options.tensor_parallel_size or 1
    memory = gpu.memory_bytes // _MIB
    _, chunk, few, many = next(row for row in _DEFAULTS if memory < row[0])
    graphs = few if ranks < 4 else many
    if options.max_running_requests is not None:
        graphs = min(graphs, options.max_running_requests)
    chunk = max(options.chunked_prefill_size or chunk, 2048)
    reserved = 512 + chunk * 3 // 2 + ranks * 128 + graphs * 2
    if memory > 60 * 1024:
        reserved = max(reserved, 10 * 1024)
    is_latent = any(layer.kind is CacheKind.LATENT for layer in model.layers)
    least = reserved if is_latent else 1536 + ranks * 128
    return Span(low=min(least, reserved) * _MIB, high=max(least, reserved) * _MIB)


def _decide(options: ServingOptions, tokens: Span, length: int, cache: Span) -> tuple[Fit, str]:
    """Return whether a request of the whole length has room, and as many as were asked for at once."""
    if not cache.high:
        return Fit.NO, "the weights leave nothing for the cache"
    if tokens.high < length:
        return Fit.NO, f"the pools hold {tokens.high:,} tokens at most, in {format_bytes(cache.high)}"
    if tokens.low < length:
        return Fit.UNKNOWN, f"only the machine says whether the pools hold {length:,} tokens"
    asked, running = options.max_running_requests, Span(low=tokens.low // length, high=tokens.high // length)
    if asked is not None and running.low < asked:
        return Fit.TIGHT, describe_waiting(asked, running, length)
    return Fit.YES, describe_room(asked, running, length)


def _list_notes(model: ServedModel, options: ServingOptions) -> Iterator[str]:
    """Yield what the figures leave open."""
    if any(layer.kind is CacheKind.SLIDING for layer in model.layers) and model.architecture not in _TWO_POOLS:
        yield f"SGLang {RELEASE} gives sliding layers of this class a pool of every token."
    if model.has_tower:
        yield "What the image or audio tower makes is not counted; it makes the pools smaller."
    if options.mem_fraction_static is None:
        yield "With --mem-fraction-static the slack follows from the option, not from SGLang's defaults by the card."

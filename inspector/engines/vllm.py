"""vLLM 0.33.0: what it takes of a GPU, what its cache gets, and how many tokens and requests that holds.

Read in the wheel of PyPI (paths below vllm/). Exact are the bytes of a page, the blocks of a request and the budget
that `kv_cache_memory_bytes` gives; the rest of a GPU is a span, since vLLM measures it on the machine:

- `requested` = total memory x `gpu_memory_utilization`, rounded up (v1/worker/utils.py, `request_memory`); refused at
  the start where less is free.
- what goes off it (v1/worker/gpu_worker.py, `determine_available_memory`): weights, memory outside torch, the transient
  peak of a dummy run, and an estimate of CUDA graphs.
- the dummy run (v1/worker/gpu/model_runner.py, `profile_run`) sends `max_num_batched_tokens` through the model, then
  samples for `max_num_seqs` requests. The sampler holds logits in the model's dtype, their float32 copy and, inside
  FlashInfer's kernels, masked logits and probabilities; counters of tokens for penalties stay (gpu/sample/penalties.py,
  `output_bin_counts`, `prompt_bin_mask`). Up to 0.19 the sampler sorted: 38.02 bytes for each of `max_num_seqs` x
  vocabulary, which the wide end covers.

Not covered: the dummy run of an image or audio tower, speculative decoding, LoRA, pipeline parallelism.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from inspector.dtypes import BY_TORCH_NAME
from inspector.engines.kv_cache import Page, Pool, build_pool, count_blocks
from inspector.engines.layers import LayerCache
from inspector.engines.model import ServedModel, count_rank_weights, describe_room, describe_waiting
from inspector.errors import UsageError
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
from inspector.units import format_bytes, format_count

__all__ = ["RELEASE", "serve"]

RELEASE = "0.33.0"
_UTILIZATION = 0.92
_BLOCK_SIZE = 16
# FlashMLA, the kernel for latent layers on a Hopper card, has blocks of 64 (v1/attention/backends/mla/flashmla.py).
_LATENT_BLOCK_SIZE = 64
# `--kv-cache-dtype`; the packed layouts of some models are further names.
_CACHE_BYTES = {"float16": 2, "bfloat16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}
# Of published logs: 0.13 GiB on one rank, 0.55 on two; graphs took up to 1.03 GiB.
_OUTSIDE = Span(low=int(0.13 * 2**30), high=int(0.55 * 2**30))
_GRAPHS = Span(low=0, high=int(1.03 * 2**30))
# Bytes for each of max_num_seqs x vocabulary: logits in half precision with a float32 copy; and all that FlashInfer's
# kernels hold beside, or what sorting took up to 0.19.
_SAMPLER_LEAST, _SAMPLER_MOST = 6, 38.02
_GIB = 2**30


def serve(model: ServedModel, options: ServingOptions, gpus: list[tuple[Gpu, int]]) -> Serving:
    """Return what vLLM makes of a model, on each of the GPUs and how many of it there are.

    Raises UsageError for options that it refuses.
    """
    ranks = options.tensor_parallel_size or 1
    length = _find_length(model, options)
    element_bytes = _find_cache_bytes(model, options)
    has_latent = any(layer.kind is CacheKind.LATENT for layer in model.layers)
    block_size = options.block_size or (_LATENT_BLOCK_SIZE if has_latent else _BLOCK_SIZE)
    pool = build_pool(
        model.layers, block_size=block_size, element_bytes=element_bytes, ranks=ranks, model_dtype=model.dtype
    )
    first = gpus[0][0] if gpus else None
    weights = count_rank_weights(model, ranks)
    settings = _settle(options, first, length, block_size)
    in_flight = 2 * settings["max_num_batched_tokens"]  # steps overlap by default (config/vllm.py)
    return Serving(
        engine=Engine.VLLM,
        rules_of=RELEASE,
        options=settings,
        defaults=tuple(name for name in settings if getattr(options, name) is None),
        weights_bytes=weights,
        bytes_per_token=sum(layer.values_per_token(ranks) * element_bytes for layer in _of_tokens(model)),
        request_bytes=pool.count_blocks(length, in_flight) * pool.block_bytes,
        groups=tuple(_describe_groups(pool, length, in_flight, ranks, element_bytes)),
        verdicts=tuple(_judge(model, options, gpu, count, pool, length, weights) for gpu, count in gpus),
        notes=tuple(_list_notes(model, options)),
    )


def _settle(options: ServingOptions, gpu: Gpu | None, length: int, block_size: int) -> dict[str, Any]:
    """Return the options with what stands in for those that nobody gave, on that card."""
    seqs, batched = _find_batch(options, gpu, length)
    found: dict[str, Any] = {
        "max_model_len": length,
        "max_num_seqs": seqs,
        "max_num_batched_tokens": batched,
        "kv_cache_dtype": options.kv_cache_dtype or "auto",
        "block_size": block_size,
        "tensor_parallel_size": options.tensor_parallel_size or 1,
    }
    if options.kv_cache_memory_bytes is not None:
        found["kv_cache_memory_bytes"] = options.kv_cache_memory_bytes
    else:
        found["gpu_memory_utilization"] = options.gpu_memory_utilization or _UTILIZATION
    if options.enforce_eager:
        found["enforce_eager"] = True
    return found


def _find_batch(options: ServingOptions, gpu: Gpu | None, length: int) -> tuple[int, int]:
    """Return `max_num_seqs` and `max_num_batched_tokens` as the API server settles them (`get_batch_defaults`)."""
    memory = 0 if gpu is None else gpu.memory_bytes
    if memory >= 160 * _GIB:
        batched, seqs = 16384, 1024
    elif memory >= 70 * _GIB and gpu is not None and "a100" not in gpu.name.lower():
        batched, seqs = 8192, 1024
    else:
        batched, seqs = 2048, 256
    seqs = options.max_num_seqs or seqs
    batched = options.max_num_batched_tokens or min(seqs * length, batched)
    if options.max_num_seqs is None:
        return min(seqs, batched), batched
    if seqs > batched:
        raise UsageError(
            f"`max_num_seqs` {seqs} is more than the {batched} tokens of a step, which vLLM refuses; give "
            f"`max_num_batched_tokens` {seqs}, too."
        )
    return seqs, batched


def _find_length(model: ServedModel, options: ServingOptions) -> int:
    """Return the length of the longest request."""
    length = options.max_model_len or model.default_length
    if model.most_length is not None and length > model.most_length:
        raise UsageError(
            f"`max_model_len` {length} is more than the {model.most_length} positions of the model, which vLLM "
            f"refuses; give at most {model.most_length}."
        )
    return length


def _find_cache_bytes(model: ServedModel, options: ServingOptions) -> int:
    """Return the bytes of a value in the cache."""
    name = options.kv_cache_dtype or "auto"
    if name == "auto":
        return BY_TORCH_NAME[model.dtype].bits // 8
    if name not in _CACHE_BYTES:
        known = ", ".join(("auto", *_CACHE_BYTES))
        raise UsageError(f"`kv_cache_dtype` {name!r} has no rule here for vllm; use one of {known}.")
    return _CACHE_BYTES[name]


def _of_tokens(model: ServedModel) -> Iterator[LayerCache]:
    """Yield the layers that keep something of every token."""
    return (layer for layer in model.layers if layer.kind not in (CacheKind.STATE, CacheKind.CROSS))


def _describe_groups(pool: Pool, length: int, in_flight: int, ranks: int, element_bytes: int) -> Iterator[CacheGroup]:
    """Yield the layers of each kind, those of several groups together."""
    found: dict[object, list[Page]] = {}
    for group in pool.groups:
        for page in group.pages:
            found.setdefault((page.layer, page.tokens, page.bytes), []).append(page)
    for pages in found.values():
        page, layer = pages[0], pages[0].layer
        is_of_tokens = layer.kind not in (CacheKind.STATE, CacheKind.CROSS)
        yield CacheGroup(
            kind=layer.kind,
            layers=len(pages),
            page_tokens=page.tokens,
            page_bytes=page.bytes,
            bytes_per_token=len(pages) * layer.values_per_token(ranks) * element_bytes if is_of_tokens else 0,
            window=layer.window,
            request_bytes=len(pages) * count_blocks(page, length, in_flight) * page.bytes,
        )


def _judge(
    model: ServedModel, options: ServingOptions, gpu: Gpu, count: int, pool: Pool, length: int, weights: Span
) -> EngineVerdict:
    """Return the verdict on one GPU, or on as many of it as there are ranks."""
    seqs, batched = _find_batch(options, gpu, length)
    budget = tuple(_list_budget(model, options, weights, seqs, batched))
    taken = Span(low=sum(item.bytes.low for item in budget), high=sum(item.bytes.high for item in budget))
    free = find_usable_bytes(gpu, find_overhead(gpu).bytes)
    if options.kv_cache_memory_bytes is not None:
        allowed, size = free, options.kv_cache_memory_bytes
        cache = Span(low=size, high=size)
        refusal = _check_room(free, taken, size)
    else:
        allowed = math.ceil(find_usable_bytes(gpu, 0) * (options.gpu_memory_utilization or _UTILIZATION))
        cache = Span(low=max(allowed - taken.high, 0), high=max(allowed - taken.low, 0))
        refusal = _check_start(allowed, free)
    needed = pool.count_blocks(length, 2 * batched)
    low, high = cache.low // pool.block_bytes, cache.high // pool.block_bytes
    outcome, reason = refusal or _decide(options, pool, Span(low=low, high=high), length, 2 * batched)
    return EngineVerdict(
        gpu=gpu.name,
        count=count,
        memory_bytes=gpu.memory_bytes,
        allowed_bytes=allowed,
        budget=budget,
        cache_bytes=cache,
        # As vLLM computes what it logs, in floating point (`get_kv_cache_capacity`).
        tokens=Span(low=int(low / needed * length), high=int(high / needed * length)),
        concurrency_hundredths=Span(low=100 * low // needed, high=100 * high // needed),
        outcome=outcome,
        reason=reason,
    )


def _check_start(allowed: int, free: int) -> tuple[Fit, str] | None:
    """Return why vLLM does not start where more is requested than is free, else None."""
    if allowed <= free:
        return None
    return Fit.NO, (
        f"vLLM refuses to start: {format_bytes(allowed)} are asked for and {format_bytes(free)} are free beside the "
        "CUDA context; lower --gpu-memory-utilization"
    )


def _check_room(free: int, taken: Span, size: int) -> tuple[Fit, str] | None:
    """Return that a cache of given size does not fit beside all else, or that only the machine says so, else None."""
    if taken.low + size > free:
        return Fit.NO, f"the cache that was asked for and the rest need {format_bytes(taken.low + size)} at least"
    if taken.high + size > free:
        return Fit.UNKNOWN, f"the cache that was asked for and the rest may need {format_bytes(taken.high + size)}"
    return None


def _list_budget(
    model: ServedModel, options: ServingOptions, weights: Span, seqs: int, batched: int
) -> Iterator[BudgetItem]:
    """Yield what goes off what is requested of a GPU."""
    yield BudgetItem(what="weights", bytes=weights, source="the parameters as they are loaded")
    if model.rotary.high:
        yield BudgetItem(
            what="rotary tables",
            bytes=Span(low=2 * model.rotary.low, high=4 * model.rotary.high),
            source=f"vllm {RELEASE}, model_executor/layers/rotary_embedding/base.py: of every position",
        )
    rows = seqs * model.vocabulary
    yield BudgetItem(
        what="token counters",
        bytes=Span(low=0, high=4 * rows + 4 * seqs * -(-model.vocabulary // 32)),
        source=f"vllm {RELEASE}, v1/worker/gpu/sample/penalties.py; none in the older model runner",
    )
    hidden = batched * model.hidden_size * 2
    forward = _bound_forward(model, options.tensor_parallel_size or 1, batched)
    yield BudgetItem(
        what="dummy run",
        bytes=Span(
            low=max(_SAMPLER_LEAST * rows + hidden, forward.low),
            high=max(math.ceil(_SAMPLER_MOST * rows) + hidden, forward.high),
        ),
        source=f"vllm {RELEASE}, v1/worker/gpu/model_runner.py: the sampler for {format_count(seqs)} requests, or "
        f"{format_count(batched)} tokens through an MLP",
    )
    yield BudgetItem(what="outside torch", bytes=_OUTSIDE, source="published logs: 0.13 GiB on one rank, 0.55 on two")
    if not options.enforce_eager:
        yield BudgetItem(what="CUDA graphs", bytes=_GRAPHS, source="published logs")


def _bound_forward(model: ServedModel, ranks: int, batched: int) -> Span:
    """Return what the layers hold for so many tokens: at least the inner values of an MLP, at most all of a layer."""
    used = model.experts_per_token or 1
    inner = (model.inner_size or 4 * model.hidden_size) * used // ranks
    spread = model.hidden_size * used if model.experts_per_token else 0
    return Span(
        low=batched * 2 * (inner + model.hidden_size),
        high=batched * 2 * (3 * inner + 2 * spread + 8 * model.hidden_size),
    )


def _decide(options: ServingOptions, pool: Pool, blocks: Span, length: int, in_flight: int) -> tuple[Fit, str]:
    """Return whether vLLM starts with so many blocks, and whether as many requests as were asked for run at once."""
    # One block of the pool is never given out (v1/core/block_pool.py, the null block).
    low, high = max(blocks.low - 1, 0), max(blocks.high - 1, 0)
    needed = pool.count_blocks(length, in_flight)
    size = format_bytes(needed * pool.block_bytes)
    if not high:
        return Fit.NO, "nothing is left for the cache"
    if high < needed:
        longest = _find_longest(pool, high, length, in_flight)
        return Fit.NO, f"one request of {length:,} tokens takes {size}; up to {longest:,} tokens may have room"
    if low < needed:
        longest = _find_longest(pool, low, length, in_flight)
        return Fit.UNKNOWN, (
            f"one request of {length:,} tokens takes {size}, and less than that may be left; {longest:,} tokens "
            "surely fit"
        )
    asked, running = options.max_num_seqs, Span(low=low // needed, high=high // needed)
    if asked is not None and running.low < asked:
        return Fit.TIGHT, describe_waiting(asked, running, length)
    return Fit.YES, describe_room(asked, running, length)


def _find_longest(pool: Pool, blocks: int, length: int, in_flight: int) -> int:
    """Return the longest request that so many blocks hold, shorter than one that they do not."""
    fits, fails = 0, length
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if pool.count_blocks(middle, in_flight) <= blocks:
            fits = middle
        else:
            fails = middle
    return fits


def _list_notes(model: ServedModel, options: ServingOptions) -> Iterator[str]:
    """Yield what the figures leave open."""
    if model.has_tower:
        yield "The dummy run of the image or audio tower is not counted; it makes the cache smaller."
    if (options.tensor_parallel_size or 1) > 2:
        yield "Memory outside torch is known of one and two ranks; more ranks may take more."
    if options.block_size is None and any(layer.kind is CacheKind.LATENT for layer in model.layers):
        yield "Blocks of latent layers have 64 tokens, as FlashMLA's; other attention kernels take 16 to 128."

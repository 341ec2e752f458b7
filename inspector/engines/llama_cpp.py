"""llama.cpp: what a GGUF file takes of a GPU under its server, by buffers as its log names them.

Read in the copy that llama-cpp-python 0.3.36 ships (paths below llama.cpp/):

- weights: the data of each tensor, on CUDA padded to 128 bytes and rows of packed types to 512 elements
  (ggml/src/ggml-cuda/ggml-cuda.cu, `get_alloc_size`). Layers go to the GPU from the last one on, with the output as one
  more; the embedding of tokens stays on the CPU and, where the output is tied to it, is copied
  (src/llama-model.cpp, `load_tensors`).
- cache: `ctx_size`, a multiple of 256, is shared out over `parallel` sequences or, unified, common to them; a layer
  keeps rows of K and of V for each cell (src/llama-kv-cache.cpp), sliding layers `n_swa` x (unified: sequences) +
  `ubatch_size` cells, a multiple of 256 (src/llama-kv-cache-iswa.cpp; older builds: of 32). Recurrent layers keep
  float32 rows for each sequence (src/llama-memory-recurrent.cpp).
- compute buffers come out of ggml's graph allocator, which only running it says: at least the hidden states of a
  micro-batch with the logits of each sequence; at most the logits of all its tokens and all that one layer makes.

Not covered: several GPUs, tensors that are moved by name, projectors, caches with an indexer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inspector.engines.gguf_sizes import CacheBuffer, Sizes, read_sizes
from inspector.errors import UsageError, quoted
from inspector.memory.verdict import find_overhead, find_usable_bytes
from inspector.records.engines.gguf import GgufModel, GgufTensor
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
from inspector.records.notice import Notice
from inspector.source.gguf.types import BY_NAME
from inspector.units import format_bytes

__all__ = ["RELEASE", "count_cells", "count_row_bytes", "find_position_notices", "serve"]

RELEASE = "llama-cpp-python 0.3.36"
_UBATCH = 512
# Where nobody says how many sequences: four, on one unified cache (tools/server/server.cpp).
_PARALLEL = 4
_CELL_PADDING = 256
_CUDA_ALIGNMENT, _ROW_PADDING = 128, 512
_CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")


def count_cells(buffer: CacheBuffer, settings: Mapping[str, Any], padding: int = _CELL_PADDING) -> tuple[int, int]:
    """Return the cells of a layer's cache in each stream, and how many streams there are."""
    parallel, unified = settings["parallel"], settings["kv_unified"]
    context = _pad(settings["ctx_size"], padding)
    streams = 1 if unified else parallel
    cells = context if unified else _pad(context // parallel, padding)
    if buffer.kind is CacheKind.STATE:
        return 1, parallel
    if buffer.window is not None:
        wanted = buffer.window * (parallel if unified else 1) + settings["ubatch_size"]
        cells = _pad(min(cells, wanted), padding)
    return cells, streams


def serve(model: GgufModel, options: ServingOptions, gpus: list[tuple[Gpu, int]]) -> Serving:
    """Return what llama.cpp's server makes of a GGUF file on each of the GPUs.

    Raises UsageError for options that it refuses.
    """
    sizes = read_sizes(model)
    settings = _settle(options, sizes)
    weights = sum(list_weight_bytes(model.tensors, sizes.layers, settings["n_gpu_layers"], on_gpu=True))
    groups = tuple(_describe(sizes, settings))
    cells = settings["ctx_size"] if settings["kv_unified"] else settings["ctx_size"] // settings["parallel"]
    defaults = [name for name in settings if getattr(options, name) is None]
    return Serving(
        engine=Engine.LLAMA_CPP,
        rules_of=RELEASE,
        options=settings,
        defaults=tuple(defaults),
        weights_bytes=Span(low=weights, high=weights),
        bytes_per_token=sum(group.bytes_per_token for group in groups),
        request_bytes=sum(group.request_bytes or 0 for group in groups),
        groups=groups,
        verdicts=tuple(_judge(model, sizes, settings, gpu, count, cells) for gpu, count in gpus),
        notes=tuple(_list_notes(model, sizes, settings)),
    )


def _settle(options: ServingOptions, sizes: Sizes) -> dict[str, Any]:
    """Return the options with what stands in for those that nobody gave."""
    parallel = options.parallel or _PARALLEL
    unified = options.kv_unified if options.kv_unified is not None else options.parallel is None
    context = _pad(options.ctx_size or sizes.length, _CELL_PADDING)
    if not unified:
        context = _pad(context // parallel, _CELL_PADDING) * parallel
    settings: dict[str, Any] = {
        "ctx_size": context,
        "parallel": parallel,
        "kv_unified": unified,
        "ubatch_size": min(options.ubatch_size or _UBATCH, context),
        "n_gpu_layers": sizes.layers + 1 if options.n_gpu_layers is None else options.n_gpu_layers,
        "cache_type_k": _check_cache_type("cache_type_k", options.cache_type_k),
        "cache_type_v": _check_cache_type("cache_type_v", options.cache_type_v),
        "flash_attn": options.flash_attn or "auto",
    }
    settings["n_gpu_layers"] = min(settings["n_gpu_layers"], sizes.layers + 1)
    packed = BY_NAME[settings["cache_type_v"]].block_elements > 1
    if packed and settings["flash_attn"] == "off":
        raise UsageError("`cache_type_v` of a packed type needs flash attention: drop `flash_attn`, or give f16.")
    for buffer in sizes.buffers:
        for name, values in (("cache_type_k", buffer.key_values), ("cache_type_v", buffer.value_values)):
            block = BY_NAME[settings[name]].block_elements
            if buffer.kind is not CacheKind.STATE and values % block:
                raise UsageError(f"`{name}` {settings[name]} packs {block} values, and a row has {values}; give f16.")
    return settings


def _check_cache_type(name: str, value: str | None) -> str:
    """Return the type of the cache."""
    kind = (value or "f16").lower()
    if kind not in _CACHE_TYPES:
        raise UsageError(f"`{name}` {quoted(value, 40)} is no type of a cache; use one of {', '.join(_CACHE_TYPES)}.")
    return kind


def _describe(sizes: Sizes, settings: Mapping[str, Any]) -> Iterator[CacheGroup]:
    """Yield the cache of each kind of layer, wherever it is."""
    for buffer in sizes.buffers:
        row = count_row_bytes(buffer, settings)
        cells, streams = count_cells(buffer, settings)
        is_state = buffer.kind is CacheKind.STATE
        yield CacheGroup(
            kind=buffer.kind,
            layers=len(buffer.layers),
            page_tokens=None if is_state else 1,
            page_bytes=row,
            bytes_per_token=0 if is_state else len(buffer.layers) * row,
            window=buffer.window,
            request_bytes=len(buffer.layers) * cells * streams * row,
        )


def count_row_bytes(buffer: CacheBuffer, settings: Mapping[str, Any]) -> int:
    """Return the bytes of a cell of one layer; of a recurrent one, of a sequence."""
    if buffer.kind is CacheKind.STATE:
        return 4 * (buffer.key_values + buffer.value_values)
    keys, values = BY_NAME[settings["cache_type_k"]], BY_NAME[settings["cache_type_v"]]
    return keys.size(buffer.key_values) + (values.size(buffer.value_values) if buffer.value_values else 0)


def _judge(
    model: GgufModel, sizes: Sizes, settings: Mapping[str, Any], gpu: Gpu, count: int, length: int
) -> EngineVerdict:
    """Return the verdict on one GPU."""
    start = sizes.layers + 1 - settings["n_gpu_layers"]
    weights = sum(list_weight_bytes(model.tensors, sizes.layers, settings["n_gpu_layers"], on_gpu=True))
    cache = 0
    for buffer in sizes.buffers:
        cells, streams = count_cells(buffer, settings)
        cache += sum(layer >= start for layer in buffer.layers) * cells * streams * count_row_bytes(buffer, settings)
    compute = _bound_compute(sizes, settings, length)
    overhead = find_overhead(gpu)
    allowed = find_usable_bytes(gpu, 0)
    budget = (
        BudgetItem(what="weights", bytes=Span(low=weights, high=weights), source="the table of tensors in the file"),
        BudgetItem(what="KV cache", bytes=Span(low=cache, high=cache), source=f"{RELEASE}, src/llama-kv-cache.cpp"),
        BudgetItem(
            what="compute buffers",
            bytes=compute if settings["n_gpu_layers"] else Span(low=0, high=compute.high),
            source="bounds: only ggml's graph allocator says, by running",
        ),
        BudgetItem(what="CUDA context", bytes=Span(low=overhead.bytes, high=overhead.bytes), source=overhead.source),
    )
    least, most = sum(item.bytes.low for item in budget), sum(item.bytes.high for item in budget)
    if most <= allowed:
        outcome, reason = Fit.YES, f"{format_bytes(allowed - most)} to spare at least"
    elif least > allowed:
        step = _advise(model, sizes, least - allowed, settings)
        outcome, reason = Fit.NO, f"at least {format_bytes(least - allowed)} are missing{step}"
    else:
        outcome, reason = Fit.UNKNOWN, "only running it says how large the compute buffers are"
    return EngineVerdict(
        gpu=gpu.name,
        count=count,
        memory_bytes=gpu.memory_bytes,
        allowed_bytes=allowed,
        budget=budget,
        cache_bytes=Span(low=cache, high=cache),
        tokens=Span(low=settings["ctx_size"], high=settings["ctx_size"]),
        outcome=outcome,
        reason=reason,
    )


def _advise(model: GgufModel, sizes: Sizes, missing: int, settings: Mapping[str, Any]) -> str:
    """Say how many layers may fit, by what one of them holds on average."""
    layers = settings["n_gpu_layers"]
    if not layers:
        return ""
    weights = sum(list_weight_bytes(model.tensors, sizes.layers, layers, on_gpu=True))
    each = max(weights // layers, 1)
    fewer = layers - -(-missing // each)
    return f"; try --n-gpu-layers {fewer} or fewer" if fewer > 0 else ""


def _bound_compute(sizes: Sizes, settings: Mapping[str, Any], length: int) -> Span:
    """Return at least and at most how large the compute buffer of the GPU is."""
    tokens, outputs = settings["ubatch_size"], settings["parallel"]
    has_output = settings["n_gpu_layers"] > sizes.layers
    hidden = 4 * tokens * sizes.hidden_size
    least = hidden + (4 * outputs * sizes.vocabulary if has_output else 0)
    logits = 4 * tokens * sizes.vocabulary if has_output else 0
    used = max(sizes.experts_per_token, 1)
    inner = 4 * tokens * used * (3 * sizes.inner_size + (2 * sizes.hidden_size if used > 1 else 0))
    rows = max((buffer.key_values + buffer.value_values for buffer in sizes.buffers), default=0)
    attention = 4 * tokens * (3 * sizes.hidden_size + 2 * rows)
    mask = 6 * length * _pad(tokens, 64)
    # By default every CUDA card from Volta on has a kernel that makes no scores.
    scores = 4 * 2 * sizes.heads * length * tokens if settings["flash_attn"] == "off" else 0
    return Span(low=least, high=4 * hidden + logits + inner + attention + 2 * mask + scores)


def list_weight_bytes(tensors: Sequence[GgufTensor], layers: int, offloaded: int, *, on_gpu: bool) -> Iterator[int]:
    """Yield the bytes of the tensors that are on the GPU, or of those that are not."""
    start = layers + 1 - offloaded
    has_output = any(tensor.name == "output.weight" for tensor in tensors)
    for tensor in tensors:
        layer = _find_layer(tensor.name, layers)
        if (layer is not None and layer >= start) is on_gpu:
            yield _count_buffer_bytes(tensor) if on_gpu else tensor.bytes
        if on_gpu and tensor.name == "token_embd.weight" and not has_output and layers >= start:
            yield _count_buffer_bytes(tensor)


def _find_layer(name: str, layers: int) -> int | None:
    """Return the layer that a tensor belongs to, the number of layers for the output, None for the input."""
    if name.startswith("blk."):
        number = name.split(".", 2)[1]
        return min(int(number), layers) if number.isascii() and number.isdecimal() and len(number) < 6 else None
    return None if name.startswith(("token_embd", "token_types", "position_embd", "per_layer_token_embd")) else layers


def _count_buffer_bytes(tensor: GgufTensor) -> int:
    """Return what a tensor takes of a CUDA buffer."""
    kind = BY_NAME[tensor.type.lower()]
    size, width = tensor.bytes, tensor.shape[0] if tensor.shape else 1
    if kind.block_elements > 1 and width % _ROW_PADDING:
        size += kind.size(_ROW_PADDING - width % _ROW_PADDING)
    return _pad(size, _CUDA_ALIGNMENT)


def find_position_notices(model: GgufModel, serving: Serving) -> Iterator[Notice]:
    """Yield a notice where a sequence may become longer than the model was trained for, which the server lets it."""
    settings, trained = serving.options, read_sizes(model).length
    length = int(settings["ctx_size"]) // (1 if settings["kv_unified"] else int(settings["parallel"]))
    if length > trained:
        message = (
            f"A sequence may become {length:,} tokens long, more than the {trained:,} that the model was trained for."
        )
        yield Notice(code="beyond-positions", message=message)


def _list_notes(model: GgufModel, sizes: Sizes, settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the figures leave open."""
    rest = sum(list_weight_bytes(model.tensors, sizes.layers, settings["n_gpu_layers"], on_gpu=False))
    yield f"{format_bytes(rest)} of weights stay in the memory of the CPU, the embedding of tokens among them."
    if settings["n_gpu_layers"] > sizes.layers:
        yield "Left to itself, llama.cpp takes fewer layers or a shorter context where all do not fit (--fit)."


def _pad(size: int, multiple: int) -> int:
    """Return the next multiple."""
    return -(-size // multiple) * multiple

"""What a serving engine makes of a GPU: its options by its own names, and the cache, the budget and the verdict.

A figure that only the machine decides is a `Span`: at least and at most so many, each with where that is from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inspector.checks import Choice, check_choice, check_count, check_flag, check_number, check_text, describe_value
from inspector.errors import UsageError
from inspector.records.fit import Fit

__all__ = [
    "OPTIONS_OF",
    "BudgetItem",
    "CacheGroup",
    "CacheKind",
    "Engine",
    "EngineVerdict",
    "Serving",
    "ServingOptions",
    "Span",
]


class Engine(Choice):
    """Which engine serves the model.

    VLLM: vLLM. SGLANG: SGLang. LLAMA_CPP: llama.cpp's server, which reads GGUF files.
    """

    VLLM = "vllm"
    SGLANG = "sglang"
    LLAMA_CPP = "llama.cpp"

    @classmethod
    def aliases(cls) -> Mapping[str, str]:
        """Return what else they are called."""
        return {"llama-cpp": "llama.cpp", "llamacpp": "llama.cpp", "llama_cpp": "llama.cpp"}


class CacheKind(Choice):
    """What a layer keeps of the tokens that it has seen.

    FULL: keys and values of all. SLIDING: of the last of them. CHUNKED: of those in the same chunk. LATENT: one latent
    and the rotated part of a key for all heads (MLA). STATE: a state of fixed size. CROSS: keys and values of an
    encoder's output.
    """

    FULL = "full"
    SLIDING = "sliding"
    CHUNKED = "chunked"
    LATENT = "latent"
    STATE = "state"
    CROSS = "cross"


# The options that each engine has, in its own words; `tensor_parallel_size` and `kv_cache_dtype` have the same meaning
# in two of them.
OPTIONS_OF: Mapping[Engine, tuple[str, ...]] = {
    Engine.VLLM: (
        *("max_model_len", "max_num_seqs", "max_num_batched_tokens", "gpu_memory_utilization"),
        *("kv_cache_memory_bytes", "tensor_parallel_size", "kv_cache_dtype", "block_size", "enforce_eager"),
    ),
    Engine.SGLANG: (
        *("context_length", "max_running_requests", "chunked_prefill_size", "mem_fraction_static"),
        *("tensor_parallel_size", "kv_cache_dtype", "page_size"),
    ),
    Engine.LLAMA_CPP: (
        *("ctx_size", "parallel", "ubatch_size", "n_gpu_layers", "cache_type_k", "cache_type_v"),
        *("flash_attn", "kv_unified"),
    ),
}
# What another engine calls the same.
_MEANS = (
    ("max_model_len", "context_length", "ctx_size"),
    ("max_num_seqs", "max_running_requests", "parallel"),
    ("max_num_batched_tokens", "chunked_prefill_size", "ubatch_size"),
    ("gpu_memory_utilization", "mem_fraction_static"),
    ("kv_cache_dtype", "cache_type_k"),
    ("block_size", "page_size"),
)
_COUNTS = (
    *("max_model_len", "max_num_seqs", "max_num_batched_tokens", "tensor_parallel_size", "block_size"),
    *("context_length", "max_running_requests", "chunked_prefill_size", "page_size"),
    *("ctx_size", "parallel", "ubatch_size"),
)
_FRACTIONS = ("gpu_memory_utilization", "mem_fraction_static")
_TEXTS = ("kv_cache_dtype", "cache_type_k", "cache_type_v", "flash_attn")
_FLAGS = ("enforce_eager", "kv_unified")
_FLASH_ATTENTION = ("on", "off", "auto")
# More cards than any engine shards a layer over, and more bytes than any card has.
_MOST_RANKS = 1024
_MOST_BYTES = 2**50


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOptions:
    """How an engine is started, by the names of its own options; None is the engine's default.

    vLLM: `max_model_len`, `max_num_seqs`, `max_num_batched_tokens`, `gpu_memory_utilization`, `kv_cache_memory_bytes`,
    `tensor_parallel_size`, `kv_cache_dtype`, `block_size`, `enforce_eager`. SGLang: `context_length`,
    `max_running_requests`, `chunked_prefill_size`, `mem_fraction_static`, `tensor_parallel_size`, `kv_cache_dtype`,
    `page_size`. llama.cpp: `ctx_size`, `parallel`, `ubatch_size`, `n_gpu_layers`, `cache_type_k`, `cache_type_v`,
    `flash_attn`, `kv_unified`.

    Raises UsageError for an option of another engine and for a value out of its range.
    """

    engine: Engine | str
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    gpu_memory_utilization: float | None = None
    kv_cache_memory_bytes: int | None = None
    tensor_parallel_size: int | None = None
    kv_cache_dtype: str | None = None
    block_size: int | None = None
    enforce_eager: bool | None = None
    context_length: int | None = None
    max_running_requests: int | None = None
    chunked_prefill_size: int | None = None
    mem_fraction_static: float | None = None
    page_size: int | None = None
    ctx_size: int | None = None
    parallel: int | None = None
    ubatch_size: int | None = None
    n_gpu_layers: int | None = None
    cache_type_k: str | None = None
    cache_type_v: str | None = None
    flash_attn: str | None = None
    kv_unified: bool | None = None

    def __post_init__(self) -> None:
        """Check every field; `engine` becomes a member of its enum."""
        engine = check_choice("engine", self.engine, Engine)
        object.__setattr__(self, "engine", engine)
        for name, value in self.given().items():
            if name not in OPTIONS_OF[engine]:
                raise UsageError(_explain_foreign(name, engine))
            if name in _COUNTS:
                object.__setattr__(self, name, check_count(name, value))
            elif name in _FRACTIONS:
                if not 0 < check_number(name, value) <= 1:
                    raise UsageError(f"`{name}` is {describe_value(value)}; give a number above 0 and up to 1.")
            elif name in _TEXTS:
                check_text(name, value, '"auto"')
            elif name in _FLAGS:
                check_flag(name, value)
        if self.n_gpu_layers is not None:
            object.__setattr__(self, "n_gpu_layers", check_count("n_gpu_layers", self.n_gpu_layers, least=0))
        if self.tensor_parallel_size is not None and self.tensor_parallel_size > _MOST_RANKS:
            raise UsageError(f"`tensor_parallel_size` is {self.tensor_parallel_size}; give at most {_MOST_RANKS}.")
        size = self.kv_cache_memory_bytes
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= _MOST_BYTES):
            raise UsageError(f"`kv_cache_memory_bytes` is {describe_value(size)}; give a number of bytes.")
        if self.flash_attn is not None and self.flash_attn not in _FLASH_ATTENTION:
            raise UsageError(f"`flash_attn` is {describe_value(self.flash_attn)}; use {', '.join(_FLASH_ATTENTION)}.")

    def given(self) -> dict[str, Any]:
        """Return the options that are not left to the engine, without the engine itself."""
        names = [item.name for item in dataclasses.fields(self) if item.name != "engine"]
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def _explain_foreign(name: str, engine: Engine) -> str:
    """Say whose option that is, and what the engine at hand calls the same."""
    owner = next(other for other, names in OPTIONS_OF.items() if name in names)
    same = next((names for names in _MEANS if name in names), ())
    own = next((other for other in same if other in OPTIONS_OF[engine]), None)
    step = f"give `{own}`" if own else "drop it"
    return f"`{name}` is an option of {owner}, not of {engine}: {step}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A figure that is at least `low` and at most `high`."""

    low: int
    high: int

    @property
    def is_exact(self) -> bool:
        """Tell whether nothing is left open."""
        return self.low == self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheGroup:
    """Layers that keep the same, as one GPU holds them.

    `page_bytes` is what one layer takes of a page of `page_tokens` tokens, padding included: vLLM's block, SGLang's
    page, llama.cpp's cell; of a state it is the whole state, and `page_tokens` is None. `bytes_per_token` is of all
    layers, 0 for a state; `window` is how many tokens a layer looks back. `request_bytes` is the most that one request
    of the whole length holds in these layers, None where the engine reserves no pages by request.
    """

    kind: CacheKind
    layers: int
    page_tokens: int | None
    page_bytes: int
    bytes_per_token: int
    window: int | None = None
    request_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetItem:
    """What one GPU holds beside the cache: at least and at most so many bytes, and where that is from."""

    what: str
    bytes: Span
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineAdvice:
    """A change of the engine's options, or of the checkpoint, with which it serves all that was asked for, and how."""

    change: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineVerdict:
    """Whether the engine serves the model on a GPU, or on several of a kind.

    `allowed_bytes` is what the engine takes of one GPU at most, `budget` what goes off it, `cache_bytes` what remains
    for the cache (llama.cpp: what the cache takes). `tokens` are those that the cache holds, `concurrency` how many
    requests of the whole length at once, in hundredths and rounded down. `outcome` is NO where one request of the whole
    length is too long even with the most that may remain, UNKNOWN where only the machine decides it, TIGHT where fewer
    such requests than asked for are served at once, the others waiting. `reason` says so in a sentence. `advice` are
    changes with which it is a sure yes, None where none were looked for.
    """

    gpu: str
    count: int
    memory_bytes: int
    allowed_bytes: int
    budget: Sequence[BudgetItem]
    cache_bytes: Span | None = None
    tokens: Span | None = None
    concurrency_hundredths: Span | None = None
    outcome: Fit
    reason: str
    advice: Sequence[EngineAdvice] | None = None

    @property
    def fits(self) -> bool | None:
        """Tell whether it is served, None where only the machine decides it."""
        return None if self.outcome is Fit.UNKNOWN else self.outcome is not Fit.NO


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The model under an engine: the cache by what its layers keep, and the verdict on each GPU.

    `rules_of` is the release that the rules were read from. `options` are the engine's own, with what stands in for
    those that nobody gave; `defaults` are their names. `bytes_per_token` is of all layers of one GPU while no window is
    full, `request_bytes` what one request of the whole length holds there, with `weights_bytes` of one GPU.
    `verdicts` is empty where no rule says what the engine leaves of a GPU; `notes` are sentences.
    """

    engine: Engine
    rules_of: str
    options: Mapping[str, Any]
    defaults: Sequence[str] = ()
    weights_bytes: Span
    bytes_per_token: int
    request_bytes: int
    groups: Sequence[CacheGroup]
    verdicts: Sequence[EngineVerdict] = ()
    notes: Sequence[str] = ()

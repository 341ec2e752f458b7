"""How one training step runs."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "Recipe",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one training step runs; names and defaults follow transformers' TrainingArguments.

    `batch_size` rows of `seq_len` tokens are one micro-batch; `gradient_accumulation` of them make an update. `seq_len`
    is None in the recipe of a traced step whose model takes no tokens. `optimizer` is a name of transformers' `optim`
    that `inspector.records.optimizer_names` knows, `optim_args` its arguments as `key=value,key=value`. `max_grad_norm`
    0 turns clipping off. `padding` says whether the batch has padded rows (an attention mask then exists); None means
    padded when the batch is larger than 1. `loop` is whose step runs: "trainer" (transformers.Trainer) or "plain" (a
    bare PyTorch loop). `attention` is sdpa, eager or flash_attention_2, `sdpa_backend` which fused kernel: auto, flash,
    efficient, cudnn or math.

    `mixed_precision` is no, bf16 or fp16: autocast, and for fp16 a scaled loss, as TrainingArguments(bf16=, fp16=).
    `use_reentrant` is the key of gradient_checkpointing_kwargs. `use_cache` says whether the forward pass fills a KV
    cache; None is what Trainer does, which is off. `alloc_conf` holds settings of the caching allocator as
    PYTORCH_CUDA_ALLOC_CONF has them; None is what that variable says.
    """

    batch_size: int = 1
    seq_len: int | None = 1024
    gradient_accumulation: int = 1
    mixed_precision: str = "no"
    optimizer: str = "adamw_torch"
    optim_args: str | None = None
    gradient_checkpointing: bool = False
    use_reentrant: bool = False
    max_grad_norm: float = 1.0
    padding: bool | None = None
    loop: str = "trainer"
    attention: str = "sdpa"
    sdpa_backend: str = "auto"
    use_cache: bool | None = None
    alloc_conf: str | None = None

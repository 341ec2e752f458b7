"""How one training step runs."""

from __future__ import annotations

from dataclasses import dataclass

from inspector.records.checks import Choice, check_choice, check_count, check_flag, check_number, check_text
from inspector.records.optimizer_names import OptimizerName, check_optimizer_name

__all__ = [
    "Attention",
    "Loop",
    "Precision",
    "Recipe",
    "SdpaBackend",
]


class Loop(Choice):
    """Whose training step runs.

    TRAINER: transformers.Trainer's, with what accelerate puts around model and optimizer.
    PLAIN: a bare PyTorch loop: forward, backward, clip, step, `zero_grad`.
    """

    TRAINER = "trainer"
    PLAIN = "plain"


class Attention(Choice):
    """The attention implementation, by the names of transformers' `attn_implementation`.

    SDPA: torch's scaled_dot_product_attention.
    EAGER: the model's own matrix products, which keep the matrix of all scores.
    FLASH_ATTENTION_2: the package flash-attn; a trace does not need it.
    """

    SDPA = "sdpa"
    EAGER = "eager"
    FLASH_ATTENTION_2 = "flash_attention_2"


class SdpaBackend(Choice):
    """The kernel of scaled_dot_product_attention.

    AUTO: the one that CUDA chooses for the GPU, the dtype, the mask and the size of heads.
    FLASH: flash attention. EFFICIENT: memory-efficient attention. CUDNN: cuDNN's. MATH: products and a softmax.
    """

    AUTO = "auto"
    FLASH = "flash"
    EFFICIENT = "efficient"
    CUDNN = "cudnn"
    MATH = "math"


class Precision(Choice):
    """Mixed precision, by accelerate's names: what autocast computes in.

    NO: no autocast. BF16: TrainingArguments(bf16=True). FP16: TrainingArguments(fp16=True), which scales the loss.
    """

    NO = "no"
    BF16 = "bf16"
    FP16 = "fp16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one training step runs; names and defaults follow transformers' TrainingArguments.

    `batch_size` sequences of `seq_len` tokens are one micro-batch; `gradient_accumulation` of them make an update.
    `seq_len` is None in the recipe of a traced step whose model takes no tokens. `optimizer` is a name of transformers'
    `optim` that `OptimizerName` has, `optim_args` its arguments as `key=value,key=value`. `max_grad_norm` 0 turns
    clipping off. `padding` says whether the batch has padded sequences (an attention mask then exists); None means
    padded when the batch is larger than 1.

    `attention` None is what transformers takes by itself: sdpa where the model's class has it, eager elsewhere.
    `use_reentrant` is the key of gradient_checkpointing_kwargs. `use_cache` says whether the forward pass fills a KV
    cache; None is what Trainer does, which is off. `alloc_conf` holds settings of the caching allocator as
    PYTORCH_CUDA_ALLOC_CONF has them; None is what that variable says.

    Choices may be given as text and are members of their enums afterwards. Raises UsageError where a field is not of
    its type, out of its range or none of its choices.
    """

    batch_size: int = 1
    seq_len: int | None = 1024
    gradient_accumulation: int = 1
    mixed_precision: Precision | str = Precision.NO
    optimizer: OptimizerName | str = OptimizerName.ADAMW_TORCH
    optim_args: str | None = None
    gradient_checkpointing: bool = False
    use_reentrant: bool = False
    max_grad_norm: float = 1.0
    padding: bool | None = None
    loop: Loop | str = Loop.TRAINER
    attention: Attention | str | None = None
    sdpa_backend: SdpaBackend | str = SdpaBackend.AUTO
    use_cache: bool | None = None
    alloc_conf: str | None = None

    def __post_init__(self) -> None:
        """Check every field; choices become members of their enums."""
        checked: dict[str, object] = {
            "batch_size": check_count("batch_size", self.batch_size),
            "gradient_accumulation": check_count("gradient_accumulation", self.gradient_accumulation),
            "mixed_precision": check_choice("mixed_precision", self.mixed_precision, Precision),
            "optimizer": check_optimizer_name(self.optimizer),
            "gradient_checkpointing": check_flag("gradient_checkpointing", self.gradient_checkpointing),
            "use_reentrant": check_flag("use_reentrant", self.use_reentrant),
            "max_grad_norm": check_number("max_grad_norm", self.max_grad_norm),
            "loop": check_choice("loop", self.loop, Loop),
            "sdpa_backend": check_choice("sdpa_backend", self.sdpa_backend, SdpaBackend),
        }
        if self.attention is not None:
            checked["attention"] = check_choice("attention", self.attention, Attention)
        if self.seq_len is not None:
            checked["seq_len"] = check_count("seq_len", self.seq_len)
        if self.optim_args is not None:
            check_text("optim_args", self.optim_args, "momentum=0.9")
        if self.padding is not None:
            check_flag("padding", self.padding)
        if self.use_cache is not None:
            check_flag("use_cache", self.use_cache)
        if self.alloc_conf is not None:
            check_text("alloc_conf", self.alloc_conf, "expandable_segments:True")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

"""How one training step runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from inspector.checks import Choice, check_choice, check_count, check_flag, check_number, check_text, to_plain_text
from inspector.errors import UsageError, quoted

__all__ = [
    "DEFAULT",
    "FAMILIES",
    "OF_OTHER_PACKAGES",
    "OPTIMIZERS",
    "Attention",
    "CacheKind",
    "Generation",
    "Loop",
    "OptimizerName",
    "Precision",
    "Recipe",
    "SdpaBackend",
    "check_optimizer_name",
    "parse_optim_args",
]


class OptimizerName(Choice):
    """An optimizer by the name of transformers' `TrainingArguments.optim`.

    ADAMW_TORCH, ADAMW_TORCH_FUSED, SGD, ADAGRAD, RMSPROP: torch's classes, the first with its foreach kernels.
    ADAFACTOR: transformers' class.
    All others: the optimizers of bitsandbytes. 8BIT and 32BIT are the bits of an element of their state, 32 where the
    name says neither; PAGED ones keep it in managed memory. ADAMW_BNB_8BIT is another name of ADAMW_8BIT.
    """

    ADAMW_TORCH = "adamw_torch"
    ADAMW_TORCH_FUSED = "adamw_torch_fused"
    SGD = "sgd"
    ADAGRAD = "adagrad"
    RMSPROP = "rmsprop"
    ADAFACTOR = "adafactor"
    ADAMW_8BIT = "adamw_8bit"
    ADAMW_BNB_8BIT = "adamw_bnb_8bit"
    PAGED_ADAMW_32BIT = "paged_adamw_32bit"
    PAGED_ADAMW_8BIT = "paged_adamw_8bit"
    LION_32BIT = "lion_32bit"
    LION_8BIT = "lion_8bit"
    PAGED_LION_32BIT = "paged_lion_32bit"
    PAGED_LION_8BIT = "paged_lion_8bit"
    ADEMAMIX = "ademamix"
    ADEMAMIX_8BIT = "ademamix_8bit"
    PAGED_ADEMAMIX_32BIT = "paged_ademamix_32bit"
    PAGED_ADEMAMIX_8BIT = "paged_ademamix_8bit"
    RMSPROP_BNB = "rmsprop_bnb"
    RMSPROP_BNB_8BIT = "rmsprop_bnb_8bit"
    RMSPROP_BNB_32BIT = "rmsprop_bnb_32bit"


# TrainingArguments.optim with torch 2.8 and newer (transformers/training_args.py, `default_optim`).
DEFAULT = OptimizerName.ADAMW_TORCH_FUSED.value
OPTIMIZERS = OptimizerName.values()
_OF_TORCH = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop")
_OF_TRANSFORMERS = ("adafactor",)
# Where the class comes from -> the names.
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "torch": _OF_TORCH,
    "transformers": _OF_TRANSFORMERS,
    "bitsandbytes": tuple(name for name in OPTIMIZERS if name not in (*_OF_TORCH, *_OF_TRANSFORMERS)),
}
# What else transformers 5.23 names (training_args.py, OptimizerNames), and the package that each comes from.
OF_OTHER_PACKAGES: Mapping[str, str] = {
    "adamw_torch_xla": "torch_xla",
    "adamw_torch_npu_fused": "torch_npu",
    "adamw_anyprecision": "torchdistx",
    "adamw_torch_4bit": "torchao",
    "adamw_torch_8bit": "torchao",
    "galore_adamw": "galore_torch",
    "galore_adamw_8bit": "galore_torch",
    "galore_adafactor": "galore_torch",
    "galore_adamw_layerwise": "galore_torch",
    "galore_adamw_8bit_layerwise": "galore_torch",
    "galore_adafactor_layerwise": "galore_torch",
    "lomo": "lomo_optim",
    "adalomo": "lomo_optim",
    "grokadamw": "grokadamw",
    "schedule_free_radam": "schedulefree",
    "schedule_free_adamw": "schedulefree",
    "schedule_free_sgd": "schedulefree",
    "apollo_adamw": "apollo_torch",
    "apollo_adamw_layerwise": "apollo_torch",
    "stable_adamw": "torch-optimi",
}


def _parse_flag(text: str) -> bool:
    """Read a flag as transformers does (trainer_optimizer.py, _get_sgd)."""
    return text.lower() in ("true", "1", "yes")


_Readers = Mapping[str, Callable[[str], object]]
_ADEMAMIX: _Readers = {
    **dict.fromkeys(("beta1", "beta2", "beta3", "alpha", "eps"), float),
    **dict.fromkeys(("t_alpha", "t_beta3"), int),
}
# The keys that the handler of an optimizer reads (trainer_optimizer.py, 5.23). `foreach` is torch's own argument, which
# a Trainer takes through `optimizer_cls_and_kwargs`: with foreach=False torch updates one tensor after the other.
_ARGUMENTS: Mapping[str, _Readers] = {
    "adamw_torch": {"foreach": _parse_flag},
    "sgd": {
        **dict.fromkeys(("momentum", "dampening", "weight_decay"), float),
        **dict.fromkeys(("nesterov", "foreach"), _parse_flag),
    },
    "adagrad": {**dict.fromkeys(("lr_decay", "weight_decay", "eps"), float), "foreach": _parse_flag},
    "rmsprop": {
        **dict.fromkeys(("momentum", "alpha", "eps", "weight_decay"), float),
        **dict.fromkeys(("centered", "foreach"), _parse_flag),
    },
    **{name: _ADEMAMIX for name in FAMILIES["bitsandbytes"] if "ademamix" in name},
}


def check_optimizer_name(name: object) -> OptimizerName:
    """Return the optimizer of a name that is known here, or raise UsageError with what was probably meant."""
    if isinstance(name, str) and (package := OF_OTHER_PACKAGES.get(name)) is not None:
        known = ", ".join(OPTIMIZERS)
        raise UsageError(
            f"`optimizer` {to_plain_text(name)} is of the package {package}, not known here; use one of {known}."
        )
    if name == "adam":  # which is as near to ademamix; transformers has AdamW alone
        others = ", ".join(OPTIMIZERS)
        raise UsageError(f"`optimizer` adam is not known; did you mean {DEFAULT}? If not, use one of {others}.")
    return check_choice("optimizer", name, OptimizerName)


def parse_optim_args(name: str, text: str | None) -> dict[str, object]:
    """Read `key=value,key=value`, transformers' `optim_args`, for the optimizer of a name."""
    readers = _ARGUMENTS.get(name, {})
    values: dict[str, object] = {}
    for piece in text.split(",") if text is not None else ():
        key, separator, value = (part.strip() for part in piece.partition("="))
        if not separator:
            raise UsageError(f"`optim_args`: {quoted(key)} is not a setting; write key=value, as in momentum=0.9.")
        if key not in readers:
            takes = f"use {', '.join(readers)}" if readers else "drop it"
            raise UsageError(f"`optim_args`: {name} has no argument {quoted(key)}; {takes}.")
        try:
            values[key] = readers[key](value)
        except ValueError as error:
            raise UsageError(
                f"`optim_args`: {key}={quoted(value)} is not a number; write one, as in {key}=0.9."
            ) from error
    return values


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

    @classmethod
    def aliases(cls) -> Mapping[str, str]:
        """Return torch's names of the dtypes."""
        return {"bfloat16": "bf16", "float16": "fp16"}


class CacheKind(Choice):
    """What generation keeps of the tokens so far, by transformers' names.

    DYNAMIC: keys and values of each layer, which grow with each token, or its states (DynamicCache).
    STATIC: as many rows as there will be tokens, from the start (StaticCache), without the compilation that
    transformers switches on for it. FP8: float8 with a scale a tensor (QuantizedCache, its backend fp8).
    NONE: nothing, so that each token computes all before it again.
    """

    DYNAMIC = "dynamic"
    STATIC = "static"
    FP8 = "fp8"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one training step runs; names and defaults follow transformers' TrainingArguments.

    `batch_size` sequences of `seq_len` tokens are one micro-batch; `gradient_accumulation` of them make an update.
    `seq_len` is None in the recipe of a traced step whose model takes no tokens. `optimizer` is a name of transformers'
    `optim` that `OptimizerName` has, `optim_args` its arguments as `key=value,key=value`. `max_grad_norm` 0 turns
    clipping off. `padding` says whether the batch has padded sequences (an attention mask then exists); None means
    padded when the batch is larger than 1.

    `attention` None is what transformers takes by itself: sdpa where the model's class has it, eager elsewhere.
    `gradient_checkpointing` None is what a Trainer finds: on and reentrant where PEFT's
    `prepare_model_for_kbit_training` has prepared packed weights, which switches it on and which no Trainer switches
    off, else off. `use_reentrant` is the key of gradient_checkpointing_kwargs, None what the library that switches
    checkpointing on takes. `use_cache` says whether the forward pass fills a KV cache; None is what Trainer does, which
    is off. `alloc_conf` holds settings of the caching allocator as PYTORCH_CUDA_ALLOC_CONF has them; None is what that
    variable says.

    Generation alone reads the rest: `new_tokens` tokens follow a prompt of `prompt_len`, and `cache` is what it keeps
    of all of them. `prefill_chunk_size` is GenerationConfig's: the prompt goes through the model in pieces of so many
    tokens.

    Choices may be given as text and are members of their enums afterwards. Raises UsageError where a field is not of
    its type, out of its range or none of its choices.
    """

    batch_size: int = 1
    seq_len: int | None = 1024
    gradient_accumulation: int = 1
    mixed_precision: Precision | str = Precision.NO
    optimizer: OptimizerName | str = OptimizerName.ADAMW_TORCH_FUSED
    optim_args: str | None = None
    gradient_checkpointing: bool | None = None
    use_reentrant: bool | None = None
    max_grad_norm: float = 1.0
    padding: bool | None = None
    loop: Loop | str = Loop.TRAINER
    attention: Attention | str | None = None
    sdpa_backend: SdpaBackend | str = SdpaBackend.AUTO
    use_cache: bool | None = None
    alloc_conf: str | None = None
    prompt_len: int = 1024
    new_tokens: int = 256
    cache: CacheKind | str = CacheKind.DYNAMIC
    prefill_chunk_size: int | None = None

    def __post_init__(self) -> None:
        """Check every field; choices become members of their enums."""
        checked: dict[str, object] = {
            "batch_size": check_count("batch_size", self.batch_size),
            "gradient_accumulation": check_count("gradient_accumulation", self.gradient_accumulation),
            "mixed_precision": check_choice("mixed_precision", self.mixed_precision, Precision),
            "optimizer": check_optimizer_name(self.optimizer),
            "max_grad_norm": check_number("max_grad_norm", self.max_grad_norm),
            "loop": check_choice("loop", self.loop, Loop),
            "sdpa_backend": check_choice("sdpa_backend", self.sdpa_backend, SdpaBackend),
            "prompt_len": check_count("prompt_len", self.prompt_len),
            "new_tokens": check_count("new_tokens", self.new_tokens),
            "cache": check_choice("cache", self.cache, CacheKind),
        }
        if self.attention is not None:
            checked["attention"] = check_choice("attention", self.attention, Attention)
        if self.seq_len is not None:
            checked["seq_len"] = check_count("seq_len", self.seq_len)
        if self.prefill_chunk_size is not None:
            checked["prefill_chunk_size"] = check_count("prefill_chunk_size", self.prefill_chunk_size)
        if self.optim_args is not None:
            check_text("optim_args", self.optim_args, "momentum=0.9")
        for name in ("gradient_checkpointing", "use_reentrant", "padding", "use_cache"):
            if getattr(self, name) is not None:
                check_flag(name, getattr(self, name))
        if self.alloc_conf is not None:
            check_text("alloc_conf", self.alloc_conf, "expandable_segments:True")
        for name, value in checked.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """How text is generated: the fields of a `Recipe` that mean something to it, with their meaning and defaults there.

    `batch_size` prompts of `prompt_len` tokens are continued by `new_tokens`.
    """

    batch_size: int = 1
    prompt_len: int = 1024
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

"""How one training step runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from inspector.checks import (
    Choice,
    check_choice,
    check_count,
    check_flag,
    check_names,
    check_number,
    check_text,
    to_plain_text,
)
from inspector.errors import UsageError, quoted
from inspector.records.losses import LossName
from inspector.records.rows import lay_out_documents
from inspector.records.stages import Reference, Stage, check_stage

__all__ = [
    "DEFAULT",
    "FAMILIES",
    "OF_OTHER_PACKAGES",
    "OPTIMIZERS",
    "Attention",
    "Kept",
    "Loop",
    "Offload",
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
    SCHEDULE_FREE_ADAMW, SCHEDULE_FREE_SGD, SCHEDULE_FREE_RADAM: schedulefree's. STABLE_ADAMW: torch-optimi's.
    MUON: LLaMA-Factory's and axolotl's, which transformers has no name for.
    All others: the optimizers of bitsandbytes. 8BIT and 32BIT are the bits of an element of their state, 32 where the
    name says neither; PAGED ones keep it in managed memory. ADAMW_BNB_8BIT is another name of ADAMW_8BIT.
    """

    ADAMW_TORCH = "adamw_torch"
    ADAMW_TORCH_FUSED = "adamw_torch_fused"
    SGD = "sgd"
    ADAGRAD = "adagrad"
    RMSPROP = "rmsprop"
    ADAFACTOR = "adafactor"
    SCHEDULE_FREE_ADAMW = "schedule_free_adamw"
    SCHEDULE_FREE_SGD = "schedule_free_sgd"
    SCHEDULE_FREE_RADAM = "schedule_free_radam"
    STABLE_ADAMW = "stable_adamw"
    MUON = "muon"
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
_SCHEDULE_FREE = ("schedule_free_adamw", "schedule_free_sgd", "schedule_free_radam")
_WRITTEN_AFTER = (*_SCHEDULE_FREE, "stable_adamw", "muon")
# Where the class comes from -> the names.
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "torch": _OF_TORCH,
    "transformers": _OF_TRANSFORMERS,
    "schedulefree": _SCHEDULE_FREE,
    "torch-optimi": ("stable_adamw",),
    "frameworks": ("muon",),
    "bitsandbytes": tuple(name for name in OPTIMIZERS if name not in (*_OF_TORCH, *_OF_TRANSFORMERS, *_WRITTEN_AFTER)),
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
    "apollo_adamw": "apollo_torch",
    "apollo_adamw_layerwise": "apollo_torch",
}


def _parse_flag(text: str) -> bool:
    """Read a flag as transformers does (trainer_optimizer.py, _get_sgd)."""
    return text.lower() in ("true", "1", "yes")


def _parse_set(text: str) -> bool:
    """Read a flag that any text but none sets, as transformers does (`bool` of it)."""
    return bool(text)


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
    # What they change is the average and the rate, which no memory follows from.
    **{name: {"weight_lr_power": float, "r": float} for name in _SCHEDULE_FREE},
    "stable_adamw": {"max_lr": float, "decouple_lr": _parse_set, "kahan_sum": _parse_set},
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


class Kept(Choice):
    """What a checkpointed block keeps beside its input, and does not compute again.

    ATTENTION: the output of the fused attention kernel, as TRL's `gradient_checkpointing_kwargs={"selective": True}`.
    """

    ATTENTION = "attention"


class Offload(Choice):
    """What of the forward pass waits for the backward pass in host memory.

    NONE: nothing. CHECKPOINTS: the inputs of checkpointed blocks, as gradient_checkpointing_kwargs={"offload": True} of
    transformers and Unsloth's checkpoints. ACTIVATIONS: whatever autograd saves, as TRL's `activation_offloading`.
    """

    NONE = "none"
    CHECKPOINTS = "checkpoints"
    ACTIVATIONS = "activations"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one training step runs; names and defaults follow transformers' TrainingArguments.

    `batch_size` sequences of `seq_len` tokens are one micro-batch; `gradient_accumulation` of them make an update.
    `seq_len` is None in the recipe of a traced step whose model takes no tokens. `optimizer` is a name of transformers'
    `optim` that `OptimizerName` has, `optim_args` its arguments as `key=value,key=value`. `max_grad_norm` 0 turns
    clipping off. `padding` says whether the batch has padded sequences (an attention mask then exists); None means
    padded when the batch is larger than 1. `attention_mask` says whether the batch has a mask where nothing is padded,
    as collators that pad with a tokenizer send it; None means that it has none. `loss` is what makes the loss of a
    causal language model.

    `stage` is whose step runs (`records.stages`), None supervised training; `reference` its reference, None the one
    that it takes by itself. In stages with a prompt `prompt_len` of the `seq_len` tokens of a row are the prompt and
    the rest is the answer: None leaves the prompt one token, in GRPO half of the row. `completion_len` says the same
    from the other side; both together say how long a row is. `num_generations` are GRPO's answers to a prompt.
    `vllm_share` is the part of the card that vLLM takes in the same process, None where it has none.

    `packing` is how many documents share a sequence; all sequences of a micro-batch then are one row without padding.
    As text it may say how long each is: "4x1024" is 4 documents in a `seq_len` of 4,096.

    `attention` None is what transformers takes by itself: sdpa where the model's class has it, eager elsewhere.
    `gradient_checkpointing` None is what a Trainer finds: on and reentrant where PEFT's
    `prepare_model_for_kbit_training` has prepared packed weights, which switches it on and which no Trainer switches
    off, else off. `use_reentrant` is the key of gradient_checkpointing_kwargs, None what the library that switches
    checkpointing on takes. `checkpoint_every` is its key `every_n_layers`: one block in so many is checkpointed, None
    all; `checkpoint_keeps` is what such a block does not compute again. `offload` is what waits in host memory.
    `neftune` is transformers' `neftune_noise_alpha`. `train_only` are regular expressions of the names of parameters
    that train, or `last=2` for layers, None all; `add_tokens` are rows that the tables of tokens gain. `use_cache` says
    whether the forward pass fills a KV cache; None is what Trainer does, which is off. `alloc_conf` holds settings of
    the caching allocator as PYTORCH_CUDA_ALLOC_CONF has them; None is what that variable says.

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
    checkpoint_every: int | None = None
    checkpoint_keeps: Kept | str | None = None
    offload: Offload | str = Offload.NONE
    neftune: float | None = None
    train_only: str | Sequence[str] | None = None
    add_tokens: int | None = None
    max_grad_norm: float = 1.0
    padding: bool | None = None
    attention_mask: bool | None = None
    loss: LossName | str = LossName.STOCK
    packing: int | str | None = None
    loop: Loop | str = Loop.TRAINER
    attention: Attention | str | None = None
    sdpa_backend: SdpaBackend | str = SdpaBackend.AUTO
    use_cache: bool | None = None
    alloc_conf: str | None = None
    stage: Stage | str | None = None
    reference: Reference | str | None = None
    prompt_len: int | None = None
    completion_len: int | None = None
    num_generations: int | None = None
    vllm_share: float | None = None

    def __post_init__(self) -> None:
        """Check every field; choices become members of their enums."""
        checked: dict[str, object] = {
            "batch_size": check_count("batch_size", self.batch_size),
            "gradient_accumulation": check_count("gradient_accumulation", self.gradient_accumulation),
            "mixed_precision": check_choice("mixed_precision", self.mixed_precision, Precision),
            "optimizer": check_optimizer_name(self.optimizer),
            "max_grad_norm": check_number("max_grad_norm", self.max_grad_norm),
            "loop": check_choice("loop", self.loop, Loop),
            "loss": check_choice("loss", self.loss, LossName),
            "offload": check_choice("offload", self.offload, Offload),
            "sdpa_backend": check_choice("sdpa_backend", self.sdpa_backend, SdpaBackend),
        }
        if self.attention is not None:
            checked["attention"] = check_choice("attention", self.attention, Attention)
        if self.checkpoint_every is not None:
            checked["checkpoint_every"] = check_count("checkpoint_every", self.checkpoint_every)
        if self.checkpoint_keeps is not None:
            checked["checkpoint_keeps"] = check_choice("checkpoint_keeps", self.checkpoint_keeps, Kept)
        if self.train_only is not None:
            named = (self.train_only,) if isinstance(self.train_only, str) else self.train_only
            checked["train_only"] = check_names("train_only", named, '"lm_head", "last=2"')
        if self.add_tokens is not None:
            checked["add_tokens"] = check_count("add_tokens", self.add_tokens)
        if self.neftune is not None:
            checked["neftune"] = check_number("neftune", self.neftune)
        if self.seq_len is not None:
            checked["seq_len"] = check_count("seq_len", self.seq_len)
        checked |= check_stage(
            self.stage,
            reference=self.reference,
            prompt_len=self.prompt_len,
            completion_len=self.completion_len,
            num_generations=self.num_generations,
            vllm_share=self.vllm_share,
        )
        if self.packing is not None:
            checked |= lay_out_documents(self.packing, self.seq_len, self.padding)
        if self.optim_args is not None:
            check_text("optim_args", self.optim_args, "momentum=0.9")
        for name in ("gradient_checkpointing", "use_reentrant", "padding", "attention_mask", "use_cache"):
            if getattr(self, name) is not None:
                check_flag(name, getattr(self, name))
        if self.alloc_conf is not None:
            check_text("alloc_conf", self.alloc_conf, "expandable_segments:True")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

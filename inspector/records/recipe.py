"""How one training step runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inspector.checks import (
    Choice,
    check_choice,
    check_count,
    check_flag,
    check_names,
    check_number,
    check_text,
)
from inspector.records.steps.decoding import check_decoding
from inspector.records.steps.kernels import Kernels
from inspector.records.steps.losses import LigerKernel, LoraKernel, LossName, check_liger, check_lora_kernels
from inspector.records.steps.media import check_media
from inspector.records.steps.optimizers import OptimizerName, check_optimizer_name
from inspector.records.steps.rows import lay_out_documents
from inspector.records.steps.stages import Reference, Stage, check_stage

__all__ = [
    "AdapterState",
    "Attention",
    "CacheKind",
    "Generation",
    "Kept",
    "Kernels",
    "Loop",
    "Offload",
    "Precision",
    "Recipe",
    "SdpaBackend",
    "find_prompt_len",
]

# The tokens of a generation's prompt where nothing says how many.
_PROMPT_LEN = 1024


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

    @classmethod
    def unclear_names(cls) -> Mapping[str, str]:
        """Return names of a dtype in which nothing is autocast."""
        return {name: f"{name} is no autocast; give no" for name in ("fp32", "float32", "none", "off", "false", "None")}


class Kept(Choice):
    """What a checkpointed block keeps beside its input, and does not compute again.

    ATTENTION: the output of the fused attention kernel, as TRL's `gradient_checkpointing_kwargs={"selective": True}`.
    """

    ATTENTION = "attention"


class Offload(Choice):
    """What of the forward pass waits for the backward pass in host memory.

    NONE: nothing, which a recipe keeps as None. CHECKPOINTS: the inputs of checkpointed blocks, as
    gradient_checkpointing_kwargs={"offload": True} of transformers and Unsloth's checkpoints. ACTIVATIONS: whatever
    autograd saves, as TRL's `activation_offloading`.
    """

    NONE = "none"
    CHECKPOINTS = "checkpoints"
    ACTIVATIONS = "activations"


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


class AdapterState(Choice):
    """What becomes of an adapter before it generates.

    UNMERGED: it runs beside its layers. MERGED: PEFT's merge_and_unload adds it to the weights, on the GPU.
    """

    UNMERGED = "unmerged"
    MERGED = "merged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one training step runs; names and defaults follow transformers' TrainingArguments.

    `batch_size` sequences of `seq_len` tokens are one micro-batch; `gradient_accumulation` of them make an update.
    `seq_len` is None in the recipe of a traced step whose model takes no tokens. `optimizer` is a name of transformers'
    `optim` that `OptimizerName` has, `optim_args` its arguments as `key=value,key=value`. `max_grad_norm` 0 turns
    clipping off. `padding` says whether the batch has padded sequences (an attention mask then exists); None means
    padded when the batch is larger than 1. `attention_mask` says whether the batch has a mask where nothing is padded,
    as collators that pad with a tokenizer send it; None means that it has none. `loss` is what makes the loss of a
    causal language model, `liger` are the kernels of Liger in its layers, `lora_kernels` axolotl's fused ones of layers
    with LoRA, None for none.

    `stage` is whose step runs (`records.steps.stages`), None supervised training; `reference` its reference, None the
    one that it takes by itself. In stages with a prompt `prompt_len` of the `seq_len` tokens of a row are the prompt
    and the rest is the answer: None leaves the prompt one token, in GRPO half of the row. `completion_len` says the
    same from the other side; both together say how long a row is. `num_generations` are GRPO's answers to a prompt.
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

    `images` are the images of each row, None one where the model takes them and the workload gives them, 0 text alone;
    `image_size` is their width and height as "640x480" before the processor resizes them, `audio_seconds` how long the
    sound of a row is where the model takes sound. None is what is assumed (`records.steps.media`). `videos` stand in a
    row in place of images. `frames` are those of a video, `labels` what a classifier tells apart, None as the
    configuration says, or the processor. `kernels` says which code runs
    layers of state spaces and linear attention, None what a plain install has, which is torch.

    A generation reads `prompt_len` as the tokens of its prompt, None 1,024, and alone reads the rest: `new_tokens`
    follow the prompt, and `cache` is what it keeps of all of them. `prefill_chunk_size` is GenerationConfig's: the
    prompt goes through the model in pieces of so many tokens. `generation` are other fields of GenerationConfig, which
    say how a token is chosen: they go before those that the model's generation_config.json has. `adapter` says whether
    an adapter is merged into its base first.

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
    offload: Offload | str | None = None
    neftune: float | None = None
    train_only: str | Sequence[str] | None = None
    add_tokens: int | None = None
    max_grad_norm: float = 1.0
    padding: bool | None = None
    attention_mask: bool | None = None
    loss: LossName | str = LossName.STOCK
    liger: Sequence[LigerKernel | str] | str | None = None
    lora_kernels: Sequence[LoraKernel | str] | str | None = None
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
    new_tokens: int = 256
    cache: CacheKind | str = CacheKind.DYNAMIC
    prefill_chunk_size: int | None = None
    generation: Mapping[str, Any] | None = None
    adapter: AdapterState | str = AdapterState.UNMERGED
    images: int | None = None
    image_size: str | None = None
    audio_seconds: float | None = None
    frames: int | None = None
    labels: int | None = None
    videos: int | None = None
    kernels: Kernels | str | None = None

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
            "sdpa_backend": check_choice("sdpa_backend", self.sdpa_backend, SdpaBackend),
            "new_tokens": check_count("new_tokens", self.new_tokens),
            "cache": check_choice("cache", self.cache, CacheKind),
            "adapter": check_choice("adapter", self.adapter, AdapterState),
        }
        if self.attention is not None:
            checked["attention"] = check_choice("attention", self.attention, Attention)
        if self.kernels is not None:
            checked["kernels"] = check_choice("kernels", self.kernels, Kernels)
        if self.liger is not None:
            checked["liger"] = check_liger(self.liger)
        if self.lora_kernels is not None:
            checked["lora_kernels"] = check_lora_kernels(self.lora_kernels)
        if self.offload is not None:
            where = check_choice("offload", self.offload, Offload)
            checked["offload"] = None if where is Offload.NONE else where
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
        if self.prefill_chunk_size is not None:
            checked["prefill_chunk_size"] = check_count("prefill_chunk_size", self.prefill_chunk_size)
        if self.generation is not None:
            checked["generation"] = check_decoding("generation", self.generation) or None
        checked |= check_media(self.images, self.image_size, self.audio_seconds, self.frames, self.labels, self.videos)
        if self.optim_args is not None:
            check_text("optim_args", self.optim_args, "momentum=0.9")
        for name in ("gradient_checkpointing", "use_reentrant", "padding", "attention_mask", "use_cache"):
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
    prompt_len: int = _PROMPT_LEN
    new_tokens: int = 256
    cache: CacheKind | str = CacheKind.DYNAMIC
    prefill_chunk_size: int | None = None
    generation: Mapping[str, Any] | None = None
    adapter: AdapterState | str = AdapterState.UNMERGED
    mixed_precision: Precision | str = Precision.NO
    padding: bool | None = None
    attention: Attention | str | None = None
    sdpa_backend: SdpaBackend | str = SdpaBackend.AUTO
    alloc_conf: str | None = None

    def to_recipe(self) -> Recipe:
        """Return the recipe with these settings; raises UsageError where one is not of its type or its range."""
        return Recipe(**{item.name: getattr(self, item.name) for item in dataclasses.fields(self)})


def find_prompt_len(recipe: Recipe) -> int:
    """Return how many tokens each prompt of a generation has."""
    return recipe.prompt_len or _PROMPT_LEN

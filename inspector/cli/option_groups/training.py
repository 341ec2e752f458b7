"""The options of a step: its batch, its update, its stage and the code that runs.

Standard library and click only, as `options`.
"""

from __future__ import annotations

import math

import click
from click.shell_completion import CompletionItem

from inspector.cli.option_groups.parameter_types import COUNT, TOKENS, ChoiceWithAliases
from inspector.records.recipe import Attention, Kept, Loop, Offload, Precision, Recipe, SdpaBackend
from inspector.records.steps.kernels import Kernels
from inspector.records.steps.losses import LossName, check_liger, check_lora_kernels
from inspector.records.steps.optimizers import DEFAULT as DEFAULT_OPTIMIZER
from inspector.records.steps.optimizers import OPTIMIZERS, check_optimizer_name
from inspector.records.steps.stages import Reference, Stage

__all__ = ["OF_THE_STEP"]


def _check_finite(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    """Refuse NaN and infinity, which a range lets through."""
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number")
    return value


def _check_finite_or_none(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """Refuse the same where something is given."""
    return None if value is None else _check_finite(context, parameter, value)


def _check_optimizer(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Refuse the name of an optimizer that is not known, with what was probably meant."""
    return check_optimizer_name(value)


def _check_liger(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse the name of a kernel that is not known, with what was probably meant."""
    if value is not None:
        check_liger(value)
    return value


def _check_lora_kernels(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse the same of axolotl's kernels."""
    if value is not None:
        check_lora_kernels(value)
    return value


def _check_packing(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse what says of no documents how they lie in a row."""
    if value is not None:
        Recipe(packing=value)
    return value


def _complete_optimizer(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the names of the optimizers."""
    return [CompletionItem(name) for name in OPTIMIZERS if name.startswith(incomplete)]


OF_THE_STEP: tuple[click.Parameter, ...] = (
    click.Option(["--batch-size"], type=COUNT, default=1, show_default=True, help="Sequences of one micro-batch."),
    click.Option(
        ["--seq-len"],
        type=TOKENS,
        default=1024,
        show_default=True,
        help="Tokens of a sequence; 4k is 4096.",
    ),
    click.Option(
        ["--gradient-accumulation"],
        type=COUNT,
        default=1,
        show_default=True,
        help="Micro-batches of one optimizer step.",
    ),
    click.Option(
        ["--mixed-precision"],
        type=ChoiceWithAliases(Precision),
        default="no",
        show_default=True,
        help="Autocast as TrainingArguments(bf16=True) or (fp16=True); fp16 scales the loss. bfloat16 and float16 are "
        "accepted, too.",
    ),
    click.Option(
        ["--optimizer"],
        metavar="NAME",
        callback=_check_optimizer,
        shell_complete=_complete_optimizer,
        default=DEFAULT_OPTIMIZER,
        show_default=True,
        help="A name of transformers' optim: adamw_torch, adamw_torch_fused, sgd, adagrad, rmsprop, adafactor, "
        "schedule_free_adamw (_sgd, _radam), stable_adamw, galore_adamw, lorafa, muon, adam_mini, and those of "
        "bitsandbytes: adamw_8bit, lion_8bit, ademamix_8bit, rmsprop_bnb_8bit, ... (paged_..., ..._32bit).",
    ),
    click.Option(
        ["--optim-args"],
        metavar="KEY=VALUE,...",
        help="transformers' optim_args: momentum=0.9 for sgd; foreach=False updates one tensor after the other.",
    ),
    click.Option(
        ["--gradient-checkpointing/--no-gradient-checkpointing"],
        default=None,
        help="Recompute blocks in the backward pass; default: with --quantization, where PEFT's "
        "prepare_model_for_kbit_training enables it.",
    ),
    click.Option(
        ["--use-reentrant/--no-use-reentrant"],
        default=None,
        help="use_reentrant of gradient_checkpointing_kwargs; default: that of the library which enables "
        "checkpointing: no in transformers, yes in PEFT's preparation.",
    ),
    click.Option(
        ["--checkpoint-every"],
        type=COUNT,
        metavar="N",
        help="Checkpoint one block in N, as every_n_layers of gradient_checkpointing_kwargs; default: every block.",
    ),
    click.Option(
        ["--checkpoint-keeps"],
        type=click.Choice(Kept.values()),
        help="What a checkpointed block keeps instead of recomputing it, as selective in TRL's "
        "gradient_checkpointing_kwargs.",
    ),
    click.Option(
        ["--offload"],
        type=click.Choice(Offload.values()),
        default="none",
        show_default=True,
        help="Keep in host memory until the backward pass: the inputs of checkpointed blocks (transformers' offload, "
        "Unsloth), or all that autograd saves (TRL's activation_offloading).",
    ),
    click.Option(
        ["--neftune"],
        type=click.FloatRange(min=0),
        callback=_check_finite_or_none,
        metavar="ALPHA",
        help="Add noise to the embeddings, as TrainingArguments(neftune_noise_alpha=ALPHA).",
    ),
    click.Option(
        ["--train-only"],
        multiple=True,
        metavar="PATTERN",
        help="Train only parameters whose names match this regular expression, and freeze all others; last=2 and "
        "first=2 select layers. Repeatable; default: all that the class does not freeze.",
    ),
    click.Option(
        ["--add-tokens"],
        type=COUNT,
        metavar="N",
        help="Tokens to add to the vocabulary, beyond the rows that the embedding has; it and the head grow.",
    ),
    click.Option(
        ["--max-grad-norm"],
        type=click.FloatRange(min=0),
        callback=_check_finite,
        default=1.0,
        show_default=True,
        help="Clip gradients to this norm; 0 turns it off.",
    ),
    click.Option(
        ["--padding/--no-padding"],
        default=None,
        help="Pad sequences of the batch, which gives it an attention mask; default: yes for more than one sequence.",
    ),
    click.Option(
        ["--attention-mask/--no-attention-mask"],
        default=None,
        help="Pass an attention mask though nothing is padded, as TRL's collator and those that pad with a tokenizer "
        "do; default: no.",
    ),
    click.Option(
        ["--stage"],
        type=click.Choice(Stage.values()),
        help="Which of TRL's trainers runs the step: sft (supervised, the default), dpo, kto, orpo, cpo, reward or "
        "grpo. The batch size counts pairs in dpo, orpo, cpo and reward.",
    ),
    click.Option(
        ["--reference"],
        type=click.Choice(Reference.values()),
        help="Reference model of dpo, kto and grpo: the model without its adapter, a second model, or none; default: "
        "adapter where there is one, else a second model; in grpo none, as its beta is 0.",
    ),
    click.Option(
        ["--prompt-len"],
        type=TOKENS,
        help="Tokens of a prompt. With --stage they are part of the sequence, and the completion is the rest; "
        "default: one, in grpo half of the sequence. With --generate new tokens follow them; default: 1024.",
    ),
    click.Option(
        ["--completion-len"], type=COUNT, help="Tokens of a completion in grpo; the sequence is --prompt-len and these."
    ),
    click.Option(
        ["--num-generations"],
        type=COUNT,
        help="Completions of a prompt in grpo; must divide the sequences of an update; default: 8, as in TRL.",
    ),
    click.Option(
        ["--vllm-share"],
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        callback=_check_finite_or_none,
        help="Fraction of the GPU that vLLM takes in the process of grpo's trainer, such as 0.3; default: none.",
    ),
    click.Option(
        ["--loss"],
        type=click.Choice(LossName.values()),
        default="stock",
        show_default=True,
        help="How the loss of a causal language model is computed: stock from all logits, chunked as TRL 1.7 to 1.14, "
        "fused as TRL 1.15 and newer, liger by Liger's fused linear cross-entropy, cce by cut-cross-entropy, float32 "
        "as LLaMA-Factory's stages.",
    ),
    click.Option(
        ["--liger"],
        is_flag=False,
        flag_value="auto",
        metavar="[KERNELS]",
        callback=_check_liger,
        help="Use Liger's kernels in the layers, a comma list of rope, rms_norm, swiglu, geglu; without a value those "
        "that use_liger_kernel enables, and Liger's loss.",
    ),
    click.Option(
        ["--lora-kernels"],
        metavar="KERNELS",
        callback=_check_lora_kernels,
        help="Use axolotl's fused kernels for layers with LoRA, a comma list of mlp, qkv, o.",
    ),
    click.Option(
        ["--packing"],
        metavar="COUNT[xLENGTH]",
        callback=_check_packing,
        help="Pack documents into each sequence, as TRL, axolotl and DataCollatorWithFlattening do: 4x1024 means 4 of "
        "1,024 tokens, 4 means 4 that share --seq-len. The sequences of a micro-batch are concatenated; 1 is "
        "padding-free training.",
    ),
    click.Option(
        ["--loop"],
        type=click.Choice(Loop.values()),
        default="trainer",
        show_default=True,
        help="Training loop: transformers.Trainer's or a plain PyTorch loop.",
    ),
    click.Option(
        ["--attention"],
        type=click.Choice(Attention.values()),
        help="Attention implementation; default: sdpa where the model's class has it, else eager. flash_attention_2 is "
        "the flash-attn package, which need not be installed.",
    ),
    click.Option(
        ["--sdpa-backend"],
        type=click.Choice(SdpaBackend.values()),
        default="auto",
        show_default=True,
        help="Kernel of sdpa; auto is torch's choice by dtype, mask and head size.",
    ),
    click.Option(
        ["--kernels"],
        type=click.Choice(Kernels.values()),
        help="Code of state-space and linear-attention layers: torch is transformers' own, as after a plain install, "
        "hub the kernels of mamba-ssm, causal-conv1d and flash-linear-attention (use_kernels=True); default: torch.",
    ),
    click.Option(
        ["--use-cache/--no-use-cache"],
        default=None,
        help="Fill a KV cache in the forward pass; default: no, as transformers.Trainer.",
    ),
    click.Option(
        ["--alloc-conf"],
        metavar="SETTINGS",
        help="Settings of the CUDA allocator, such as expandable_segments:True; default: PYTORCH_CUDA_ALLOC_CONF, else "
        "PYTORCH_ALLOC_CONF.",
    ),
)

"""What the commands take: the options of a training step, their completion, and lists of them for each command.

Standard library and click only: `inspect --help` loads nothing else.
"""

from __future__ import annotations

import math
import re
from typing import Any

import click
from click.shell_completion import CompletionItem

from inspector.checks import Choice
from inspector.cli.completion import complete_file, complete_gpu, complete_model
from inspector.cli.file_options import OF_A_TRAINING_FILE
from inspector.compat.verified import VERIFIED
from inspector.records.fit import Quantity
from inspector.records.losses import LossName
from inspector.records.recipe import DEFAULT as DEFAULT_OPTIMIZER
from inspector.records.recipe import (
    OPTIMIZERS,
    Attention,
    Kept,
    Loop,
    Offload,
    Precision,
    Recipe,
    SdpaBackend,
    check_optimizer_name,
)
from inspector.records.request import AdapterDtype, Preparation, Quantization, WeightDtype
from inspector.records.stages import Reference, Stage
from inspector.workloads.registry import WORKLOADS

__all__ = [
    "FORMATS",
    "PARAMETERS",
    "complete_file",
    "complete_model",
    "list_parameters_without",
]


class _Count(click.IntRange):
    """A number, which may be written as reports print it: 4,096."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of a text."""
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,3}(,[0-9]{3})+", value):
            value = value.replace(",", "")
        count: int = super().convert(value, param, ctx)
        return count


# A batch or a sequence beyond this is a typing error; the longest contexts are some 10^7 tokens.
_COUNT = _Count(1, 2**24)


class _TokenCount(_Count):
    """A number of tokens; `4k` is 4,096, as context lengths are written."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number that a text is or abbreviates."""
        if isinstance(value, str) and (thousands := re.fullmatch(r"([0-9]{1,5})[kK]", value)):
            value = 1024 * int(thousands[1])
        return super().convert(value, param, ctx)


FORMATS = ("text", "json", "markdown")


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


def _check_packing(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse what says of no documents how they lie in a row."""
    if value is not None:
        Recipe(packing=value)
    return value


def _complete_optimizer(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the names of the optimizers."""
    return [CompletionItem(name) for name in OPTIMIZERS if name.startswith(incomplete)]


class _ChoiceWithAliases(click.Choice[str]):
    """The values of a closed choice, and what else they are called."""

    def __init__(self, kind: type[Choice]) -> None:
        super().__init__(kind.values())
        self._aliases = kind.aliases()
        self._unclear = kind.unclear_names()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the value that a text is or names."""
        if value in self._unclear:
            self.fail(self._unclear[value], param, ctx)
        return super().convert(self._aliases.get(value, value), param, ctx)


_VERSION = click.version_option(
    package_name="model-inspector",
    prog_name="inspect",
    message="%(prog)s %(version)s\nverified with "
    + ", ".join(f"{name} {releases}" for name, releases in VERIFIED.items()),
)(click.Command("inspect")).params[-1]
# The parameters of `inspect MODEL`, in the order of its help.
PARAMETERS: tuple[click.Parameter, ...] = (
    click.Argument(["model"], shell_complete=complete_model),
    click.Option(["--revision"], metavar="TEXT", help="Branch, tag or commit of the Hub repository; default: main."),
    click.Option(
        ["--dtype"],
        type=_ChoiceWithAliases(WeightDtype),
        default="auto",
        show_default=True,
        help="Dtype of the base weights (fp32, bf16 and fp16, too); auto is what the checkpoint declares.",
    ),
    click.Option(
        ["--quantization"],
        type=_ChoiceWithAliases(Quantization),
        help="Load the base weights quantized as bitsandbytes does; default: what the checkpoint declares.",
    ),
    click.Option(
        ["--double-quant/--no-double-quant"],
        default=None,
        help="Whether the scales of 4-bit weights are packed too; default: no, as bitsandbytes.",
    ),
    click.Option(
        ["--model-class"], metavar="NAME", help="transformers class to build; default: the config's architectures."
    ),
    click.Option(
        ["--trust-remote-code"], is_flag=True, help="Run model code from the repository. Never done without it."
    ),
    click.Option(
        ["--assume-defaults"],
        is_flag=True,
        help="Go on where config.json does not say how large the model is, with the defaults of its class.",
    ),
    click.Option(
        ["--offline"], is_flag=True, help="No network: the cache, then the bundled catalogue. As HF_HUB_OFFLINE=1."
    ),
    click.Option(
        ["--lora"],
        metavar="SPEC",
        help="A LoRA adapter: r=16[,alpha=32][,dropout=0.05][,bias=none|all|lora_only][,dora][,rslora].",
    ),
    click.Option(
        ["--targets"],
        metavar="NAMES",
        help="PEFT's target_modules: all-linear, a comma list or a regular expression; default: PEFT's for the model.",
    ),
    click.Option(
        ["--modules-to-save"], metavar="NAMES", help="PEFT's modules_to_save: a comma list, trained and saved whole."
    ),
    click.Option(
        ["--peft"],
        shell_complete=complete_file,
        metavar="FILE_OR_JSON",
        help="Any PEFT config: an adapter_config.json, a directory holding one, or inline JSON with peft_type.",
    ),
    click.Option(
        ["--autocast-adapter-dtype/--no-autocast-adapter-dtype"],
        default=True,
        help="As in PEFT's get_peft_model: whether an adapter in half precision becomes float32; default: yes.",
    ),
    click.Option(
        ["--adapter-dtype"],
        type=_ChoiceWithAliases(AdapterDtype),
        default="auto",
        show_default=True,
        help="Dtype that a trainer casts the attached adapter to: bfloat16 is TRL's on packed weights, float32 "
        "LLaMA-Factory's; auto is PEFT's.",
    ),
    click.Option(
        ["--preparation"],
        type=click.Choice(Preparation.values()),
        default="peft",
        show_default=True,
        help="What happens to packed weights before an adapter trains on them: peft is "
        "prepare_model_for_kbit_training, none what TRL 0.26 and newer and LLaMA-Factory do.",
    ),
    click.Option(
        ["--workload"],
        type=click.Choice(tuple(WORKLOADS)),
        default="training",
        show_default=True,
        help="What runs: " + "; ".join(f"{info.name}, {info.summary}" for info in WORKLOADS.values()) + ".",
    ),
    click.Option(["--batch-size"], type=_COUNT, default=1, show_default=True, help="Sequences of one micro-batch."),
    click.Option(
        ["--seq-len"],
        type=_TokenCount(1, 2**24),
        default=1024,
        show_default=True,
        help="Tokens of a sequence; 4k is 4096.",
    ),
    click.Option(
        ["--gradient-accumulation"],
        type=_COUNT,
        default=1,
        show_default=True,
        help="Micro-batches of one optimizer step.",
    ),
    click.Option(
        ["--mixed-precision"],
        type=_ChoiceWithAliases(Precision),
        default="no",
        show_default=True,
        help="Autocast, as TrainingArguments(bf16=True) or (fp16=True), which scales the loss; bfloat16 and float16 "
        "mean the same.",
    ),
    click.Option(
        ["--optimizer"],
        metavar="NAME",
        callback=_check_optimizer,
        shell_complete=_complete_optimizer,
        default=DEFAULT_OPTIMIZER,
        show_default=True,
        help="As transformers' optim names it: adamw_torch, adamw_torch_fused, sgd, adagrad, rmsprop, adafactor, "
        "schedule_free_adamw (_sgd, _radam), stable_adamw, muon, and those of bitsandbytes: adamw_8bit, lion_8bit, "
        "ademamix_8bit, rmsprop_bnb_8bit, ... (paged_..., ..._32bit).",
    ),
    click.Option(
        ["--optim-args"],
        metavar="KEY=VALUE,...",
        help="Arguments of the optimizer, as transformers' optim_args: momentum=0.9 for sgd; foreach=False for one "
        "tensor after the other.",
    ),
    click.Option(
        ["--gradient-checkpointing/--no-gradient-checkpointing"],
        default=None,
        help="Compute blocks again in the backward pass; default: with --quantization, where PEFT's "
        "prepare_model_for_kbit_training switches it on.",
    ),
    click.Option(
        ["--use-reentrant/--no-use-reentrant"],
        default=None,
        help="The key of gradient_checkpointing_kwargs; default: as the library that switches it on has it, "
        "transformers not reentrant, PEFT's preparation reentrant.",
    ),
    click.Option(
        ["--checkpoint-every"],
        type=_COUNT,
        metavar="N",
        help="Checkpoint one block in N, as every_n_layers of gradient_checkpointing_kwargs; default: all.",
    ),
    click.Option(
        ["--checkpoint-keeps"],
        type=click.Choice(Kept.values()),
        help="What a checkpointed block does not compute again, as selective in TRL's gradient_checkpointing_kwargs.",
    ),
    click.Option(
        ["--offload"],
        type=click.Choice(Offload.values()),
        default="none",
        show_default=True,
        help="What waits for the backward pass in host memory: inputs of checkpointed blocks (transformers' offload, "
        "Unsloth), or whatever autograd saves (TRL's activation_offloading).",
    ),
    click.Option(
        ["--neftune"],
        type=click.FloatRange(min=0),
        callback=_check_finite_or_none,
        metavar="ALPHA",
        help="Noise on the embeddings, as TrainingArguments(neftune_noise_alpha=ALPHA).",
    ),
    click.Option(
        ["--train-only"],
        multiple=True,
        metavar="PATTERN",
        help="A regular expression of the names of parameters that train, all others are frozen; last=2 and first=2 "
        "are layers. Repeatable; default: all that the class does not freeze.",
    ),
    click.Option(
        ["--add-tokens"],
        type=_COUNT,
        metavar="N",
        help="Rows that the embedding and the head gain, for tokens beyond those that the table has.",
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
        help="Whether the batch has padded sequences, and so a mask; default: yes for more than one sequence.",
    ),
    click.Option(
        ["--attention-mask/--no-attention-mask"],
        default=None,
        help="Whether the batch has a mask where nothing is padded, as TRL's collator and those that pad with a "
        "tokenizer send it; default: no.",
    ),
    click.Option(
        ["--stage"],
        type=click.Choice(Stage.values()),
        help="What the step is for, as TRL's trainers run it: supervised (sft, the default), dpo, kto, orpo, reward or "
        "grpo. A batch size counts pairs in dpo, orpo and reward.",
    ),
    click.Option(
        ["--reference"],
        type=click.Choice(Reference.values()),
        help="The reference of dpo, kto and grpo: the model without its adapter, a second model, or none; default: the "
        "adapter where there is one, else a second model; in grpo none, as its beta is 0.",
    ),
    click.Option(
        ["--prompt-len"],
        type=_COUNT,
        help="Tokens of a row that are its prompt, the rest the answer; default: one, in grpo half of the row.",
    ),
    click.Option(
        ["--completion-len"], type=_COUNT, help="Tokens of grpo's answers; with --prompt-len it makes the row."
    ),
    click.Option(
        ["--num-generations"],
        type=_COUNT,
        help="Answers to a prompt in grpo, which divide the rows of an update; default: 8, as TRL's.",
    ),
    click.Option(
        ["--vllm-share"],
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        callback=_check_finite_or_none,
        help="The part of the card that vLLM takes in the process of grpo's trainer, such as 0.3; default: none.",
    ),
    click.Option(
        ["--loss"],
        type=click.Choice(LossName.values()),
        default="stock",
        show_default=True,
        help="What makes the loss of a causal language model: stock all its logits, chunked TRL 1.7 to 1.14, fused TRL "
        "1.15 and newer.",
    ),
    click.Option(
        ["--packing"],
        metavar="COUNT[xLENGTH]",
        callback=_check_packing,
        help="Documents share a row, as TRL, axolotl and DataCollatorWithFlattening pack them: 4x1024 is 4 of 1,024 "
        "tokens, 4 is 4 in a sequence; the sequences of a micro-batch are one row. 1 is padding-free.",
    ),
    click.Option(
        ["--loop"],
        type=click.Choice(Loop.values()),
        default="trainer",
        show_default=True,
        help="Whose step is traced: transformers.Trainer's or a bare PyTorch loop.",
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
        help="Kernel of sdpa; auto follows CUDA's choice for dtype, mask and head size.",
    ),
    click.Option(
        ["--use-cache/--no-use-cache"],
        default=None,
        help="Whether the forward pass fills a KV cache; default: no, as transformers.Trainer sets it.",
    ),
    click.Option(
        ["--alloc-conf"],
        metavar="SETTINGS",
        help="The allocator's settings, such as expandable_segments:True; default: PYTORCH_CUDA_ALLOC_CONF, else "
        "PYTORCH_ALLOC_CONF.",
    ),
    click.Option(
        ["--torch"],
        metavar="RELEASE",
        help="The torch release of the machine that will run it, such as 2.10; default: the installed one.",
    ),
    click.Option(
        ["--gpu", "gpus_"],
        multiple=True,
        metavar="NAME",
        shell_complete=complete_gpu,
        help="Whether the step fits this GPU (a100-80gb, 4090), exit code 1 if not; repeatable, each kind is judged by "
        "its own kernels; 2x4090 is two cards. Default: common cards. `inspect gpus` lists all.",
    ),
    click.Option(
        ["--gpu-memory"],
        multiple=True,
        metavar="SIZE",
        help="The same for a GPU of this memory, as torch reports it, with a unit: 24GiB, 24GB or 24576MiB.",
    ),
    click.Option(
        ["--gpus", "gpu_count"],
        type=click.IntRange(1, 2**20),
        default=1,
        metavar="N",
        help="How many of the named GPU one run has. Ranks are not traced yet: one card alone is judged, and how many "
        "hold its sharded state is said.",
    ),
    click.Option(["--fsdp"], is_flag=True, help="The run shards weights, gradients and optimizer state."),
    click.Option(
        ["--deepspeed"],
        type=click.Choice(("zero1", "zero2", "zero3")),
        help="What DeepSpeed shards: optimizer state, gradients too, weights too.",
    ),
    click.Option(
        ["--margin"],
        metavar="SIZE",
        help="How much of the GPU is to stay free, such as 1GiB, exit code 1 if not; default: a step that leaves less "
        "than what is not known of the card is called tight, and searches leave as much.",
    ),
    click.Option(
        ["--fit"],
        type=click.Choice(Quantity.values()),
        help="Search the largest value that fits the first GPU, and report on the step with it.",
    ),
    click.Option(
        ["--advice/--no-advice"],
        default=True,
        show_default=True,
        help="Whether to look for changes that make the step fit a named GPU (up to 8 traces more) or, where it fits, "
        "for what could be turned up (up to 6).",
    ),
    *OF_A_TRAINING_FILE,
    click.Option(["--count-only"], is_flag=True, help="Stop after the parameter counts: no bytes, no traced step."),
    click.Option(
        ["--depth"],
        type=click.IntRange(0, 64),
        default=3,
        show_default=True,
        help="Module tree down to this depth; shows it.",
    ),
    click.Option(["--json", "as_json"], is_flag=True, help="Same as --format json."),
    click.Option(
        ["--format", "format_"],
        type=click.Choice(FORMATS),
        help="How to print the report; default: what --output ends in (.json, .md), else text.",
    ),
    click.Option(
        ["--output"], shell_complete=complete_file, metavar="FILE", help="Write the report there; - is standard output."
    ),
    click.Option(["--quiet"], is_flag=True, help="On standard error neither progress nor the name of a file written."),
    click.Option(["--no-color"], is_flag=True, help="No colour; NO_COLOR does the same."),
    _VERSION,
)


def list_parameters_without(*names: str) -> list[click.Parameter]:
    """Return the parameters of a report but for some, for a command that decides these itself."""
    return [parameter for parameter in PARAMETERS if parameter.name not in names]

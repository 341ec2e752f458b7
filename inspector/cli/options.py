"""What the commands take: their parameters in the order of the help, and lists of them for each command.

Those of one matter are in `option_groups`.

Standard library and click only: `inspect --help` loads nothing else.
"""

from __future__ import annotations

import click

from inspector.cli.completion import complete_file, complete_gpu, complete_model
from inspector.cli.option_groups.cards import OF_CARDS
from inspector.cli.option_groups.generation import OF_GENERATION
from inspector.cli.option_groups.media import OF_MEDIA
from inspector.cli.option_groups.parameter_types import ChoiceWithAliases
from inspector.cli.option_groups.training import OF_THE_STEP
from inspector.cli.option_groups.training_files import OF_A_TRAINING_FILE
from inspector.compat.verified import VERIFIED
from inspector.records.fit import Quantity
from inspector.records.request import AdapterDtype, Preparation, Quantization, QuantStorage, WeightDtype
from inspector.workloads.registry import WORKLOADS

__all__ = [
    "FORMATS",
    "PARAMETERS",
    "complete_file",
    "complete_model",
    "list_parameters_without",
]

FORMATS = ("text", "json", "markdown")


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
        type=ChoiceWithAliases(WeightDtype),
        default="auto",
        show_default=True,
        help="Dtype of the base weights (fp32, bf16 and fp16, too); auto is what the checkpoint declares.",
    ),
    click.Option(
        ["--quantization"],
        type=ChoiceWithAliases(Quantization),
        help="Load the base weights quantized as bitsandbytes does; default: what the checkpoint declares.",
    ),
    click.Option(
        ["--double-quant/--no-double-quant"],
        default=None,
        help="Whether the scales of 4-bit weights are packed too; default: no, as bitsandbytes.",
    ),
    click.Option(
        ["--quant-storage"],
        type=ChoiceWithAliases(QuantStorage),
        help="Dtype of the tensors that hold 4-bit weights; FSDP shards those of floats alone; default: uint8.",
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
        ["--exclude-targets"],
        metavar="NAMES",
        help="PEFT's exclude_modules: a comma list or a regular expression, left out of the targets.",
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
        type=ChoiceWithAliases(AdapterDtype),
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
    *OF_GENERATION,
    *OF_THE_STEP,
    *OF_MEDIA,
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
        help="How many of the named GPU one run has. With --fsdp the rank that takes most is traced; else one card "
        "alone is judged, and how many hold its state is said.",
    ),
    click.Option(
        ["--fsdp"],
        is_flag=True,
        help="The run shards weights, gradients and optimizer state, with FSDP2 as accelerate and Trainer do; --fit "
        "gpus finds the least number of cards.",
    ),
    click.Option(
        ["--deepspeed"],
        type=click.Choice(("zero1", "zero2", "zero3")),
        help="What DeepSpeed shards: optimizer state, gradients too, weights too. Traced where it is installed.",
    ),
    *OF_CARDS,
    click.Option(
        ["--margin"],
        metavar="SIZE",
        help="How much of the GPU is to stay free, such as 1GiB, exit code 1 if not; default: a step that leaves less "
        "than what is not known of the card is called tight, and searches leave as much.",
    ),
    click.Option(
        ["--fit"],
        type=click.Choice(Quantity.values()),
        help="Search the largest value that fits the first GPU, or the least number of them, and report on the step "
        "with it.",
    ),
    click.Option(
        ["--advice/--no-advice"],
        default=True,
        show_default=True,
        help="Whether to look for changes that make the step fit a named GPU (up to 8 traces more) or, where it fits, "
        "for what could be turned up (up to 6).",
    ),
    click.Option(
        ["--extrapolate/--no-extrapolate"],
        default=True,
        show_default=True,
        help="Whether the step of a deep model may be worked out from those of shallow ones, event by event the same; "
        "else the whole model is traced, and each token of a generation.",
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
    click.Option(
        ["--no-cache"], is_flag=True, help="Work everything out, and keep nothing; INSPECTOR_CACHE=off does the same."
    ),
    click.Option(["--quiet"], is_flag=True, help="On standard error neither progress nor the name of a file written."),
    click.Option(["--no-color"], is_flag=True, help="No colour; NO_COLOR does the same."),
    _VERSION,
)


def list_parameters_without(*names: str) -> list[click.Parameter]:
    """Return the parameters of a report but for some, for a command that decides these itself."""
    return [parameter for parameter in PARAMETERS if parameter.name not in names]

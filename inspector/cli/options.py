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
        help="Quantize the scales of 4-bit weights as well; default: no, as in bitsandbytes.",
    ),
    click.Option(
        ["--quant-storage"],
        type=ChoiceWithAliases(QuantStorage),
        help="Dtype of the tensors that hold 4-bit weights; FSDP shards floating-point ones only; default: uint8.",
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
        help="Use the defaults of the model's class for sizes that config.json leaves out.",
    ),
    click.Option(
        ["--offline"],
        is_flag=True,
        help="Use the local cache and the bundled catalogue, not the network; as HF_HUB_OFFLINE=1.",
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
        help="autocast_adapter_dtype of get_peft_model: cast a half-precision adapter to float32; default: yes.",
    ),
    click.Option(
        ["--adapter-dtype"],
        type=ChoiceWithAliases(AdapterDtype),
        default="auto",
        show_default=True,
        help="Dtype that the trainer casts the attached adapter to: TRL uses bfloat16 on quantized weights, "
        "LLaMA-Factory float32; auto leaves it as PEFT made it.",
    ),
    click.Option(
        ["--preparation"],
        type=click.Choice(Preparation.values()),
        default="peft",
        show_default=True,
        help="How a quantized model is prepared for training: peft calls prepare_model_for_kbit_training, none skips "
        "it, as TRL 0.26 and newer and LLaMA-Factory do.",
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
        help="Check whether the step fits this GPU (a100-80gb, 4090), exit code 1 if not; repeatable, each with the "
        "kernels it runs; 2x4090 is two of them. Default: common GPUs. `inspect gpus` lists all.",
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
        help="Number of GPUs of one run. With --fsdp and the options below the rank that takes most is traced; without "
        "them one GPU is judged, and the report says how many would hold the state.",
    ),
    click.Option(
        ["--fsdp"],
        is_flag=True,
        help="Shard weights, gradients and optimizer state with FSDP2, as accelerate and Trainer do; --fit gpus finds "
        "the least number of GPUs.",
    ),
    click.Option(
        ["--deepspeed"],
        type=click.Choice(("zero1", "zero2", "zero3")),
        help="ZeRO stage: zero1 shards optimizer state, zero2 gradients too, zero3 weights too. Traced where "
        "DeepSpeed is installed.",
    ),
    *OF_CARDS,
    click.Option(
        ["--margin"],
        metavar="SIZE",
        help="GPU memory to keep free, such as 1GiB; exit code 1 where less is left. Default: a step that leaves less "
        "than the uncertainty about the GPU is called tight, and searches keep that much free.",
    ),
    click.Option(
        ["--fit"],
        type=click.Choice(Quantity.values()),
        help="Search for the largest value that fits the first GPU, or the least number of GPUs, and report on the "
        "step with it.",
    ),
    click.Option(
        ["--advice/--no-advice"],
        default=True,
        show_default=True,
        help="Look for changes that make the step fit a named GPU (up to 8 more traces) or, where it fits, for "
        "settings that could be raised (up to 6).",
    ),
    click.Option(
        ["--extrapolate/--no-extrapolate"],
        default=True,
        show_default=True,
        help="Extrapolate the step of a deep model from shallow ones, with the same result; otherwise trace the whole "
        "model, and each token of a generation.",
    ),
    *OF_A_TRAINING_FILE,
    click.Option(["--count-only"], is_flag=True, help="Stop after the parameter counts: no bytes, no traced step."),
    click.Option(
        ["--depth"],
        type=click.IntRange(0, 64),
        default=3,
        show_default=True,
        help="Show the module tree down to this depth.",
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
        ["--no-cache"], is_flag=True, help="Compute everything again and store nothing; as INSPECTOR_CACHE=off."
    ),
    click.Option(["--quiet"], is_flag=True, help="Print no progress and no name of a written file on standard error."),
    click.Option(["--no-color"], is_flag=True, help="Print without colour; as NO_COLOR=1."),
    _VERSION,
)


def list_parameters_without(*names: str) -> list[click.Parameter]:
    """Return the parameters of a report but for some, for a command that decides these itself."""
    return [parameter for parameter in PARAMETERS if parameter.name not in names]

"""The command line: arguments -> Request, a renderer, an exit code. No arithmetic, and no torch before it is needed.

Exit codes: 0 done, 1 the step does not fit a GPU that was named, 2 wrong usage, 3 the model could not be had, 4 the
model cannot be inspected, 130 interrupted. An error is one line on standard error; a traceback only with
INSPECTOR_DEBUG=1.

click only reads the arguments: a command returns its work, which `main` then does. Done inside click, work that is
interrupted would print an empty line more, and one whose reader leaves would exit with 1, which means something else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import math
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click
from click.shell_completion import CompletionItem

from inspector.dtypes import DTYPE_CHOICES, QUANTIZATIONS
from inspector.errors import InspectorError, UsageError, one_line
from inspector.fit_records import QUANTITIES
from inspector.optimizer_names import DEFAULT as DEFAULT_OPTIMIZER
from inspector.optimizer_names import OPTIMIZERS, checked_name, parse_optim_args
from inspector.options import parse_lora, parse_names, parse_targets, read_peft
from inspector.output import opened, remove_partial_files, writable
from inspector.records import Request
from inspector.subcommands import WithSubcommands, Work, subcommand
from inspector.training_records import Recipe

if TYPE_CHECKING:
    from inspector.records import Report
    from inspector.render.document import Document

__all__ = ["command", "main"]

# A batch or a row beyond this is a slip of the keyboard; the longest contexts are some 10^7 tokens.
_COUNT = click.IntRange(1, 2**24)
_FORMATS = ("text", "json", "markdown")
_TEXT_WIDTH = 100
_LONGEST_MESSAGE = 1000
_DOES_NOT_FIT = 1
# Options of a report that a plan decides itself or has no use for.
_NOT_OF_A_PLAN = (
    *("optimizer", "optim_args", "gradient_checkpointing", "use_reentrant"),
    *("fit", "advice", "count_only", "depth", "format_"),
)
# Options of a report that a run on the GPU at hand has no use for.
_NOT_OF_A_RUN = ("gpus_", "gpu_memory", "fit", "advice", "count_only", "depth")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What the arguments ask for. `output` is the file to write, None standard output."""

    request: Request
    format: str
    output: Path | None
    progress: bool
    color: bool

    def __call__(self) -> int:
        """Inspect, print or write the report, and return the exit code."""
        return _inspect(self)


def _complete_model(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer subcommands and the ids of the bundled catalogue, and files for what looks like a path or starts no id."""
    from inspector.source.catalogue import ids

    if not incomplete.startswith((".", "/", "~")):
        known = (*command.subcommands, *ids())
        names = [CompletionItem(name) for name in known if name.lower().startswith(incomplete.lower())]
        if names:
            return names
    return _complete_file(context, parameter, incomplete)


def _complete_gpu(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the names of the catalogue as one word each."""
    from inspector.fit.catalogue import catalogue

    names = [gpu.name.lower().replace(" ", "-") for gpu in catalogue()]
    return [CompletionItem(name) for name in names if name.startswith(incomplete.lower())]


def _complete_file(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell offer names of files."""
    return [CompletionItem(incomplete, type="file")]


def _finite(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    """Refuse NaN and infinity, which a range lets through."""
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number")
    return value


def _known_optimizer(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Refuse the name of an optimizer that is not known, with what was probably meant."""
    return checked_name(value)


def _complete_optimizer(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the names of the optimizers."""
    return [CompletionItem(name) for name in OPTIMIZERS if name.startswith(incomplete)]


@click.command(
    name="inspect",
    cls=WithSubcommands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Shell completion: _INSPECT_COMPLETE=bash_source inspect (or zsh_source, fish_source) prints the script.",
)
@click.argument("model", shell_complete=_complete_model)
@click.option("--revision", metavar="TEXT", help="Branch, tag or commit of the Hub repository; default: main.")
@click.option(
    "--dtype",
    type=click.Choice(DTYPE_CHOICES),
    default="auto",
    show_default=True,
    help="Dtype of the base weights; auto is what the checkpoint declares.",
)
@click.option(
    "--quantization",
    type=click.Choice(QUANTIZATIONS),
    help="Load the base weights quantized as bitsandbytes does; default: what the checkpoint declares.",
)
@click.option(
    "--double-quant/--no-double-quant",
    default=None,
    help="Whether the scales of 4-bit weights are packed too; default: no, as bitsandbytes.",
)
@click.option("--model-class", metavar="NAME", help="transformers class to build; default: the config's architectures.")
@click.option("--trust-remote-code", is_flag=True, help="Run model code from the repository. Never done without it.")
@click.option("--offline", is_flag=True, help="No network: the cache, then the bundled catalogue. As HF_HUB_OFFLINE=1.")
@click.option(
    "--lora",
    metavar="SPEC",
    help="A LoRA adapter: r=16[,alpha=32][,dropout=0.05][,bias=none|all|lora_only][,dora][,rslora].",
)
@click.option(
    "--targets",
    metavar="NAMES",
    help="PEFT's target_modules: all-linear, a comma list or a regular expression; default: PEFT's for the model.",
)
@click.option(
    "--modules-to-save", metavar="NAMES", help="PEFT's modules_to_save: a comma list, trained and saved whole."
)
@click.option(
    "--peft",
    shell_complete=_complete_file,
    metavar="FILE_OR_JSON",
    help="Any PEFT config: an adapter_config.json, a directory holding one, or inline JSON with peft_type.",
)
@click.option(
    "--autocast-adapter-dtype/--no-autocast-adapter-dtype",
    default=True,
    help="As in PEFT's get_peft_model: whether an adapter in half precision becomes float32; default: yes.",
)
@click.option("--batch-size", type=_COUNT, default=1, show_default=True, help="Rows of one micro-batch.")
@click.option("--seq-len", type=_COUNT, default=1024, show_default=True, help="Tokens of a row.")
@click.option(
    "--gradient-accumulation", type=_COUNT, default=1, show_default=True, help="Micro-batches of one optimizer step."
)
@click.option(
    "--mixed-precision",
    type=click.Choice(("no", "bf16", "fp16")),
    default="no",
    show_default=True,
    help="Autocast, as TrainingArguments(bf16=True) or (fp16=True); fp16 scales the loss.",
)
@click.option(
    "--optimizer",
    metavar="NAME",
    callback=_known_optimizer,
    shell_complete=_complete_optimizer,
    default=DEFAULT_OPTIMIZER,
    show_default=True,
    help="As transformers' optim names it: adamw_torch, adamw_torch_fused, sgd, adagrad, rmsprop, adafactor, and those "
    "of bitsandbytes: adamw_8bit, lion_8bit, ademamix_8bit, rmsprop_bnb_8bit, ... (paged_..., ..._32bit).",
)
@click.option(
    "--optim-args",
    metavar="KEY=VALUE,...",
    help="Arguments of the optimizer, as transformers' optim_args: momentum=0.9 for sgd; foreach=False for one tensor "
    "after the other.",
)
@click.option("--gradient-checkpointing", is_flag=True, help="Compute blocks again in the backward pass.")
@click.option(
    "--use-reentrant/--no-use-reentrant",
    default=False,
    help="The key of gradient_checkpointing_kwargs; default: not reentrant, as in transformers.",
)
@click.option(
    "--max-grad-norm",
    type=click.FloatRange(min=0),
    callback=_finite,
    default=1.0,
    show_default=True,
    help="Clip gradients to this norm; 0 turns it off.",
)
@click.option(
    "--padding/--no-padding",
    default=None,
    help="Whether the batch has padded rows, and so a mask; default: padded when it has more than one row.",
)
@click.option(
    "--loop",
    type=click.Choice(("trainer", "plain")),
    default="trainer",
    show_default=True,
    help="Whose step is traced: transformers.Trainer's or a bare PyTorch loop.",
)
@click.option(
    "--attention",
    type=click.Choice(("sdpa", "eager", "flash_attention_2")),
    default="sdpa",
    show_default=True,
    help="Attention implementation; flash_attention_2 is the flash-attn package, which need not be installed.",
)
@click.option(
    "--sdpa-backend",
    type=click.Choice(("auto", "flash", "efficient", "cudnn", "math")),
    default="auto",
    show_default=True,
    help="Kernel of sdpa; auto follows CUDA's choice for dtype, mask and head size.",
)
@click.option(
    "--use-cache/--no-use-cache",
    default=None,
    help="Whether the forward pass fills a KV cache; default: no, as transformers.Trainer sets it.",
)
@click.option(
    "--alloc-conf",
    metavar="SETTINGS",
    help="The allocator's settings, such as expandable_segments:True; default: PYTORCH_CUDA_ALLOC_CONF, else "
    "PYTORCH_ALLOC_CONF.",
)
@click.option(
    "--gpu",
    "gpus_",
    multiple=True,
    metavar="NAME",
    shell_complete=_complete_gpu,
    help="Whether the step fits this GPU (a100-80gb, 4090), exit code 1 if not; repeatable. The trace follows the "
    "kernels of the first. Default: common cards. `inspect gpus` lists all.",
)
@click.option(
    "--gpu-memory",
    multiple=True,
    metavar="SIZE",
    help="The same for a GPU of this memory, as torch reports it, with a unit: 24GiB, 24GB or 24576MiB.",
)
@click.option(
    "--fit",
    type=click.Choice(QUANTITIES),
    help="Search the largest value that fits the first GPU, and report on the step with it.",
)
@click.option(
    "--advice/--no-advice",
    default=True,
    help="Whether to look for changes that make the step fit a named GPU, up to 8 traces more; default: yes.",
)
@click.option("--count-only", is_flag=True, help="Stop after the parameter counts: no bytes, no traced step.")
@click.option(
    "--depth", type=click.IntRange(0, 64), default=3, show_default=True, help="Module tree down to this depth."
)
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
@click.option("--format", "format_", type=click.Choice(_FORMATS), help="How to print the report; default: text.")
@click.option("--output", shell_complete=_complete_file, metavar="FILE", help="Write the report there.")
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
@click.option("--no-color", is_flag=True, help="No colour; NO_COLOR does the same.")
@click.version_option(package_name="model-inspector", prog_name="inspect", message="%(prog)s %(version)s")
def command(
    model: str,
    revision: str | None,
    dtype: str,
    quantization: str | None,
    double_quant: bool | None,
    model_class: str | None,
    trust_remote_code: bool,
    offline: bool,
    lora: str | None,
    targets: str | None,
    modules_to_save: str | None,
    peft: str | None,
    autocast_adapter_dtype: bool,
    batch_size: int,
    seq_len: int,
    gradient_accumulation: int,
    mixed_precision: str,
    optimizer: str,
    optim_args: str | None,
    gradient_checkpointing: bool,
    use_reentrant: bool,
    max_grad_norm: float,
    padding: bool | None,
    loop: str,
    attention: str,
    sdpa_backend: str,
    use_cache: bool | None,
    alloc_conf: str | None,
    gpus_: tuple[str, ...],
    gpu_memory: tuple[str, ...],
    fit: str | None,
    advice: bool,
    count_only: bool,
    depth: int,
    as_json: bool,
    format_: str | None,
    output: str | None,
    quiet: bool,
    no_color: bool,
) -> Work:
    """Say exactly how many parameters MODEL has, how many an adapter trains, and what they cost in bytes.

    MODEL is a Hub id (Qwen/QwQ-32B), a local directory, a path to a config.json, or an adapter (Hub id or directory
    holding adapter_config.json). No weights are downloaded and no GPU is needed.

    \b
    inspect Qwen/QwQ-32B --lora r=16 --targets all-linear
    inspect meta-llama/Llama-3.2-3B --peft '{"peft_type": "LN_TUNING"}' --json
    inspect Qwen/Qwen2.5-7B --lora r=8 --gpu 4090 && accelerate launch train.py

    Other commands: `inspect gpus` lists the GPUs that --gpu knows, `inspect plan MODEL --gpu NAME` compares ways to
    train on one, `inspect measure MODEL` runs the step on the GPU at hand and prints predicted beside measured. A
    directory of such a name is given as ./gpus.
    """  # noqa: D301  # click wants the backspace itself: it keeps the lines of the examples
    if model in command.subcommands:
        raise UsageError(f"{model} is a command of its own: write inspect {model} first, or ./{model} for a directory.")
    parse_optim_args(optimizer, optim_args)
    return _Job(
        request=Request(
            model=model,
            revision=revision,
            dtype=dtype,
            quantization=quantization,
            double_quant=double_quant,
            model_class=model_class,
            trust_remote_code=trust_remote_code,
            offline=offline,
            peft=_adapter(lora, targets, modules_to_save, peft),
            autocast_adapter_dtype=autocast_adapter_dtype,
            recipe=Recipe(
                batch_size=batch_size,
                seq_len=seq_len,
                gradient_accumulation=gradient_accumulation,
                mixed_precision=mixed_precision,
                optimizer=optimizer,
                optim_args=optim_args,
                gradient_checkpointing=gradient_checkpointing,
                use_reentrant=use_reentrant,
                max_grad_norm=max_grad_norm,
                padding=padding,
                loop=loop,
                attention=attention,
                sdpa_backend=sdpa_backend,
                use_cache=use_cache,
                alloc_conf=alloc_conf,
            ),
            gpus=gpus_,
            gpu_memory=gpu_memory,
            fit=fit,
            advice=advice,
            count_only=count_only,
            depth=depth,
        ),
        format=_format(as_json, format_),
        output=writable(output),
        progress=not quiet,
        color=not no_color,
    )


@subcommand(command)
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
@click.option("--format", "format_", type=click.Choice(_FORMATS), help="How to print the list; default: text.")
@click.option("--output", shell_complete=_complete_file, metavar="FILE", help="Write the list there.")
@click.option("--no-color", is_flag=True, help="No colour; NO_COLOR does the same.")
def gpus(as_json: bool, format_: str | None, output: str | None, no_color: bool) -> Work:
    """List the GPUs that --gpu knows: their memory, and what decides which kernels run on them.

    The names of the list are matched in any case, with and without blanks and hyphens: a100-80gb, rtx4090, 4090.
    """
    return functools.partial(_list_gpus, _format(as_json, format_), writable(output), color=not no_color)


@subcommand(command, parameters=[each for each in command.params if each.name not in _NOT_OF_A_PLAN])
@click.option("--format", "format_", type=click.Choice((*_FORMATS, "csv")), help="How to print it; default: text.")
@click.option(
    "--fit",
    type=click.Choice(("batch-size", "seq-len", "none")),
    default="batch-size",
    show_default=True,
    help="Of what to search the largest value that fits, in each row; none is quick.",
)
@click.option(
    "--sort",
    type=click.Choice(("recipe", "total", "largest")),
    default="recipe",
    show_default=True,
    help="Order of the rows: as the recipes come, the smallest total first, the largest value first.",
)
def plan(format_: str | None, fit: str, sort: str, **options: Any) -> Work:
    """Say in which ways MODEL can be trained on a GPU, what each takes, and the largest batch that fits.

    Ways are full fine-tuning and an adapter (--lora or --peft, else LoRA with r=16 on all linear layers), with and
    without gradient checkpointing, with several optimizers. Each is traced, and each value that is searched, too.

    \b
    inspect plan Qwen/Qwen2.5-7B --gpu 4090
    inspect plan Qwen/Qwen2.5-7B --gpu a100-80gb --seq-len 4096 --sort largest --format csv

    Exit code 1: none of them fits.
    """  # noqa: D301  # as above
    assert command.callback is not None
    csv = format_ == "csv"
    if csv and options["as_json"]:
        raise UsageError("--json contradicts --format csv: drop one of them.")
    shared: dict[str, Any] = {"format_": None if csv else format_, "optimizer": DEFAULT_OPTIMIZER, "optim_args": None}
    shared |= {"gradient_checkpointing": False, "use_reentrant": False, "advice": False, "count_only": False}
    job = command.callback(depth=0, fit=None if fit == "none" else fit, **shared, **options)
    return functools.partial(_plan, dataclasses.replace(job, format="csv") if csv else job, sort)


@subcommand(command, parameters=[each for each in command.params if each.name not in _NOT_OF_A_RUN])
def measure(**options: Any) -> Work:
    """Run the step of MODEL for real on the CUDA GPU at hand, and print predicted beside measured.

    The weights are random and made on the GPU, the batch and the step are those that `inspect MODEL` traces, and the
    options are its options. It refuses before anything is allocated where the prediction says that the step will not
    fit, and leaves nothing on the GPU. --json writes the record that tests/truth keeps.

    \b
    inspect measure Qwen/Qwen2.5-0.5B --lora r=16 --targets all-linear
    inspect measure Qwen/Qwen2.5-7B --lora r=16 --gradient-checkpointing --json --output row.json

    Exit code 1: it does not fit what the GPU has free. A difference is no failure: the exit code is 0.
    """  # noqa: D301  # as above
    assert command.callback is not None
    unused: dict[str, Any] = {"gpus_": (), "gpu_memory": (), "fit": None, "advice": False, "count_only": False}
    return functools.partial(_measure, command.callback(**unused, depth=0, **options))


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit with the contract's code; every error is one line."""
    # This process is the command, and Ctrl-C is meant for it: not so under nohup or behind a script's `&`.
    if arguments is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
    try:
        work = command.main(arguments, prog_name=_program_name(), standalone_mode=False)
        code = work() if callable(work) else 0  # there is none after --help or --version
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except click.ClickException as error:
        _fail(f"{one_line(error.format_message(), 400).rstrip('.')}; see --help.", 2)
    except InspectorError as error:
        _fail(str(error), error.exit_code)
    except Exception as error:
        _fail(
            f"unexpected {type(error).__name__}: {one_line(error)}; INSPECTOR_DEBUG=1 shows where, please report it.", 4
        )
    if code:
        sys.exit(code)


def _interrupted(_signal: int, _frame: object) -> NoReturn:
    """End at once on Ctrl-C.

    A KeyboardInterrupt would surface inside whatever import is at work; importlib can swallow it and keep its lock, on
    which the thread that imports beside it then waits for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one adds nothing
    remove_partial_files()
    with contextlib.suppress(OSError):
        if sys.stderr is not None:  # else 2 may be the number of another file
            os.write(2, b"inspect: interrupted\n")
    os._exit(130)


def _inspect(job: _Job) -> int:
    """Inspect, print or write the report, and return the exit code."""
    from inspector.pipeline import run

    with _progress(shown=job.progress, color=job.color) as progress:
        report = run(job.request, progress)
    with opened(job.output) as stream:
        _render(report, job.format, stream, color=job.color)
    # Python collects garbage once more while it shuts down, which takes a second over what is loaded by now.
    gc.freeze()
    named = bool(job.request.gpus or job.request.gpu_memory)
    return _DOES_NOT_FIT if named and not all(verdict.fits for verdict in report.fit or ()) else 0


def _plan(job: _Job, order: str) -> int:
    """Trace the ways to train, print or write them, and return the exit code."""
    from inspector.pipeline import plan as planned
    from inspector.render.plan import render_plan_csv, render_plan_json, shown_plan

    with _progress(shown=job.progress, color=job.color) as progress:
        made = planned(job.request, progress)
    with opened(job.output) as stream:
        if job.format == "json":
            render_plan_json(made, order, stream)
        elif job.format == "csv":
            render_plan_csv(made, order, stream)
        else:
            _render_document(shown_plan(made, order), job.format, stream, color=job.color)
    gc.freeze()  # as in `_inspect`
    return 0 if any(row.fits or row.largest for row in made.rows) else _DOES_NOT_FIT


def _measure(job: _Job) -> int:
    """Measure, print or write predicted beside measured, and return the exit code."""
    from inspector.pipeline import measure as measured
    from inspector.render.measurement import render_measurement_json, shown_measurement

    with _progress(shown=job.progress, color=job.color) as progress:
        measurement = measured(job.request, progress)
    with opened(job.output) as stream:
        if job.format == "json":
            render_measurement_json(measurement, stream)
        else:
            _render_document(shown_measurement(measurement), job.format, stream, color=job.color)
    return 0


def _format(as_json: bool, format_: str | None) -> str:
    """Return the format that the options ask for, or raise UsageError where they contradict each other."""
    if as_json and format_ not in (None, "json"):
        raise UsageError(f"--json contradicts --format {format_}: drop one of them.")
    return "json" if as_json else format_ or "text"


def _list_gpus(format_: str, output: Path | None, *, color: bool) -> int:
    """Print or write the catalogue of GPUs, and return the exit code."""
    from inspector.fit.catalogue import catalogue
    from inspector.render.gpus import render_gpus_json, shown_gpus

    with opened(output) as stream:
        if format_ == "json":
            render_gpus_json(catalogue(), stream)
        else:
            _render_document(shown_gpus(catalogue()), format_, stream, color=color)
    return 0


def _adapter(lora: str | None, targets: str | None, modules_to_save: str | None, peft: str | None) -> Any:
    """Return the adapter that the options ask for, or raise UsageError where they contradict each other."""
    if lora is not None and peft is not None:
        raise UsageError("--lora and --peft exclude each other: give the LoRA settings in one of them.")
    if peft is not None:
        if targets is not None or modules_to_save is not None:
            raise UsageError(
                "--targets and --modules-to-save go with --lora: with --peft, set them in the PEFT config."
            )
        return read_peft(peft)
    if lora is None:
        if targets is not None or modules_to_save is not None:
            raise UsageError("--targets and --modules-to-save describe an adapter: add --lora r=16, for one.")
        return None
    return parse_lora(lora, targets=parse_targets(targets), modules_to_save=parse_names(modules_to_save))


@contextlib.contextmanager
def _progress(*, shown: bool, color: bool) -> Iterator[Callable[[str], None]]:
    """Show the stage at hand on standard error while it lasts, on a terminal only."""
    if not (shown and sys.stderr is not None and sys.stderr.isatty()):
        yield lambda _stage: None
        return
    from rich.console import Console

    console = Console(file=sys.stderr, no_color=not color or None)
    with console.status("starting") as status:
        yield lambda stage: status.update(stage)


def _render(report: Report, format_: str, stream: TextIO, *, color: bool) -> None:
    """Write the report in the format asked for."""
    if format_ == "json":
        from inspector.render.json_report import render_json

        render_json(report, stream)
    else:
        from inspector.render.facts import document

        _render_document(document(report), format_, stream, color=color)


def _render_document(shown: Document, format_: str, stream: TextIO, *, color: bool) -> None:
    """Write a document as Markdown, or as text as wide as the terminal."""
    if format_ == "markdown":
        from inspector.render.markdown import write_markdown

        write_markdown(shown, stream)
    else:
        from inspector.render.text import write_text

        terminal = stream.isatty()
        write_text(
            shown,
            width=shutil.get_terminal_size((_TEXT_WIDTH, 24)).columns if terminal else _TEXT_WIDTH,
            color=color and terminal and not os.environ.get("NO_COLOR"),
            stream=stream,
        )


def _fail(message: str, exit_code: int) -> NoReturn:
    """Print one line on standard error, after the traceback with INSPECTOR_DEBUG=1, and exit."""
    if os.environ.get("INSPECTOR_DEBUG") == "1":
        traceback.print_exc()
    if sys.stderr is not None:
        # Names of files and of the Hub may hold anything; terminals obey what they are sent.
        print(f"inspect: {one_line(message, _LONGEST_MESSAGE)}", file=sys.stderr)
    sys.exit(exit_code)


def _program_name() -> str:
    """Return the name the user typed, so that completion scripts are made for that command."""
    name = Path(sys.argv[0]).name
    return "python -m inspector" if name == "__main__.py" else name

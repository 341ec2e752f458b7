"""The options of the command: what people have typed into scripts keeps its name."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import entry_points

import click
from click.testing import CliRunner

from inspector.cli.help_sections import SECTIONS
from inspector.cli.main import command
from inspector.cli.option_groups.engines import OF_ENGINES

_OF_ENGINES = {parameter.opts[0] for parameter in OF_ENGINES}


def test_the_options_of_inspect_keep_their_names() -> None:
    """Removing or renaming an option breaks scripts; a new one is added here."""
    options = [option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)]
    assert options == [
        "model",
        "--revision",
        "--dtype",
        "--quantization",
        "--double-quant",
        "--no-double-quant",
        "--quant-storage",
        "--model-class",
        "--trust-remote-code",
        "--assume-defaults",
        "--offline",
        "--lora",
        "--targets",
        "--exclude-targets",
        "--modules-to-save",
        "--peft",
        "--autocast-adapter-dtype",
        "--no-autocast-adapter-dtype",
        "--adapter-dtype",
        "--preparation",
        "--workload",
        "--generate",
        "--new-tokens",
        "--cache",
        "--prefill-chunk-size",
        "--generation",
        "--adapter",
        "--context",
        "--batch-size",
        "--seq-len",
        "--gradient-accumulation",
        "--mixed-precision",
        "--optimizer",
        "--optim-args",
        "--gradient-checkpointing",
        "--no-gradient-checkpointing",
        "--use-reentrant",
        "--no-use-reentrant",
        "--checkpoint-every",
        "--checkpoint-keeps",
        "--offload",
        "--neftune",
        "--train-only",
        "--add-tokens",
        "--max-grad-norm",
        "--padding",
        "--no-padding",
        "--attention-mask",
        "--no-attention-mask",
        "--stage",
        "--reference",
        "--prompt-len",
        "--completion-len",
        "--num-generations",
        "--vllm-share",
        "--loss",
        "--liger",
        "--lora-kernels",
        "--packing",
        "--loop",
        "--attention",
        "--sdpa-backend",
        "--kernels",
        "--use-cache",
        "--no-use-cache",
        "--alloc-conf",
        "--images",
        "--image-size",
        "--videos",
        "--audio-seconds",
        "--frames",
        "--labels",
        "--torch",
        "--gpu",
        "--gpu-memory",
        "--gpus",
        "--fsdp",
        "--deepspeed",
        "--device-map",
        "--tensor-parallel",
        "--expert-parallel",
        "--nodes",
        "--fsdp-version",
        "--margin",
        "--fit",
        "--advice",
        "--no-advice",
        "--extrapolate",
        "--no-extrapolate",
        "--framework",
        "--base-model",
        "--launch",
        "--strict",
        "--count-only",
        "--depth",
        "--engine",
        "--max-model-len",
        "--max-num-seqs",
        "--max-num-batched-tokens",
        "--kv-cache-memory-bytes",
        "--tensor-parallel-size",
        "--block-size",
        "--context-length",
        "--max-running-requests",
        "--chunked-prefill-size",
        "--page-size",
        "--ctx-size",
        "--parallel",
        "--ubatch-size",
        "--n-gpu-layers",
        "--gpu-memory-utilization",
        "--mem-fraction-static",
        "--kv-cache-dtype",
        "--cache-type-k",
        "--cache-type-v",
        "--flash-attn",
        "--kv-unified",
        "--no-kv-unified",
        "--enforce-eager",
        "--details",
        "--show",
        "--plot",
        "--write-changes",
        "--json",
        "--format",
        "--output",
        "--no-cache",
        "--quiet",
        "--no-color",
        "--version",
    ]


def test_the_choices_of_options_keep_their_names() -> None:
    """Choices and defaults are as much of a promise as names."""
    choices = {
        parameter.name: (list(parameter.type.choices), parameter.default)
        for parameter in command.params
        if isinstance(parameter.type, click.Choice)
    }
    assert choices["dtype"] == (["auto", "float32", "bfloat16", "float16"], "auto")
    assert choices["quantization"][0] == ["none", "nf4", "fp4", "int8"]
    assert choices["format_"][0] == ["text", "json", "markdown", "html", "memory-viz"]


def test_the_options_of_a_plan_stay() -> None:
    """Those of a report, without what the plan varies and what it does not show, and its own."""
    plan = command.subcommands["plan"]
    ours = {parameter.opts[0] for parameter in command.params}
    theirs = {parameter.opts[0] for parameter in plan.params}
    varied = {"--optimizer", "--optim-args", "--gradient-checkpointing", "--use-reentrant"}
    varied |= {"--autocast-adapter-dtype", "--adapter-dtype"}
    varied |= {"--checkpoint-every", "--checkpoint-keeps", "--offload"}
    assert (ours - theirs, theirs - ours) == (
        {
            *(*varied, "--workload", "--advice", "--count-only", "--depth", "--details", "--show", "--plot"),
            "--write-changes",
            *(
                "--fsdp",
                "--deepspeed",
                "--device-map",
                "--tensor-parallel",
                "--expert-parallel",
                "--nodes",
                "--fsdp-version",
            ),  # a plan goes through the strategies
            *_OF_ENGINES,
            "--context",  # it searches the longest prompt
        },
        {"--sort"},
    )


def test_the_options_of_a_comparison_stay() -> None:
    """Those of a report, without what it does not show, and the recipes."""
    ours = {parameter.opts[0] for parameter in command.params}
    theirs = {parameter.opts[0] for parameter in command.subcommands["compare"].params}
    unshown = {"--context", "--depth", "--details", "--show", "--plot", "--write-changes"}
    assert (ours - theirs, theirs - ours) == (
        {"model", "--fit", "--advice", *unshown},
        {"models", "--with"},
    )


def test_words_that_start_a_command_stay_commands() -> None:
    """A word that starts a command keeps doing so."""
    assert sorted(command.subcommands) == ["app", "cache", "compare", "gpus", "measure", "models", "plan", "sweep"]


def test_every_option_has_a_line_of_help() -> None:
    """`--help` leaves nothing unsaid."""
    for each in (command, *command.subcommands.values()):
        assert [option.name for option in each.params if isinstance(option, click.Option) and not option.help] == []


def test_every_option_of_a_report_stands_under_one_heading_of_the_help() -> None:
    """A hundred options in one list cannot be read; a heading names no option that there is not."""
    listed = Counter(name for options in SECTIONS.values() for name in options)
    known = {option.opts[0] for option in command.params if isinstance(option, click.Option)}
    assert (set(listed) - {"--help"}, set(listed.values())) == (known, {1})
    text = CliRunner().invoke(command, ["--help"]).output
    assert [line[:-1] for line in text.splitlines() if line.endswith(":") and line[0] != " "][1:] == list(SECTIONS)
    own = CliRunner().invoke(command, ["plan", "--help"]).output.split("\nModel:")[0]
    assert "--sort" in own.split("\nOptions:")[1]


def test_the_commands_are_installed() -> None:
    """`inspect`, and `model-inspect` for where another package has taken that name."""
    scripts = {point.name: point.value for point in entry_points(group="console_scripts")}
    assert scripts["inspect"] == scripts["model-inspect"] == "inspector.cli.main:main"


def test_the_examples_of_the_help_stand_on_lines_of_their_own() -> None:
    """Without a backspace click joins lines of the help, and a raw docstring would show the backspace."""
    help_text = CliRunner().invoke(command, ["--help"]).output
    assert "\\b" not in help_text
    examples = [line for line in help_text.splitlines() if line.startswith("  inspect ")]
    assert [line.split()[1] for line in examples] == [
        *("Qwen/QwQ-32B", "meta-llama/Llama-3.2-3B", "train.yaml", "Qwen/Qwen2.5-7B", "Qwen/Qwen3-8B")
    ]

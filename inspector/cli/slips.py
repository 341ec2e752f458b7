"""What was probably meant where click refuses a command line that other tools or common habits would take."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import click

from inspector.errors import quoted

__all__ = ["explain_slip"]

_QLORA = "--quantization nf4 --double-quant --lora r=16"
# Options that other tools have, and what they are here.
_ELSEWHERE: Mapping[str, str] = {
    "--qlora": _QLORA,
    "--load-in-4bit": "--quantization nf4",
    "--load-in-8bit": "--quantization int8",
    "--bf16": "--mixed-precision bf16",
    "--fp16": "--mixed-precision fp16",
    "--per-device-train-batch-size": "--batch-size",
    "--gradient-accumulation-steps": "--gradient-accumulation",
    "--max-length": "--seq-len",
    "--max-seq-length": "--seq-len",
    "--cutoff-len": "--seq-len",
    "--sequence-len": "--seq-len",
    "--micro-batch-size": "--batch-size",
    "--optim": "--optimizer",
    "--use-peft": "--lora r=16",
    "--lora-r": "--lora r=16",
    "--lora-rank": "--lora r=16",
    "--lora-alpha": "--lora r=16,alpha=32",
    "--lora-target-modules": "--targets",
    "--target-modules": "--targets",
    "--attn-implementation": "--attention",
    "--flash-attention": "--attention flash_attention_2",
    "--max-new-tokens": "--new-tokens",
    "--torch-dtype": "--dtype",
    "--use-liger-kernel": "--liger",
}
# Those that change nothing of the memory.
_WITHOUT_EFFECT = frozenset({"--learning-rate", "--lr", "--num-train-epochs", "--epochs", "--max-steps"})
# What other tools take behind an option that is a switch here.
_OF_SWITCHES = frozenset({"true", "false", "yes", "no", "on", "off", "1", "0", "full_shard", "shard_grad_op"})
_EXAMPLES: Mapping[str, str] = {"--lora": "r=16", "--gpu": "4090", "--gpu-memory": "24GiB", "--fit": "batch-size"}


def explain_slip(
    error: click.ClickException, words: Sequence[str], known: Sequence[click.Parameter], commands: Sequence[str]
) -> str | None:
    """Return what to write instead of `words`, in one line; None where nothing is known to say.

    `known` are the parameters of `inspect MODEL`, `commands` the words that are subcommands.
    """
    if isinstance(error, click.NoSuchOption):
        name = error.option_name.replace("_", "-")
        if name in _WITHOUT_EFFECT:
            return f"{error.option_name} is no option, since memory does not depend on it; drop it."
        meant = _ELSEWHERE.get(name)
        return meant and f"{error.option_name} is no option; write {meant}."
    missing = _find_missing_value(words, known)
    if missing is None and "unexpected extra argument" in error.message:
        return _explain_extra(words, known, commands)
    return missing


def _find_missing_value(words: Sequence[str], known: Sequence[click.Parameter]) -> str | None:
    """Return which option has taken the next one for its value."""
    options = {name: parameter for parameter in known if isinstance(parameter, click.Option) for name in parameter.opts}
    for word, following in itertools.pairwise(words):
        if word in options and not options[word].is_flag and following in options:
            return f"{word} needs a value before {following}: write {word} {_find_example(options[word])}."
    return None


def _find_example(option: click.Option) -> str:
    """Return a value that an option takes."""
    name = option.opts[0]
    default = option.default if isinstance(option.default, (str, int)) else None
    choices = getattr(option.type, "choices", ())
    return str(_EXAMPLES.get(name) or default or next(iter(choices), option.metavar or "VALUE"))


def _explain_extra(words: Sequence[str], known: Sequence[click.Parameter], commands: Sequence[str]) -> str | None:
    """Return what a word beside MODEL probably is: an option whose hyphens are missing, or a second model."""
    if not words or words[0] in commands or words[0].startswith("-"):
        return None
    options = {name: parameter for parameter in known if isinstance(parameter, click.Option) for name in parameter.opts}
    option = options.get(f"--{words[0].lower()}")
    if option is not None:
        value = "" if option.is_flag else f" {_find_example(option)}"
        return f"{quoted(words[0], 40)} is no command; write inspect MODEL {option.opts[0]}{value}."
    for word, following in itertools.pairwise(words):
        if word in options and options[word].is_flag and following.lower() in _OF_SWITCHES:
            return f"{word} is a switch, which takes no value: drop {quoted(following, 20)}."
    extra = next((word for word in words[1:] if not word.startswith("-")), "")
    return (
        f"{quoted(words[0], 60)} is taken for MODEL, and {quoted(extra, 60)} beside it is no value of an option: "
        "name one model, or several in inspect compare."
    )

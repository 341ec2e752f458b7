"""Options that are of generation alone: how long, and what is kept of the tokens so far.

Standard library and click only, as `options`.
"""

from __future__ import annotations

import re

import click

from inspector.cli.option_groups.parameter_types import MOST_TOKENS, TOKENS
from inspector.errors import UsageError, quoted
from inspector.records.recipe import CacheKind

__all__ = ["OF_GENERATION", "choose_workload"]

_MOST_CONTEXTS = 16
_LENGTH = re.compile(r"(\d{1,8})(k?)", re.IGNORECASE)


def _parse_lengths(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Return the lengths of a comma list, where k is 1,024 tokens; refuse what is none."""
    lengths = []
    for piece in value.split(",") if value is not None else ():
        match = _LENGTH.fullmatch(piece.strip())
        length = int(match[1]) * (1024 if match[2] else 1) if match else 0
        if not 1 <= length <= MOST_TOKENS:
            raise click.BadParameter(f"{quoted(piece, 40)} is no number of tokens; write 4096 or 4k.")
        lengths.append(length)
    if len(lengths) > _MOST_CONTEXTS:
        raise click.BadParameter(f"{len(lengths)} lengths are more than {_MOST_CONTEXTS}; give fewer.")
    return tuple(sorted(set(lengths)))


OF_GENERATION: tuple[click.Parameter, ...] = (
    click.Option(
        ["--generate"],
        is_flag=True,
        help="Generate text instead of training, as model.generate does: same as --workload generate.",
    ),
    click.Option(
        ["--new-tokens"],
        type=TOKENS,
        default=256,
        show_default=True,
        help="With --generate: tokens after the prompt, as max_new_tokens.",
    ),
    click.Option(
        ["--cache"],
        type=click.Choice(CacheKind.values()),
        default="dynamic",
        show_default=True,
        help="With --generate: transformers' cache of keys and values; static is not compiled, none computes "
        "all tokens again for each.",
    ),
    click.Option(
        ["--prefill-chunk-size"],
        type=TOKENS,
        metavar="N",
        help="With --generate: the prompt goes through the model in pieces of so many tokens; default: at once.",
    ),
    click.Option(
        ["--context"],
        metavar="N,N,...",
        callback=_parse_lengths,
        help="With --generate: a table of what prompts of other lengths take, such as 4k,32k,128k.",
    ),
)


def choose_workload(workload: str, *, generates: bool) -> str:
    """Return the workload of --workload and --generate; raise UsageError where the two contradict each other."""
    if generates and workload not in ("training", "generate"):
        raise UsageError(f"--generate and --workload {workload} exclude each other: give one of them.")
    return "generate" if generates else workload

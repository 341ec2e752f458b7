"""Options that are of generation alone: how long, and what is kept of the tokens so far.

Standard library and click only, as `options`.
"""

from __future__ import annotations

import click

from inspector.cli.option_groups.parameter_types import TOKENS
from inspector.errors import UsageError
from inspector.records.recipe import CacheKind

__all__ = ["OF_GENERATION", "choose_workload"]

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
)


def choose_workload(workload: str, *, generates: bool) -> str:
    """Return the workload of --workload and --generate; raise UsageError where the two contradict each other."""
    if generates and workload not in ("training", "generate"):
        raise UsageError(f"--generate and --workload {workload} exclude each other: give one of them.")
    return "generate" if generates else workload

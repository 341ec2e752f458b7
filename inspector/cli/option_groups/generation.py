"""Options that are of generation alone: how long, and what is kept of the tokens so far.

Standard library and click only, as `options`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from inspector.cli.option_groups.parameter_types import MOST_TOKENS, TOKENS
from inspector.cli.option_groups.training_files import find_given
from inspector.errors import UsageError, quoted
from inspector.records.recipe import AdapterState, CacheKind
from inspector.records.steps.decoding import OWN_SETTINGS

__all__ = ["OF_GENERATION", "choose_workload", "spread_decoding"]

_MOST_CONTEXTS = 16
# Commas between pairs, not those in lists and objects.
_BETWEEN_PAIRS = re.compile(r",(?=[^,\[\]{}]+=)")
_LENGTH = re.compile(r"(\d{1,8})(k?)", re.IGNORECASE)


def _read_decoding(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Mapping[str, Any] | None:
    """Return the fields of GenerationConfig that a text or a file says."""
    if value is None:
        return None
    if "=" in value:
        return dict(_read_pair(piece) for piece in _BETWEEN_PAIRS.split(value))
    from inspector.source.bounded_json import read_object

    path = Path(value) / "generation_config.json" if Path(value).is_dir() else Path(value)
    if not path.is_file():
        raise click.BadParameter(
            f"{quoted(value, 60)} is neither KEY=VALUE nor a file; write do_sample=true,top_p=0.9."
        )
    return read_object(path, error=UsageError)


def _read_pair(piece: str) -> tuple[str, Any]:
    """Return the name and the value of KEY=VALUE; a value is JSON, with True, False and None as in Python."""
    name, equals, text = piece.partition("=")
    if not equals or not name.strip():
        raise click.BadParameter(f"{quoted(piece, 40)} is no KEY=VALUE, as top_p=0.9; give one, or a file.")
    text = {"True": "true", "False": "false", "None": "null"}.get(text.strip(), text.strip())
    try:
        return name.strip(), json.loads(text)
    except ValueError:
        return name.strip(), text


def spread_decoding(values: dict[str, Any]) -> None:
    """Move what GenerationConfig says of length and cache from --generation to the options that say it here.

    Raises UsageError where both say it, differently.
    """
    given = values.get("generation")
    if given is None:
        return
    rest = dict(given)
    found: dict[str, Any] = {}
    for key in OWN_SETTINGS:
        value = rest.pop(key, None)
        if value is None or key == "max_length" or (key == "use_cache" and value is True):
            continue
        found[OWN_SETTINGS[key]] = str(CacheKind.NONE) if key == "use_cache" else value
    typed = find_given(None)
    for name, value in found.items():
        if name in typed and values[name] != value:
            raise UsageError(f"`{name}` and `generation` say different things of it: drop one.")
    if "cache" in found and found["cache"] not in CacheKind.values():
        raise UsageError(
            f"`generation`: cache_implementation {quoted(str(found['cache']), 40)} is not traced; give `cache`, one of "
            f"{', '.join(CacheKind.values())}."
        )
    values |= {**found, "generation": rest or None}


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
        help="With --generate: transformers' KV cache; static is not compiled, none recomputes all tokens for each new "
        "one.",
    ),
    click.Option(
        ["--prefill-chunk-size"],
        type=TOKENS,
        metavar="N",
        help="With --generate: tokens of the prompt that go through the model at a time; default: all.",
    ),
    click.Option(
        ["--generation"],
        metavar="KEY=VALUE,...|FILE",
        callback=_read_decoding,
        help="With --generate: fields of transformers' GenerationConfig, such as do_sample=true,top_p=0.9, or a "
        "generation_config.json; default: the model's own, else greedy.",
    ),
    click.Option(
        ["--adapter"],
        type=click.Choice(AdapterState.values()),
        default="unmerged",
        show_default=True,
        help="With --generate: merged has PEFT merge the adapter into the base first, and counts what that takes.",
    ),
    click.Option(
        ["--context"],
        metavar="N,N,...",
        callback=_parse_lengths,
        help="With --generate: add a table of prompts of other lengths, such as 4k,32k,128k.",
    ),
)


def choose_workload(workload: str, *, generates: bool) -> str:
    """Return the workload of --workload and --generate; raise UsageError where the two contradict each other."""
    if generates and workload not in ("training", "generate"):
        raise UsageError(f"--generate and --workload {workload} exclude each other: give one of them.")
    return "generate" if generates else workload

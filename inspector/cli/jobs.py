"""The values of the options -> the job that they ask for, or one line where they contradict each other."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspector.cli.contradictions import refuse_contradictions
from inspector.cli.option_groups.cards import choose_sharding, read_device_map
from inspector.cli.option_groups.generation import choose_workload, spread_decoding
from inspector.cli.option_groups.training_files import find_given
from inspector.cli.output import check_output
from inspector.cli.values import parse_lora, parse_names, parse_targets, read_peft
from inspector.errors import UsageError, quoted
from inspector.records.request import LoraOptions, Request
from inspector.records.steps.optimizers import parse_optim_args
from inspector.training_files.names import has_suffix

__all__ = ["Job", "build_job", "choose_format"]

_FORMAT_OF_ENDING = {".json": "json", ".md": "markdown", ".markdown": "markdown", ".csv": "csv"}
# Formats that some commands have beside those of all, by the endings that choose them, with what to write them to.
_FORMAT_OF_OWN_ENDING = {".html": "html", ".htm": "html", ".pickle": "memory-viz", ".pkl": "memory-viz"}
_FILE_OF_FORMAT = {"html": "report.html", "memory-viz": "snapshot.pickle"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the arguments ask for.

    `output` is the file to write, None standard output; `keeps` says whether the cache directory is used.
    """

    request: Request
    format: str
    output: Path | None
    progress: bool
    color: bool
    keeps: bool = True


def build_job(
    *,
    model: str,
    lora: str | None,
    targets: str | None,
    exclude_targets: str | None,
    modules_to_save: str | None,
    peft: str | None,
    gpus_: tuple[str, ...],
    fsdp: bool,
    deepspeed: str | None,
    as_json: bool,
    format_: str | None,
    output: str | None,
    formats: Collection[str] = (),
    quiet: bool,
    no_color: bool,
    generate: bool = False,
    framework: str | None = None,
    base_model: str | None = None,
    launch: tuple[str, ...] = (),
    strict: bool = False,
    typed: Collection[str] | None = None,
    device_map: str | None = None,
    fsdp_version: str | None = None,
    no_cache: bool = False,
    at_hand: bool = False,
    **values: Any,
) -> Job:
    """Return the job that the values of PARAMETERS ask for; raise UsageError where they contradict each other.

    MODEL may be a training file: then what is not `typed`, by default on the command line at hand, is what it says.
    `at_hand` says that the cards are those of this machine.
    """
    from inspector.training_files.merge import build_request

    sharding = choose_sharding(fsdp=fsdp, fsdp_version=fsdp_version, deepspeed=deepspeed)
    parse_optim_args(values["optimizer"], values["optim_args"])
    spread_decoding(values)
    arguments = {
        **values,
        "workload": choose_workload(values["workload"], generates=generate),
        "model": model,
        "train_only": values["train_only"] or None,
        "peft": _read_adapter(lora, peft, targets, exclude_targets, modules_to_save, is_file=has_suffix(model)),
        "gpus": gpus_,
        "device_map": read_device_map(device_map),
        "sharding": sharding,
    }
    request = build_request(
        arguments,
        find_given(typed),
        framework=framework,
        launch=launch,
        base_model=base_model,
        strict=strict,
        at_hand=at_hand,
    )
    refuse_contradictions(request.recipe)
    chosen = choose_format(as_json, format_, output, formats)
    if chosen == "memory-viz" and request.count_only:
        raise UsageError("--format memory-viz writes a traced run, and --count-only traces none: drop one of them.")
    if chosen == "memory-viz" and request.serving is not None:
        raise UsageError("--format memory-viz writes a traced run, and --engine traces none: drop one of them.")
    return Job(
        request=request,
        format=chosen,
        output=check_output(output),
        progress=not quiet,
        color=not no_color,
        keeps=not no_cache,
    )


def choose_format(as_json: bool, format_: str | None, output: str | None = None, formats: Collection[str] = ()) -> str:
    """Return the format that the options ask for, else the one that the name of the output file ends in.

    `formats` are those that the command has beside text, JSON and Markdown. Raises UsageError where options contradict
    each other, for a file of a format that the command does not write, and for a terminal that would get a file.
    """
    if as_json and format_ not in (None, "json"):
        raise UsageError(f"--json contradicts --format {format_}: drop one of them.")
    if as_json or format_ is not None or output is None:
        chosen = "json" if as_json else format_ or "text"
        if chosen in _FILE_OF_FORMAT and output in (None, "-") and sys.stdout is not None and sys.stdout.isatty():
            raise UsageError(f"--format {chosen} is no text for a terminal: add --output {_FILE_OF_FORMAT[chosen]}.")
        return chosen
    ending = Path(output).suffix.lower()
    if ending == ".csv" and "csv" not in formats:
        raise UsageError(
            f"--output {quoted(output)}: this is not written as CSV; give --format text, or a .json or .md."
        )
    own = _FORMAT_OF_OWN_ENDING.get(ending)
    return own if own is not None and own in formats else _FORMAT_OF_ENDING.get(ending, "text")


def _read_adapter(
    lora: str | None,
    peft: str | None,
    targets: str | None,
    exclude_targets: str | None,
    modules_to_save: str | None,
    *,
    is_file: bool,
) -> Any:
    """Return the adapter that the options ask for, or raise UsageError where they contradict each other.

    Beside a training file options may change the targets of the adapter that it has.
    """
    if lora is not None and peft is not None:
        raise UsageError("--lora and --peft exclude each other: give the LoRA settings in one of them.")
    is_named = any(value is not None for value in (targets, exclude_targets, modules_to_save))
    if peft is not None:
        if is_named:
            raise UsageError(
                "--targets, --exclude-targets and --modules-to-save go with --lora: with --peft, set them in the PEFT "
                "config."
            )
        return read_peft(peft)
    named: dict[str, Any] = {
        "targets": parse_targets(targets),
        "exclude_targets": parse_targets(exclude_targets, "--exclude-targets"),
        "modules_to_save": parse_names(modules_to_save),
    }
    if lora is None:
        if is_file and is_named:
            return LoraOptions(**named)
        if is_named:
            raise UsageError(
                "--targets, --exclude-targets and --modules-to-save describe an adapter: add --lora r=16, for one."
            )
        return None
    return parse_lora(lora, **named)

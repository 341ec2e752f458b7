"""The values of the adapter options: what a user types -> what a Request holds. Every mistake becomes one line."""

from __future__ import annotations

import contextlib
import difflib
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from inspector.errors import UsageError, one_line, quoted
from inspector.records.request import LoraOptions

__all__ = ["parse_lora", "parse_names", "parse_targets", "read_peft"]

_BIASES = ("none", "all", "lora_only")
_FLAGS = ("dora", "rslora")
# What else people call the keys.
_SYNONYMS = {"rank": "r", "lora_r": "r", "R": "r"}
# What PEFT's LoraConfig has beside them, and options of their own say here.
_OPTIONS = {
    "target_modules": "--targets",
    "targets": "--targets",
    "exclude_modules": "--exclude-targets",
    "modules_to_save": "--modules-to-save",
}
_ALL_LINEAR = "all-linear"
# What other tools call it.
_ALL_LINEAR_ELSEWHERE = "all"
# A dotted path or one of its ends; anything else in --targets is a regular expression.
_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_LARGEST_INTEGER = 2**31 - 1


def parse_lora(
    spec: str,
    *,
    targets: str | list[str] | None = None,
    exclude_targets: str | list[str] | None = None,
    modules_to_save: list[str] | None = None,
) -> LoraOptions:
    """Read `r=16,alpha=32,dropout=0.05,bias=none,dora,rslora`; what is left out keeps PEFT's default."""
    values: dict[str, Any] = {}
    for part in (piece.strip() for piece in spec.split(",")):
        key, separator, text = (piece.strip() for piece in part.partition("="))
        _check_one_setting(part)
        if key in values:
            raise UsageError(f"--lora: {key} is given twice; drop one.")
        if key in _FLAGS and not separator:
            values[key] = True
        elif key in _READERS and separator:
            values[key] = _READERS[key](key, text)
        else:
            raise UsageError(f"--lora: {_describe_mistake(key, part)}")
    return LoraOptions(**values, targets=targets, exclude_targets=exclude_targets, modules_to_save=modules_to_save)


def parse_targets(text: str | None, option: str = "--targets") -> str | list[str] | None:
    """Read `all-linear`, a comma list of names, or one regular expression as PEFT's target_modules.

    What another option leaves out of them is read in the same way, without all-linear.
    """
    if option != "--targets":
        return None if text is None else _read_patterns(option, text, "router,lm_head")
    if text is None or text == _ALL_LINEAR:
        return text
    if not text.strip():
        raise UsageError("--targets is empty: name modules, or say all-linear.")
    names = [piece.strip() for piece in text.split(",")]
    if len(names) > 1 and all(names) and _ALL_LINEAR in (name.lower().replace("_", "-") for name in names):
        raise UsageError(
            f"--targets {quoted(text)}: {_ALL_LINEAR} cannot stand in a list; give it alone, or name modules alone."
        )
    meant = text.strip().lower().replace("_", "-")
    if meant == _ALL_LINEAR_ELSEWHERE or difflib.get_close_matches(meant, [_ALL_LINEAR], n=1, cutoff=0.8):
        raise UsageError(f"--targets {quoted(text)} is no target; did you mean {_ALL_LINEAR}?")
    return _read_patterns(option, text, "q_proj,v_proj")


def _read_patterns(option: str, text: str, example: str) -> str | list[str]:
    """Read a comma list of names, or one regular expression."""
    names = [piece.strip() for piece in text.split(",")]
    if not all(names):
        raise UsageError(f"{option} {quoted(text)} has an empty name; write {example}.")
    if all(_NAME.fullmatch(name) for name in names):
        return names
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(
            f"{option} {quoted(text, 60)} is neither a comma list of names nor a regular expression "
            f"({one_line(error)}); correct it."
        ) from error
    return text


def parse_names(text: str | None) -> list[str] | None:
    """Read a comma list of module names."""
    if text is None:
        return None
    names = [piece.strip() for piece in text.split(",")]
    if not all(names):
        raise UsageError(f"--modules-to-save {quoted(text)} has an empty name: write lm_head,embed_tokens.")
    return names


def read_peft(text: str) -> Mapping[str, Any]:
    """Read inline JSON, an adapter_config.json, or a directory holding one."""
    from inspector.source.bounded_json import parse_object, read_object

    if text.lstrip().startswith("{"):
        return parse_object(text, "--peft", error=UsageError)
    if not text.strip() or "\0" in text:
        raise UsageError("--peft names nothing; name a file, a directory or inline JSON that starts with a brace.")
    path = Path(text)
    with contextlib.suppress(OSError, RuntimeError):  # a name that is too long; no home directory
        path = path.expanduser()
        if path.is_dir():
            path = path / "adapter_config.json"
        if path.is_file():
            return read_object(path, f"--peft {quoted(path)}", error=UsageError)
    raise UsageError(f"--peft: there is no file {quoted(path)}; name one, or inline JSON that starts with a brace.")


def read_object_of_option(option: str, text: str, advice: str) -> Mapping[str, Any]:
    """Read inline JSON or a file of it that an option names; `advice` says what else it may be."""
    from inspector.source.bounded_json import parse_object, read_object

    if text.lstrip().startswith("{"):
        return parse_object(text, option, error=UsageError)
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # a name that is too long, or has a null in it
        path = Path(text).expanduser()
        if path.is_file():
            return read_object(path, f"{option} {quoted(path)}", error=UsageError)
    raise UsageError(f"{option}: there is no file {quoted(text, 80)}; {advice}")


def _read_positive(key: str, text: str) -> int:
    """Read an integer of at least 1."""
    number = int(text) if re.fullmatch(r"[0-9]{1,10}", text) else 0
    if not 1 <= number <= _LARGEST_INTEGER:
        raise UsageError(
            f"--lora: {key}={one_line(text, 40)} is not allowed: give an integer from 1 to {_LARGEST_INTEGER}."
        )
    return number


def _read_fraction(key: str, text: str) -> float:
    """Read a probability below 1."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < 1:
        raise UsageError(f"--lora: {key}={one_line(text, 40)} is no number from 0 to below 1; write {key}=0.05.")
    return number


def _read_bias(key: str, text: str) -> str:
    """Read one of PEFT's bias settings."""
    if text not in _BIASES:
        raise UsageError(f"--lora: {key}={one_line(text, 40)} is not known; use {' or '.join(_BIASES)}.")
    return text


_READERS: dict[str, Callable[[str, str], Any]] = {
    "r": _read_positive,
    "alpha": _read_positive,
    "dropout": _read_fraction,
    "bias": _read_bias,
}


_EXAMPLES = {"r": "16", "alpha": "32", "dropout": "0.05", "bias": "none"}


def _check_one_setting(part: str) -> None:
    """Refuse settings that something else than a comma separates."""
    pieces = [piece for piece in re.split(r"[;\s]+", re.sub(r"\s*=\s*", "=", part)) if piece]
    known = all(piece.partition("=")[0] in (*_READERS, *_FLAGS) for piece in pieces)
    if ";" in part or (len(pieces) > 1 and known):
        example = one_line(",".join(pieces), 60) if pieces and known else "r=16,alpha=32"
        raise UsageError(f"--lora: {quoted(part, 60)}: a comma separates settings; write {example}.")


def _describe_mistake(key: str, part: str) -> str:
    """Say what is wrong with a piece of the LoRA specification, and what to write instead."""
    if not part:
        return "there is nothing between two commas or at an end; write r=16, for one."
    if key in _READERS:
        return f"{key} needs a value: {key}={_EXAMPLES[key]}, or drop it."
    if key in _FLAGS:
        return f"{key} takes no value; write {key} alone."
    if key in _OPTIONS:
        return f"{key} has an option of its own: give {_OPTIONS[key]} beside --lora."
    if re.fullmatch(r"[0-9]{1,10}", part):
        return f"{part} is no setting; did you mean r={part if 1 <= int(part) <= _LARGEST_INTEGER else 16}?"
    joined = re.fullmatch(r"(?:lora_)?([A-Za-z]+)[:_ -]?([0-9.]{1,10})", part)  # r16, alpha:32
    setting = joined and _SYNONYMS.get(joined[1], joined[1])
    if joined and setting in _READERS:
        return f"{quoted(part, 60)} is no setting; did you mean {setting}={joined[2]}?"
    known = (*_READERS, *_FLAGS)
    near = difflib.get_close_matches(key.removeprefix("lora_").removeprefix("use_"), known, n=1)
    meant = _SYNONYMS.get(key) or (near[0] if near else None)
    return f"{quoted(part, 60)} is not known; " + (f"did you mean {meant}?" if meant else f"use {', '.join(known)}.")

"""Every error that the inspector raises on purpose, and the exit code each one stands for.

::

    InspectorError                   anything below; catch this one
    ├── DoesNotFitError          1   the step that was to be measured needs more memory than the GPU has free
    ├── UsageError               2   a bad option or value, a target that names no module
    ├── ModelUnavailableError    3   not found, gated, no network, no config
    ├── UnsupportedModelError    4   unknown architecture, untrusted remote code, malformed config
    └── CompatibilityError       4   a release of another library lacks a name that the inspector needs

A message is one line that names the cause and the next step. Whatever came from a repository or from the user is
quoted with `quoted`, so that no control character reaches a terminal.
"""

from __future__ import annotations

__all__ = [
    "CompatibilityError",
    "DoesNotFitError",
    "InspectorError",
    "ModelUnavailableError",
    "NotTraceableError",
    "UnsupportedModelError",
    "UsageError",
    "one_line",
    "quoted",
]

_LONGEST_QUOTE = 200


class InspectorError(Exception):
    """Base of the errors raised on purpose; `exit_code` is what the command returns for it."""

    exit_code = 4


class NotTraceableError(Exception):
    """This model's run cannot be traced; the message says why, without a full stop. A report then tells the rest."""


class DoesNotFitError(InspectorError):
    """The step that was to be measured needs more memory than the GPU has free."""

    exit_code = 1


class UsageError(InspectorError):
    """The request itself is wrong: a bad option, a bad value, a target that names no module."""

    exit_code = 2


class ModelUnavailableError(InspectorError):
    """The model could not be had: not found, gated, no network, no config."""

    exit_code = 3


class UnsupportedModelError(InspectorError):
    """The model cannot be inspected: unknown architecture, untrusted remote code, malformed config."""

    exit_code = 4


class CompatibilityError(InspectorError):
    """A release of torch, transformers or PEFT lacks a private name that the inspector needs (`inspector.compat`)."""

    exit_code = 4


def one_line(text: object, limit: int = _LONGEST_QUOTE) -> str:
    """Return `text` on one line, without control characters, cut to `limit` characters."""
    flat = " ".join(str(text).split())
    clean = flat
    if not flat.isprintable():
        clean = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in flat)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def quoted(text: object, limit: int = _LONGEST_QUOTE) -> str:
    """Return `text` in single quotes as `one_line` cleans it."""
    return f"'{one_line(text, limit)}'"

"""What values options take beside click's own types.

Standard library and click only, as `options`.
"""

from __future__ import annotations

import re
from typing import Any

import click

from inspector.checks import Choice

__all__ = ["COUNT", "MOST_TOKENS", "TOKENS", "ChoiceWithAliases"]

# A batch or a sequence beyond this is a typing error; the longest contexts are some 10^7 tokens.
MOST_TOKENS = 2**24


class _Count(click.IntRange):
    """A number, which may be written as reports print it: 4,096."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of a text."""
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,3}(,[0-9]{3})+", value):
            value = value.replace(",", "")
        count: int = super().convert(value, param, ctx)
        return count


class _TokenCount(_Count):
    """A number of tokens; `4k` is 4,096, as context lengths are written."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number that a text is or abbreviates."""
        if isinstance(value, str) and (thousands := re.fullmatch(r"([0-9]{1,5})[kK]", value)):
            value = 1024 * int(thousands[1])
        return super().convert(value, param, ctx)


COUNT = _Count(1, MOST_TOKENS)
TOKENS = _TokenCount(1, MOST_TOKENS)


class ChoiceWithAliases(click.Choice[str]):
    """The values of a closed choice, and what else they are called."""

    def __init__(self, kind: type[Choice]) -> None:
        super().__init__(kind.values())
        self._aliases = kind.aliases()
        self._unclear = kind.unclear_names()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the value that a text is or names."""
        if value in self._unclear:
            self.fail(self._unclear[value], param, ctx)
        return super().convert(self._aliases.get(value, value), param, ctx)

"""The examples that pages quote: run as they stand, and written anew where they print something else by now.

`python -m tests.contracts.examples` writes them into every page; test_examples.py holds the pages against what is
printed. An example is a block of `console`: a line `$ inspect ...`, and below it what that prints in a pipe, without
network and without a cache. Where the last line is `...`, as many lines are quoted as stand above it. In a block of
`python`, what stands behind `  # ` on a line of its own expression is the value of that expression.
"""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from huggingface_hub import constants

from tests.cli.running import run

__all__ = ["PAGES", "Example", "list_examples", "make_anew"]

ROOT = Path(__file__).parents[2]
PAGES = tuple(sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]))
_BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CUT = "..."
# Expressions whose value is quoted, and the quotation.
_VALUE = re.compile(r"^(?P<code>\S.*?)  # (?P<value>[\d'\"\[(-].*)$")
_UNSET = ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "HF_ENDPOINT")


class Example(NamedTuple):
    """A quoted block: its page, the kind of block and what stands in it."""

    page: Path
    kind: str
    text: str

    @property
    def name(self) -> str:
        """Return the page and the command or the first line of code."""
        return f"{self.page.name}: {self.text.splitlines()[0]}"


def list_examples(page: Path) -> Iterator[Example]:
    """Yield the examples of a page in their order; Python without quoted values is none."""
    for match in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        kind, text = match.groups()
        if kind == "console" or any(map(_VALUE.match, text.splitlines())):
            yield Example(page, kind, text)


def make_anew(example: Example) -> str:
    """Return the text of an example as it comes out today."""
    with tempfile.TemporaryDirectory() as cache, pytest.MonkeyPatch.context() as patch:
        for name in _UNSET:
            patch.delenv(name, raising=False)
        patch.setenv("INSPECTOR_CACHE", "off")
        # What the client of the Hub reads of the environment when it is imported.
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        patch.setattr(constants, "HF_HUB_CACHE", cache)
        patch.chdir(ROOT)
        return (_run_command if example.kind == "console" else _run_code)(example.text)


def _run_command(text: str) -> str:
    """Return a command and what it prints, cut where it is quoted in part."""
    lines = text.splitlines()
    end = next(index for index, line in enumerate(lines) if not line.endswith("\\")) + 1
    typed, quoted = lines[:end], lines[end:]
    words = shlex.split(" ".join(line.rstrip("\\") for line in typed).removeprefix("$ "))
    if words[0] != "inspect":
        raise ValueError(f"not a command of ours: {words[0]}")
    ran = run(*words[1:])
    if ran.code not in (0, 1):
        raise RuntimeError(f"{' '.join(words)} exits with {ran.code}: {ran.err}")
    printed = ran.out.splitlines()
    if quoted[-1:] == [_CUT]:
        printed = [*printed[: len(quoted) - 1], _CUT]
    return "".join(f"{line}\n" for line in (*typed, *printed))


def _run_code(text: str) -> str:
    """Return Python with the values of its expressions behind them."""
    lines = text.splitlines()
    shown = {index: match["code"] for index, line in enumerate(lines) if (match := _VALUE.match(line))}
    program = [f"note({index}, {shown[index]})" if index in shown else line for index, line in enumerate(lines)]
    values: dict[int, Any] = {}
    exec("\n".join(program), {"note": values.__setitem__})  # the pages are ours
    return "".join(
        f"{shown[index]}  # {values[index]!r}\n" if index in shown else f"{line}\n" for index, line in enumerate(lines)
    )


def _write_pages() -> None:
    """Write the examples of every page as they come out today."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for example in list_examples(page):
            anew = make_anew(example)
            print(f"{'same' if anew == example.text else 'NEW '}  {example.name}")
            text = text.replace(f"```{example.kind}\n{example.text}```", f"```{example.kind}\n{anew}```")
        page.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    _write_pages()

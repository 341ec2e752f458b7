"""Regular expressions of strangers: tried out first, in a process that can be stopped.

PEFT and transformers match module names with patterns that a repository or a user wrote. `re` backtracks:
`([a-z0-9_.]+)+!` takes longer than the universe has lasted on a name of a hundred letters, and keeps the interpreter
while it does, so that no thread can end it. Which patterns are safe does not show in their text without refusing
those that people write (Unsloth's hold five `.*?` and are done at once). So each is matched by the call that will be
made, with the names that it will be made with, in a process of its own, and refused where the processor time for all of
them runs out.

What is plain (letters, digits, dots, hyphens) never backtracks and needs no trial. Does not cover: names that are made
only later; a test holds what PEFT matches against what is tried (tests/model/test_patterns.py).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["MatchCall", "PatternError", "check_patterns", "is_plain"]

# Real patterns take some hundredths of it on the largest of models.
_PROCESSOR_SECONDS = 1
# Where the system has no timer of processor time (Windows), and for whatever else may hold a process up.
_SECONDS_AT_MOST = 30
_PLAIN = re.compile(r"[\w.-]*")
_NOT_A_PATTERN = 3

_TRIAL = f"""
import json, re, signal, sys
request = json.load(sys.stdin)
if hasattr(signal, "setitimer"):
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, {_PROCESSOR_SECONDS})
for index, (function, pattern) in enumerate(request["patterns"]):
    print(index, flush=True)
    try:
        match = getattr(re.compile(pattern), function)
    except (re.error, RecursionError, OverflowError):
        sys.exit({_NOT_A_PATTERN})
    for name in request["names"]:
        match(name)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchCall:
    """How a library matches a text against names: by which function of `re`, and what it puts around the text."""

    function: Literal["match", "fullmatch", "search"]
    before: str = ""
    after: str = ""


class PatternError(Exception):
    """A text that cannot be matched; `str()` is what is wrong with it, to follow its name."""

    def __init__(self, text: str, fault: str) -> None:
        super().__init__(fault)
        self.text = text


def is_plain(text: str) -> bool:
    """Tell whether a text is matched without backtracking."""
    return _PLAIN.fullmatch(text) is not None


def check_patterns(patterns: Sequence[tuple[str, MatchCall]], names: Collection[str]) -> None:
    """Raise PatternError for the first text that is not a regular expression, or that would be matched for too long."""
    tried = [(text, call) for text, call in patterns if not is_plain(text)]
    if not tried:
        return
    request = {
        "patterns": [(call.function, f"{call.before}{text}{call.after}") for text, call in tried],
        "names": list(names),
    }
    try:
        trial = subprocess.run(  # noqa: S603  # this interpreter with a constant program; the texts are its input
            [sys.executable, "-I", "-S", "-c", _TRIAL],
            input=json.dumps(request).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS_AT_MOST,
            check=False,
        )
        code, output = trial.returncode, trial.stdout
    except subprocess.TimeoutExpired as error:
        code, output = 1, error.stdout or b""
    if code == 0:
        return
    begun = output.split()
    text = tried[int(begun[-1])][0] if begun else tried[0][0]
    fault = (
        "is not a regular expression" if code == _NOT_A_PATTERN else "is too involved a pattern to be matched in time"
    )
    raise PatternError(text, fault)

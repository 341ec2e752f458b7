"""The ids of a list that a name may have been meant to be: compared by family and size, not by spelling alone.

`Llama-3.1-8B-Instruct` is nearer to `Meta-Llama-3.1-8B` than to `Llama-3.3-70B-Instruct`, which has more letters in
common with it: what was tuned how says least, and another size is another model.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

__all__ = ["list_near_ids"]

_MOST = 3
_CUTOFF = 0.8
# 8B, 0.5b, 360M, 8x7B, A22B of experts.
_SIZE = re.compile(r"(?<![a-z0-9.])(?:\d+x|a)?\d+(?:\.\d+)?[bm](?![a-z0-9])")
# Who published it again, and how it was tuned.
_ASIDE = re.compile(r"(?<![a-z0-9])(?:meta|instruct|it|chat|base|hf|pt|preview)(?![a-z0-9])")


def list_near_ids(name: str, known: Sequence[str]) -> list[str]:
    """Return up to three of the known ids that `name` may have been meant to be, the nearest first."""
    folded = name.casefold()
    sizes = _list_sizes(folded)
    candidates = [entry for entry in known if not sizes or _list_sizes(entry.casefold()) in (sizes, [])]
    ranked = sorted((-_compare(folded, entry.casefold()), entry) for entry in candidates)
    return [entry for likeness, entry in ranked if -likeness >= _CUTOFF][:_MOST]


def _compare(name: str, known: str) -> float:
    """Return how alike two ids are, from 0 to 1: as wholes, or by the name of the model or its family alone."""
    end, known_end = name.rpartition("/")[2], known.rpartition("/")[2]
    pairs = ((name, known), (end, known_end), (_find_family(end), _find_family(known_end)))
    return max(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)


def _list_sizes(name: str) -> list[str]:
    return sorted(_SIZE.findall(name.rpartition("/")[2]))


def _find_family(end: str) -> str:
    """Return the name of a model without what was done to it; separators count for nothing."""
    return re.sub(r"[^a-z0-9.]+", "-", _ASIDE.sub("", end)).strip("-")

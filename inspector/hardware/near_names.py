"""What to propose for the name of a GPU that the catalogue does not have: a near card, or a memory.

The number of a card (4090, A100, 7900) says which card it is: another number is another card, which may have more
memory, so that a name with the number of no known card gets no card at all. Only what cannot be a number of its own is
taken for a misspelling: a digit that is missing, doubled or swapped with its neighbour, or a last digit other than 0.
Where the name has a size, no card with more memory is proposed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence

from inspector.records.hardware import Gpu
from inspector.units import format_bytes

__all__ = ["suggest_gpus"]

# A size behind or before the name of a card: `8GB`, `8g`, or a bare number behind a blank.
_SIZE = re.compile(
    r"(?:^|(?<=[\s_-])|(?<=[a-z]))0*([1-9]\d{0,2})\s*(?:g(?:i?b)?\b|(?<=[\s_-]\d)$|(?<=[\s_-]\d\d)$)", re.I
)
_BARE_SIZE = re.compile(r"0*([1-9]\d{0,2})\s*(?:g(?:i?b)?)?", re.IGNORECASE)
_NUMBER = re.compile(r"\d{2,}")
# Numbers of GeForce cards, in the catalogue or not.
_OF_GEFORCE = re.compile(r"(?:9|10|16|20|30|40|50)[1-9]0")
_LEAST_SIMILARITY = 0.6
_MOST_SUGGESTIONS = 3
_DEFAULT_SIZE = 24


def suggest_gpus(name: str, known: Sequence[tuple[str, Gpu]], normalize: Callable[[str], str]) -> str:
    """Return the next step for a name that no GPU has; `known` are the names as `normalize` makes them."""
    bare = _BARE_SIZE.fullmatch(name.strip())
    is_size = bare is not None and (len(bare[1]) < 3 or not name.strip().isdigit())
    if bare is not None and (is_size or not _list_near(bare[1], known)):
        return f'did you mean `gpu_memory="{bare[1]}GiB"`?'
    size = _SIZE.search(name)
    gigabytes = int(size[1]) if size else None
    near = _list_near(normalize(_SIZE.sub("", name, count=1)), known)
    # What fits less memory than was meant fits, and not the other way round.
    near = [gpu for gpu in near if gigabytes is None or gpu.memory_bytes <= gigabytes * 2**30][:_MOST_SUGGESTIONS]
    memory = f'`gpu_memory="{gigabytes or _DEFAULT_SIZE}GiB"`'
    if near:
        names = " or ".join(f"{gpu.name} ({format_bytes(gpu.memory_bytes)})" for gpu in near)
        return f"did you mean {names}? Else see `inspect gpus`, or give its memory, as in {memory}."
    return f"see `inspect gpus`, or give its memory, as in {memory}."


def _list_near(key: str, known: Sequence[tuple[str, Gpu]]) -> list[Gpu]:
    """Return the GPUs with nearly this name, the nearest first."""
    ranked = []
    for other, gpu in known:
        likeness = difflib.SequenceMatcher(None, key, other).ratio()
        # A name that is cut off or says more than the catalogue does is as good a guess.
        is_part = bool(key) and (other.startswith(key) or key.startswith(other))
        if (likeness >= _LEAST_SIMILARITY or is_part) and _may_mean(key, other):
            ranked.append((likeness, gpu))
    ranked.sort(key=lambda pair: -pair[0])
    return list(dict.fromkeys(gpu for _, gpu in ranked))


def _split(key: str) -> tuple[str, str]:
    """Return the letters before the number of a card and the number, both empty where its name has none."""
    found = _NUMBER.search(key)
    return (key[: found.start()], found[0]) if found else ("", "")


def _may_mean(key: str, other: str) -> bool:
    """Tell whether a name has the number of a card, or a misspelling of it that is no other card's."""
    (letters, typed), (letters_of_known, known) = _split(key), _split(other)
    if not typed or typed == known:
        return not typed or letters == letters_of_known or not (letters and letters_of_known)
    if letters != letters_of_known or not known or _OF_GEFORCE.fullmatch(typed):
        return False
    swapped = {typed[:i] + typed[i + 1] + typed[i] + typed[i + 2 :] for i in range(len(typed) - 1)}
    shorter = {typed[:i] + typed[i + 1 :] for i in range(len(typed))}
    longer = {known[:i] + known[i + 1 :] for i in range(len(known))}
    other_end = typed[:-1] == known[:-1] and typed[-1] != "0" and len(typed) == 4
    return known in swapped | shorter or typed in longer or other_end

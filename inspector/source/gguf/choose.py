"""Which GGUF file of several is meant, by their names, as llama.cpp's `-hf org/name:Q4_K_M` chooses.

Its order (common/download.cpp, `find_best_model`): the file with the tag in its name; without a tag Q4_K_M, then Q8_0,
then the first one. Projectors, draft heads and importance matrices are no models. A model may be split into parts,
`name-00001-of-00003.gguf`, which are read together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from inspector.errors import ModelUnavailableError, quoted

__all__ = ["choose_model", "is_gguf_name", "list_parts"]

_DEFAULT_TAGS = ("Q4_K_M", "Q8_0")
_OTHERS = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
_PART = re.compile(r"(?P<stem>.*)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE | re.DOTALL)
_MOST_PARTS = 1000
_MOST_NAMED = 8


def is_gguf_name(name: str) -> bool:
    """Tell whether a name is that of a GGUF file."""
    return name.lower().endswith(".gguf")


def choose_model(names: Sequence[str], tag: str | None, what: str) -> str:
    """Return the file, or the first part of it, that is meant; ModelUnavailableError where there is none."""
    models = [name for name in sorted(names) if is_gguf_name(name) and _is_model(name)]
    if not models and "config.json" in names:
        raise ModelUnavailableError(
            f"{what} holds a checkpoint of transformers, and llama.cpp reads GGUF alone: name a repository of it as "
            "GGUF, such as org/name-GGUF:Q4_K_M, or the file that convert_hf_to_gguf.py and llama-quantize make of it."
        )
    if not models:
        raise ModelUnavailableError(
            f"{what} holds no GGUF file of a model, and llama.cpp reads nothing else; name one, or a repository of "
            "them."
        )
    for wanted in _DEFAULT_TAGS if tag is None else (tag,):
        pattern = re.compile(rf"{re.escape(wanted)}[.-]", re.IGNORECASE)
        found = next((name for name in models if pattern.search(name)), None)
        if found is not None:
            return found
    if tag is None:
        return models[0]
    known = ", ".join(quoted(name.rpartition("/")[2], 80) for name in models[:_MOST_NAMED])
    more = f" and {len(models) - _MOST_NAMED} more" if len(models) > _MOST_NAMED else ""
    raise ModelUnavailableError(f"{what} has no GGUF file with {quoted(tag, 40)} in its name; it has {known}{more}.")


def list_parts(name: str) -> list[str]:
    """Return the parts of a model by the name of one of them: those that its name counts, or the file alone."""
    match = _PART.fullmatch(name)
    if match is None or not 1 < int(match["count"]) <= _MOST_PARTS:
        return [name]
    end = name[-5:]
    return [f"{match['stem']}-{index:05d}-of-{match['count']}{end}" for index in range(1, int(match["count"]) + 1)]


def _is_model(name: str) -> bool:
    """Tell whether a GGUF file is a model, and the first part of one."""
    match = _PART.fullmatch(name)
    return not any(other in name.lower() for other in _OTHERS) and (match is None or int(match["index"]) == 1)

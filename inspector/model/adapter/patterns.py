"""The texts of a PEFT configuration that PEFT matches as regular expressions, and how it matches each of them.

Source: PEFT 0.21, tuners/tuners_utils.py (`check_target_module_exists`), utils/other.py (`get_pattern_key`), ia3, c3a,
fourierft and osf. Lists of targets are compared with the ends of names; only a text is a pattern there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from peft import PeftConfig
from torch import nn

from inspector.errors import UsageError, quoted
from inspector.model.patterns import MatchCall, PatternError, check_patterns

__all__ = ["check_config_patterns", "find_whole_matches", "list_match_calls", "matches_key"]

# Names that PEFT matches with targets whether the model has such modules or not (`EMBEDDING_LAYER_NAMES`).
_OTHER_NAMES = ("embed_tokens", "lm_head")
# Adapters whose ranks differ by layer have a key for each of them: 882 where 126 layers have seven.
_MOST_PATTERNS = 2_000

_WHOLE_NAME = (MatchCall(function="fullmatch"),)
_SAVED = (MatchCall(function="match", before=r"(^|.*\.)", after=r"($|\..*)"),)
_LAYERS = (MatchCall(function="match", before=r"(?:^|.*?\.)", after=r"\.(?P<idx>\d+)\."),)
_KEYS = (
    MatchCall(function="match", before=r"(.*\.)?(", after=r")$"),
    MatchCall(function="match", before=r".*\.", after=r"$"),
    MatchCall(function="search"),
)


# Which of them PEFT makes with the keys, by method; the first with all others (`get_pattern_key`).
_KEY_OF = {"C3A": _KEYS[1], "FOURIERFT": _KEYS[1], "OSF": _KEYS[2]}


def matches_key(method: str, key: str, name: str) -> bool:
    """Tell whether PEFT gives a module what a key of a `..._pattern` says; the key was checked when it was attached."""
    call = _KEY_OF.get(method, _KEYS[0])
    return getattr(re, call.function)(f"{call.before}{key}{call.after}", name) is not None


def find_whole_matches(text: str, names: Iterable[str]) -> list[str]:
    """Return the names that a text matches as a pattern of the whole path; none where it is no pattern, or too slow."""
    found = list(names)
    try:
        check_patterns([(text, call) for call in _WHOLE_NAME], found)
    except PatternError:
        return []
    return [name for name in found if re.fullmatch(text, name)]


def check_config_patterns(config: PeftConfig, model: nn.Module) -> None:
    """Raise UsageError where a text of `config` cannot be matched with the names of the model's modules in time."""
    names = [*(name for name, _ in model.named_modules()), *_OTHER_NAMES]
    for field, calls in list_match_calls(config).items():
        if len(calls) > _MOST_PATTERNS * len(_KEYS):
            raise UsageError(f"{field} of the PEFT configuration has more than {_MOST_PATTERNS:,} entries; correct it.")
        try:
            check_patterns(calls, names)
        except PatternError as error:
            raise UsageError(
                f"{field} of the PEFT configuration: {quoted(error.text, 60)} {error}; write a simpler one."
            ) from error


def list_match_calls(config: PeftConfig) -> dict[str, list[tuple[str, MatchCall]]]:
    """Return, by field, the texts that PEFT matches as regular expressions and the calls it makes with each."""
    found: dict[str, list[tuple[str, MatchCall]]] = {}
    for field, value in vars(config).items():
        calls = _find_calls(field, value)
        if calls:
            found[field] = [(text, call) for text in _list_texts(value) for call in calls]
    return found


def _find_calls(field: str, value: Any) -> tuple[MatchCall, ...]:
    """Return how PEFT matches the texts in a field of a configuration; not at all where they are no patterns."""
    if field == "modules_to_save":
        return _SAVED
    if field == "layers_pattern":
        return _LAYERS
    if field.endswith("_pattern"):
        return _KEYS
    return _WHOLE_NAME if field.endswith("_modules") and isinstance(value, str) else ()


def _list_texts(value: Any) -> Iterator[str]:
    """Yield the text that a field is, the texts of a list, or the keys of a mapping."""
    texts = [value] if isinstance(value, str) else value if isinstance(value, (list, tuple, set, Mapping)) else ()
    yield from (text for text in texts if isinstance(text, str))

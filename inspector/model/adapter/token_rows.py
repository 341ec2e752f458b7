"""Token indices in a PEFT configuration, held against the rows of the table that PEFT will look them up in.

On meta nothing is looked up, so that an index beyond the table would be counted; with data PEFT ends in an IndexError.
Negative indices count from the end, as in torch, but for CPT, whose tokens go through the embedding itself. Not
covered: several rows for one token, which PEFT takes too.

Source: PEFT 0.21, tuners/trainable_tokens/layer.py (`update_layer`), utils/other.py
(`set_additional_trainable_modules`) and tuners/cpt/model.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from peft import PeftConfig
from torch import nn
from transformers import PreTrainedModel

from inspector.errors import UsageError, one_line
from inspector.model.adapter.config import list_names
from inspector.model.adapter.peft_names import ends_with, list_base_modules

__all__ = ["check_token_rows"]

_WRAPS = ("token_indices", "trainable_token_indices")


def check_token_rows(config: PeftConfig, model: PreTrainedModel) -> None:
    """Raise UsageError where a token index of `config` has no row in its table."""
    for field, indices, names in _list_indices(config):
        for path, rows in _find_tables(model, names):
            least = -rows if field in _WRAPS else 0
            beyond = [index for index in indices if _is_index(index) and not least <= index < rows]
            if beyond:
                raise UsageError(
                    f"{field} has {one_line(beyond[0], 40)}, and {path} has {rows:,} rows, 0 to {rows - 1:,}: PEFT "
                    "ends in an IndexError; resize the vocabulary of the base first, or correct it."
                )


def _list_indices(config: PeftConfig) -> Iterator[tuple[str, Iterable[Any], list[str]]]:
    """Yield (field, indices, ends of the names of their tables); the input embedding where there are no names."""
    for field in (*_WRAPS, "cpt_token_ids"):
        value = getattr(config, field, None)
        if isinstance(value, Mapping):
            yield from ((field, indices, [str(name)]) for name, indices in value.items() if isinstance(indices, list))
        elif isinstance(value, (list, tuple)):
            yield field, value, list_names(config, "target_modules") if field == "token_indices" else []


def _find_tables(model: PreTrainedModel, names: list[str]) -> Iterator[tuple[str, int]]:
    """Yield (name, rows) of the tables that a configuration names by the ends of their names."""
    embedding = model.get_input_embeddings()
    for path, module in list_base_modules(model).items():
        weight = getattr(module, "weight", None)
        is_meant = any(ends_with(path, name) for name in names) if names else module is embedding
        if is_meant and isinstance(weight, nn.Parameter) and weight.dim() == 2:
            yield path, weight.shape[0]


def _is_index(value: Any) -> bool:
    """Tell whether a value is an integer; PEFT refuses others by itself."""
    return isinstance(value, int) and not isinstance(value, bool)

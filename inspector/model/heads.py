"""Which class transformers builds for a configuration with a given head, by its tables of auto classes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import transformers
from transformers import PretrainedConfig, PreTrainedModel

from inspector.compat.transformers import model_mapping_of

__all__ = ["find_head"]


def find_head(config: PretrainedConfig, auto_classes: Iterable[str]) -> type[PreTrainedModel] | None:
    """Return the model class of the first of these auto classes that has one for `config`, None where none has.

    `auto_classes` are names such as AutoModelForCausalLM; those that transformers does not have are passed over.
    """
    for auto_class in auto_classes:
        auto = getattr(transformers, auto_class, None)
        mapping = None if auto is None else model_mapping_of(auto)
        if mapping is None:
            continue
        with contextlib.suppress(ValueError):  # some tables name classes that transformers does not have
            found = mapping.get(type(config), None)
            if found is not None:
                model_class: type[PreTrainedModel] = found[0] if isinstance(found, tuple) else found
                return model_class
    return None

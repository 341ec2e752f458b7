"""Which attention implementation a built model runs with, as its modules read it.

transformers settles it while it builds a model: what was asked for explicitly must be supported or is refused
(`ValueError`), and where nothing was asked it is sdpa for classes that support it and eager for the others (Bloom,
gpt-oss, DeBERTa). Attention modules look it up in the configuration that they share with the part of the model they are
in, and parts may differ: a vision tower with sdpa feeds a Q-Former that has eager alone.

Source: transformers 5.23, modeling_utils.py (`_check_and_adjust_attn_implementation`,
`get_correct_attn_implementation`). Does not cover: layers without attention (state spaces), and classes of a repository
that do not ask their configuration.
"""

from __future__ import annotations

from typing import Any

from peft import PeftModel
from torch import nn
from transformers import PretrainedConfig

from inspector.compat.transformers import attention_of
from inspector.model.configuration import find_text_config

__all__ = ["describe_attention", "find_attention", "find_attention_by_part"]

_DEFAULT = "eager"


def find_attention(model: nn.Module) -> str:
    """Return the implementation in the text part of a model, with PEFT or without: eager, sdpa or flash_attention_2.

    Where there is no text part, or several, it is that of the whole.
    """
    return _read_attention(find_text_config(_unwrap_model(model).config))


def find_attention_by_part(model: nn.Module) -> dict[str, str]:
    """Return the implementation of every part of a model that has a configuration of its own, by its path.

    The path is empty for a model of one part. A model of several parts is not one of them itself.
    """
    parts: dict[str, str] = {}
    seen: set[int] = set()
    for path, module in _unwrap_model(model).named_modules():
        config = getattr(module, "config", None)
        if isinstance(config, PretrainedConfig) and id(config) not in seen:
            seen.add(id(config))
            parts[path] = _read_attention(config)
    if len(parts) > 1:
        parts.pop("", None)
    return parts


def describe_attention(model: nn.Module) -> str:
    """Return the implementation of the text part and, where parts have others, theirs: `sdpa (model.qformer eager)`."""
    main = find_attention(model)
    others = [f"{path} {name}" for path, name in find_attention_by_part(model).items() if name != main]
    return f"{main} ({', '.join(others)})" if others else main


def _unwrap_model(model: nn.Module) -> Any:
    """Return the transformers model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _read_attention(config: PretrainedConfig) -> str:
    """Return what attention modules read from their configuration."""
    return str(attention_of(config) or _DEFAULT)

"""Where a config.json declares that its weights are stored quantized: one reader for everything that asks.

transformers takes `quantization_config`, of the whole or else of its text model (`get_hf_quantizer`), and nothing else.
MLX writes `quantization`, and the same as `quantization_config` without a method, which transformers refuses.
`compression_config` is what compressed-tensors wrote before; transformers does not read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["MLX", "find_declared", "has_ignored_declaration"]

# The method of an MLX checkpoint, for which transformers has no name.
MLX = "mlx"
# Where `get_text_config(decoder=True)` finds a text model.
_TEXT_PARTS = ("decoder", "generator", "text_config")


def find_declared(config: Mapping[str, Any]) -> Any:
    """Return what a config.json says of the quantization of its stored weights, in whatever form; None where nothing.

    What MLX wrote has `quant_method` "mlx".
    """
    parts = (config, *(part for name in _TEXT_PARTS if isinstance(part := config.get(name), Mapping)))
    given = [part["quantization_config"] for part in parts if part.get("quantization_config") is not None]
    declared = next(filter(None, given), given[0] if given else None)  # one without a field is a declaration, too
    packed = config.get("quantization")
    is_named = isinstance(declared, Mapping) and "quant_method" in declared
    if isinstance(packed, Mapping) and {"bits", "group_size"} <= packed.keys() and not is_named:
        return {**packed, "quant_method": MLX}
    return declared


def has_ignored_declaration(config: Mapping[str, Any]) -> bool:
    """Tell whether the weights were declared quantized in a way that transformers passes over."""
    return bool(config.get("compression_config")) and find_declared(config) is None

"""Private names of PEFT.

Names that some supported releases lack are read with a default by the function at the end: without them an adapter is
attached as those releases attach it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from inspector.compat.names import private

if TYPE_CHECKING:
    from peft.tuners._buffer_dict import BufferDict
else:
    BufferDict = private(
        "peft.tuners._buffer_dict.BufferDict",
        purpose="counting an adapter",
        instead="the container that VeRA, VB-LoRA and others keep shared tensors in as buffers",
    )

__all__ = [
    "BufferDict",
    "converted_expert_names",
    "make_monte_carlo_sampler",
    "monte_carlo_samplers",
    "pass_over_truncation",
]


def converted_expert_names(model_type: str | None) -> Mapping[str, str]:
    """Return the parameters that PEFT makes targets of, by the names of modules that transformers 4 had for them.

    Seen in 0.21.2 (peft.utils.transformers_weight_conversion, _convert_peft_config_moe); empty for other types of
    models, and in releases that convert nothing.
    """
    try:
        conversion = importlib.import_module("peft.utils.transformers_weight_conversion")
    except ImportError:
        return {}
    kinds: Mapping[str, str] = getattr(conversion, "_MODEL_TO_CONVERSION_PATTERN", {})
    names: Mapping[str, Mapping[str, str]] = getattr(conversion, "_MOE_TARGET_MODULE_MAPPING", {})
    return names.get(kinds.get(str(model_type), ""), {})


def monte_carlo_samplers() -> ModuleType:
    """Return the module of MonteCLoRA's samplers; only releases that have the method ask for it."""
    return importlib.import_module("peft.tuners.lora.monteclora")


def make_monte_carlo_sampler(layer: Any, name: str) -> Any:
    """Return the sampler that MonteCLoRA makes for the adapter `name` of a layer.

    Seen in 0.21.2 (tuners/lora/variants.py, MontecloraLinearVariant), which makes it in `init` or the first forward.
    """
    return layer.lora_variant[name]._create_sampler(layer, name, layer._lora_monteclora_config[name])


def pass_over_truncation(layer: Any) -> None:
    """Take KaSA's truncation of a base weight as done, which waits for values on meta.

    Seen in 0.21.2 (tuners/lora/variants.py, KasaLinearVariant): elsewhere it is done in `init`.
    """
    getattr(layer, "_lora_kasa_truncation_deferred", set()).clear()

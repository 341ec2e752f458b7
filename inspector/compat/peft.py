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
    "cast_adapter_dtype",
    "converted_expert_names",
    "find_expert_loader",
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


def cast_adapter_dtype(model: Any, name: str, *, autocast: bool) -> None:
    """Cast an adapter of a tuner's model as PEFT does when it has made it: half precision to float32 by `autocast`.

    Seen in 0.21.2 (tuners/tuners_utils.py, BaseTuner).
    """
    model._cast_adapter_dtype(adapter_name=name, autocast_adapter_dtype=autocast)


def find_expert_loader() -> tuple[ModuleType, str]:
    """Return where X-LoRA loads the adapters that it mixes: a module, and the name of a function in it.

    Seen in 0.21.2: it is called as `(lora_model=, adapter_name=, model_id=, autocast_adapter_dtype=, ...)`.
    """
    return importlib.import_module("peft.tuners.xlora.model"), "_load_adapter_into_lora_model"


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

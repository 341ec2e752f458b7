"""X-LoRA: adapters that exist, mixed by a classifier that trains; attached by their configurations alone.

PEFT's own code attaches them, but for one function: it loads the weights of each adapter after it has attached it,
which changes neither sizes nor dtypes, and is left out. A configuration holds those of its adapters in their places
here, where PEFT has paths. Source: PEFT 0.21, tuners/xlora/model.py.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import accelerate
from peft import LoraConfig, PeftConfig, XLoraConfig
from peft.tuners.lora import LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn
from transformers import PreTrainedModel

from inspector.compat.peft import cast_adapter_dtype, find_expert_loader
from inspector.errors import UsageError, quoted
from inspector.model.configuration import describe_error
from inspector.runtime.patches import replace_attribute, restore_changes

__all__ = ["METHOD", "attach_by_configuration", "check_classifier", "check_mixed", "list_mixed", "put_in_mixed"]

METHOD = "XLORA"
_EXAMPLE = '"adapters": {"0": "org/adapter", "1": {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"]}}'


def put_in_mixed(peft: Any, found: Mapping[str, Mapping[str, Any]] | None) -> Any:
    """Return what was asked for as an adapter with the configurations that were found in the place of their paths."""
    if not found:
        return peft
    if isinstance(peft, Mapping):
        return {**peft, "adapters": {**peft["adapters"], **found}}
    config = copy.copy(peft)
    config.adapters = {**config.adapters, **found}
    return config


def check_mixed(adapters: Any) -> None:
    """Refuse adapters to mix that say too little, or that a real step stops at."""
    if not isinstance(adapters, Mapping) or not adapters:
        raise UsageError(
            f"XLORA mixes LoRA adapters that exist and names none: add them by path, id or configuration, such as "
            f"{_EXAMPLE}."
        )
    numbers = [str(number) for number in range(len(adapters))]
    if list(adapters) != numbers:
        raise UsageError(
            f"PEFT calls the adapters that XLORA mixes {', '.join(numbers[:4])}{', ...' if numbers[4:] else ''} "
            f"whatever their names, and its step stops at {quoted(next(iter(adapters)), 60)}: name them so."
        )
    for name, fields in adapters.items():
        if not isinstance(fields, Mapping):
            raise UsageError(
                f"adapter {name} of those that XLORA mixes is not there to be read: write its configuration in its "
                f"place, such as {_EXAMPLE}."
            )
        if fields.get("peft_type") != "LORA":
            raise UsageError(
                f"adapter {name} of those that XLORA mixes is of type {quoted(fields.get('peft_type'), 60)}; "
                "name one of LoRA."
            )


def check_classifier(config: PeftConfig, model: PreTrainedModel) -> None:
    """Refuse a classifier that does not take the model's hidden states: its first step would stop."""
    asked, own = getattr(config, "hidden_size", None), getattr(model.config.get_text_config(), "hidden_size", None)
    if isinstance(config, XLoraConfig) and own is not None and asked != own:
        raise UsageError(
            f"XLORA's classifier takes hidden states of {asked:,} features, and those of {type(model).__name__} have "
            f"{own:,}: set hidden_size to {own} in the PEFT configuration (PEFT's default is 4096)."
        )


def list_mixed(config: PeftConfig) -> list[LoraConfig]:
    """Return the configurations of the adapters that one mixes, none for another method."""
    adapters = getattr(config, "adapters", None)
    return [_build_lora(fields) for fields in adapters.values()] if isinstance(adapters, Mapping) else []


@contextlib.contextmanager
def attach_by_configuration(model: PreTrainedModel) -> Iterator[None]:
    """Let PEFT attach X-LoRA on meta inside the block, without the weights of what it mixes."""
    model.config.use_cache = False  # as PEFT wants it
    with restore_changes(), accelerate.init_empty_weights(include_buffers=True):
        replace_attribute(*find_expert_loader(), _attach_expert)
        yield


def _attach_expert(
    *, lora_model: LoraModel, adapter_name: str, model_id: Mapping[str, Any], autocast_adapter_dtype: bool, **_: Any
) -> None:
    """Do what PEFT does before and after it loads the weights of an adapter."""
    lora_model.peft_config[adapter_name] = _build_lora(model_id)
    lora_model.inject_adapter(lora_model.model, adapter_name)
    _check_paths(lora_model.model)
    cast_adapter_dtype(lora_model, adapter_name, autocast=autocast_adapter_dtype)


def _check_paths(base: nn.Module) -> None:
    """Refuse adapters on modules whose weights PEFT would not find: it takes names apart at `model.`."""
    for path, module in base.named_modules():
        if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)) and not path.startswith("model."):
            raise UsageError(
                f"PEFT loads the weights of adapters that XLORA mixes into modules below `model` alone, and one adapts "
                f"{path} of {type(base).__name__}: mix adapters that do not, or use another method."
            )


def _build_lora(fields: Mapping[str, Any]) -> LoraConfig:
    """Return the configuration of an adapter as PEFT reads it, what its release does not know left out."""
    known = {field.name for field in dataclasses.fields(LoraConfig) if field.init}
    try:
        config = LoraConfig(**{name: value for name, value in fields.items() if name in known})
    except Exception as error:  # over untrusted values it raises what it likes
        raise UsageError(
            f"PEFT refuses the configuration of an adapter that XLORA mixes ({describe_error(error)}); correct it."
        ) from error
    # As for an adapter alone: neither first values, which are loaded, nor what loads anything.
    config.init_lora_weights, config.loftq_config = True, {}
    config.inference_mode = False
    return config

"""The attached adapter -> what it is, what it hit, and what its file weighs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any, Literal

import peft
import torch
from peft import PeftConfig, PeftModel
from torch.overrides import TorchFunctionMode

from inspector.dtypes import BY_TORCH_NAME, DTYPES, dtype_name
from inspector.errors import UsageError
from inspector.model.adapter.config import list_changed_fields, list_names, name_method
from inspector.model.adapter.conversion import find_converted_names
from inspector.model.adapter.peft_names import ends_with, find_adapted_layers, find_saved_modules, strip_wrappers
from inspector.model.configuration import describe_error
from inspector.names import fold_names
from inspector.records.model import AdapterFacts, MatchedNames

__all__ = [
    "describe_adapter",
    "gather_saved_state",
    "measure_adapter_file",
    "measure_saved_embeddings",
    "measure_state",
]

# What safetensors writes before the data: an 8-byte length, then JSON padded with spaces to 8 bytes.
# Source: safetensors/src/tensor.rs (serialize), and the format's README.
_SAFETENSORS_LENGTH_BYTES = 8


def describe_adapter(model: PeftModel, asked: PeftConfig) -> AdapterFacts:
    """Return what the adapter is and what it hit; `asked` is the configuration before PEFT expanded it."""
    return AdapterFacts(
        type=name_method(asked),
        config=list_changed_fields(asked),
        targets=_match_targets(model, asked),
        modules_to_save=_match_saved(model, asked),
        file_bytes=measure_adapter_file(model),
    )


def measure_adapter_file(model: PeftModel) -> int | None:
    """Return the size in bytes of adapter_model.safetensors as `save_pretrained` would write it.

    None where it depends on values: AdaMSS's clusters of rows are shapes, whose digits are in the header.
    Header and data follow the safetensors format: entries sorted by dtype (widest first) and name, offsets without
    gaps.
    """
    if name_method(model.active_peft_config) == "ADAMSS":
        return None
    state = gather_saved_state(model)
    return None if state is None else measure_state(state)


def measure_saved_embeddings(model: PeftModel) -> tuple[list[str], int, int] | None:
    """Return the tensors of the base's embedding and head that the file holds, their bytes, and the file without them.

    PEFT saves both once one of them is a target (`save_embedding_layers="auto"`). None where the file holds neither.
    """
    if not _may_save_embeddings(model):
        return None
    state, without = gather_saved_state(model), gather_saved_state(model, save_embedding_layers=False)
    if state is None or without is None or state.keys() == without.keys():
        return None
    added = {name: tensor for name, tensor in state.items() if name not in without}
    size = sum(tensor.numel() * tensor.element_size() for tensor in added.values())
    return [strip_wrappers(model, name) for name in added], size, measure_state(without)


def _may_save_embeddings(model: PeftModel) -> bool:
    """Tell whether the embedding or the head carries an adapter: PEFT saves no other one, and takes long to say so.

    Source: peft/utils/save_and_load.py, `get_peft_model_state_dict` and `has_valid_embedding_base_layer`, where no
    name of the base is known.
    """
    base: Any = model.get_base_model()
    try:
        layers = base.get_input_embeddings(), base.get_output_embeddings()
    except (AttributeError, NotImplementedError):  # of images or sound
        return True
    return any(hasattr(layer, "base_layer") for layer in layers)


def gather_saved_state(
    model: PeftModel, save_embedding_layers: bool | Literal["auto"] = "auto"
) -> dict[str, torch.Tensor] | None:
    """Return the tensors that PEFT saves by their names in the file; None where it computes with values for that."""
    try:
        with _StayOnMeta(), _hide_base_name(model.active_peft_config):
            state: dict[str, torch.Tensor] = peft.get_peft_model_state_dict(
                model, adapter_name=model.active_adapter, save_embedding_layers=save_embedding_layers
            )
            return state
    except Exception as error:  # some methods look into their configuration only now
        # torch tells by its words alone that values were asked for: "Cannot copy out of meta tensor; no data!" and
        # "... from the 'Meta' backend" are NotImplementedErrors, "Tensor.item() cannot be called on meta tensors" is a
        # RuntimeError.
        if isinstance(error, (NotImplementedError, RuntimeError)) and "meta" in str(error).lower():
            return None
        raise UsageError(
            f"PEFT cannot save this adapter ({describe_error(error)}); correct the adapter's configuration."
        ) from error


def measure_state(state: dict[str, torch.Tensor]) -> int:
    """Return the size in bytes of a safetensors file with these tensors."""
    dtypes = {name: BY_TORCH_NAME[dtype_name(tensor.dtype)] for name, tensor in state.items()}
    entries = sorted(state.items(), key=lambda item: (-DTYPES.index(dtypes[item[0]]), item[0]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in entries:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": dtypes[name].safetensors,
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    padded = -(-len(text) // 8) * 8
    return _SAFETENSORS_LENGTH_BYTES + padded + end


@contextlib.contextmanager
def _hide_base_name(config: PeftConfig) -> Iterator[None]:
    """Hide the name of the base, for which PEFT would ask the Hub to compare vocabularies; attaching set it."""
    name = config.base_model_name_or_path
    config.base_model_name_or_path = None
    try:
        yield
    finally:
        config.base_model_name_or_path = name


class _StayOnMeta(TorchFunctionMode):
    """Answer `.cpu()` with the tensor itself: PEFT moves prompt embeddings there to save them, and meta has no data.

    A condition on values is answered as by the zeros that an adapter begins with: CPT bounds what exceeds a norm
    (tuners/cpt/model.py, `get_projection`).
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.__bool__ and args[0].is_meta:
            return False
        return args[0] if func is torch.Tensor.cpu else func(*args, **(kwargs or {}))


def _match_targets(model: PeftModel, asked: PeftConfig) -> MatchedNames | None:
    """Return which modules and parameters the adapter sits on and which names of the request hit none."""
    layers = [name for name, _ in find_adapted_layers(model)]
    if not layers:
        return None
    converted = find_converted_names(model, asked)
    unmatched = [
        name
        for field in ("target_modules", "target_parameters")
        for name in list_names(asked, field)
        if not any(ends_with(layer, converted.get(name, name)) for layer in layers)
    ]
    return MatchedNames(matched=fold_names(layers), matched_count=len(layers), unmatched=unmatched)


def _match_saved(model: PeftModel, asked: PeftConfig) -> MatchedNames | None:
    """Return which modules are trained and saved as copies and which names of the request hit none."""
    saved = [name for name, _ in find_saved_modules(model)]
    names = list(getattr(asked, "modules_to_save", None) or [])
    if not saved and not names:
        return None
    # PEFT matches the end of the whole path, not of a component (peft.utils.other._set_trainable).
    unmatched = [name for name in names if not any(module.endswith(name) for module in saved)]
    return MatchedNames(matched=fold_names(saved), matched_count=len(saved), unmatched=unmatched)

"""A live object of the Python API -> the counted model: what is read off a module that the caller made and keeps.

A transformers model on the meta device is copied and then treated like one that was built here (`model.build`). A
PeftModel and a module of any other kind stay as they are and are counted alone; no step of theirs is traced.
"""

from __future__ import annotations

import torch
from peft import PeftModel
from torch import nn
from torch.nn.parameter import is_lazy
from transformers import PreTrainedModel

from inspector.errors import UsageError, one_line
from inspector.model.adapter.attach import detach_adapter
from inspector.model.adapter.describe import describe_adapter
from inspector.model.adapter.notices import collect_adapter_notices
from inspector.model.census import count_base, count_bytes_by_dtype, count_in_float, count_trained_tensors, take_census
from inspector.records.model import Counted, ModelFacts
from inspector.records.request import Request
from inspector.records.source import ServedFrom

__all__ = ["check_meta", "count_attached", "count_module", "describe_model"]


def count_attached(request: Request) -> Counted:
    """Count a live PeftModel, which stays as it is, and its base."""
    attached: PeftModel = request.model
    if not request.autocast_adapter_dtype:
        raise UsageError("the adapter of a PeftModel has its dtype already: drop `autocast_adapter_dtype=False`.")
    if request.peft is not None:
        raise UsageError("the model is a PeftModel already: pass its base model to inspect another adapter on it.")
    check_meta(attached)
    config = attached.active_peft_config
    base_model = detach_adapter(attached)
    base = count_base(base_model)
    facts = describe_adapter(attached, config)
    return Counted(
        model=describe_model(base_model),
        census=take_census(attached, base, published=None, depth=request.depth),
        **count_in_float(base),
        trained_tensors=count_trained_tensors(attached),
        adapter=facts,
        notices=tuple(collect_adapter_notices(attached, config, facts, base)),
    )


def count_module(request: Request) -> Counted:
    """Count a module that is no transformers model: its parameters alone, since nothing is known of its batches."""
    model: nn.Module = request.model
    name = one_line(type(model).__name__, 60)
    if request.peft is not None:
        raise UsageError(f"adapters are put on transformers models alone, and {name} is not one; drop `peft`.")
    check_meta(model)
    base = count_base(model)
    return Counted(
        model=describe_model(model),
        census=take_census(model, base, published=None, depth=request.depth),
        **count_in_float(base),
        trained_tensors=base.tensors,
    )


def describe_model(model: nn.Module) -> ModelFacts:
    """Describe a model that was handed over as an object.

    The type of a module that is no transformers model is "module", its dtype the one that most of its bytes have.
    """
    name = type(model).__name__
    if isinstance(model, PreTrainedModel):
        identifier, model_type, dtype = model.name_or_path or name, model.config.model_type, str(model.dtype)
    else:
        dtypes = count_bytes_by_dtype(model.parameters())
        identifier, model_type, dtype = name, "module", next(iter(dtypes), str(torch.get_default_dtype()))
    return ModelFacts(
        id=identifier,
        model_class=name,
        model_type=model_type,
        dtype=dtype.removeprefix("torch."),
        source=ServedFrom.LOCAL,
    )


def check_meta(model: nn.Module) -> None:
    """Refuse a model that holds data, which would be copied, and one whose parameters have no shape yet."""
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise UsageError("the model has lazy parameters, which have no shape before it has run: use layers with sizes.")
    devices = sorted({tensor.device.type for tensor in (*model.parameters(), *model.buffers())} - {"meta"})
    if devices:
        raise UsageError(
            f"the model holds tensors on {', '.join(devices)}: build it under torch.device('meta'), or pass its config."
        )

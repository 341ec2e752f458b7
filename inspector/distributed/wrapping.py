"""Which classes of a model FSDP may be told to wrap, before accelerate looks for them."""

from __future__ import annotations

from typing import Any

from torch import nn

from inspector.compat.transformers import list_unsplit_classes
from inspector.errors import UsageError
from inspector.records.steps.ranks import Fsdp1, Fsdp2
from inspector.workloads.base import base_model

__all__ = ["refuse_unknown_layers"]

_BY_CLASS = "TRANSFORMER_BASED_WRAP"


def refuse_unknown_layers(model: nn.Module, launch: Fsdp1 | Fsdp2) -> None:
    """Raise UsageError where a launch names a class of layers that a model has none of: accelerate stops there."""
    if launch.wrapped_classes is None or launch.wrap_policy != _BY_CLASS:
        return
    base: Any = base_model(model)
    present = {type(module).__name__ for module in base.modules()}
    missing = [name for name in launch.wrapped_classes if name not in present]
    if missing:
        own = sorted(list_unsplit_classes(base) & present)
        instead = f"write {','.join(own)}" if own else "name one that it has"
        raise UsageError(
            f"fsdp_transformer_layer_cls_to_wrap names {', '.join(missing)}, of which {type(base).__name__} has none, "
            f"and accelerate stops there: {instead}."
        )

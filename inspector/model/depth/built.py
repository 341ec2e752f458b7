"""Models that are built: as they run, with their adapter, and at the depths at which they were counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from peft import PeftModel
from transformers import PreTrainedModel

from inspector.model.depth.skeletons import Skeletons
from inspector.records.model import Role
from inspector.records.request import Preparation

__all__ = ["BuiltModel", "Depths"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltModel:
    """A model on meta with its adapter, unused so far, and what each of its parameters is for, by name.

    `preparation` is what happened to packed weights, as they were loaded.
    """

    model: PreTrainedModel | PeftModel
    roles: Mapping[str, Role]
    preparation: Preparation = Preparation.PEFT


@dataclass(frozen=True, slots=True, kw_only=True)
class Depths:
    """The models that were counted, by their periods of layers beyond the shallowest; None is the whole one.

    Where shallow ones were, `skeletons` are what they were made of.
    """

    models: Mapping[int | None, BuiltModel]
    skeletons: Skeletons | None = None

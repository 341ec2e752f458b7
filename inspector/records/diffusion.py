"""A pipeline of diffusers: the parts that its repository stores, and what they count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Component", "StoredComponent", "StoredPipeline"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredComponent:
    """A model in a pipeline: its folder, the library and the class that model_index.json names, and its config.json.

    `bytes` are those of the weights that `from_pretrained` loads, None where none are here.
    """

    name: str
    library: str
    class_name: str
    config: Mapping[str, Any]
    bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPipeline:
    """The class of a pipeline, its models, and which of them trains; and whether that predicts noise or velocity."""

    class_name: str
    components: Sequence[StoredComponent]
    trained: str
    predicts_velocity: bool = False

    @property
    def denoiser(self) -> StoredComponent:
        """Return the component that trains."""
        return next(item for item in self.components if item.name == self.trained)


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """What a model of a pipeline counts: parameters, and their bytes in the dtype that the pipeline is loaded in.

    `stored_bytes` are those of its files. Where it cannot be built here, `reason` says why, and nothing is counted.
    """

    name: str
    class_name: str
    library: str
    parameters: int | None = None
    bytes: int | None = None
    stored_bytes: int | None = None
    reason: str | None = None

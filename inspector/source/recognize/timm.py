"""Configurations of timm: transformers has one class for all of its models, which lets timm build them by name.

A repository of timm has no model_type: its `architecture` is a name of timm's registry, and what its images are stands
in `pretrained_cfg`. The class of transformers is named here, so that the rest is that of any other model.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from inspector.errors import UnsupportedModelError, one_line, quoted
from inspector.records.source import SourceFiles

__all__ = ["adapt_timm"]

_MODEL_TYPE = "timm_wrapper"
_CLASS = "TimmWrapperForImageClassification"
# A name of the registry, with a tag; `hf-hub:` and `local-dir:` before one make timm load files.
_NAME = re.compile(r"\w+(?:\.[\w.-]+)?")
# Arguments of timm.create_model that make it load something.
_LOADING = ("pretrained", "checkpoint", "cache", "features_only", "scriptable", "exportable")


def adapt_timm(files: SourceFiles) -> SourceFiles:
    """Return a configuration of timm as transformers' class for timm reads it, any other as it is.

    Raises UnsupportedModelError where it would have timm load files.
    """
    config = files.config
    if not _is_of_timm(config):
        return files
    _refuse_loading(files.id, config)
    fields: dict[str, Any] = {**config, "model_type": _MODEL_TYPE}
    fields.setdefault("architectures", [_CLASS])
    described = config.get("pretrained_cfg")
    size = described.get("input_size") if isinstance(described, Mapping) else None
    if isinstance(size, (list, tuple)) and len(size) == 3 and all(type(side) is int and side > 0 for side in size):
        fields.setdefault("image_size", [size[1], size[2]])
    return dataclasses.replace(files, config=fields)


def _is_of_timm(config: Mapping[str, Any]) -> bool:
    """Tell whether a configuration is one that timm wrote, or of transformers' class for it."""
    if config.get("model_type") == _MODEL_TYPE:
        return True
    is_named = isinstance(config.get("architecture"), str)
    has_own = "pretrained_cfg" in config or "num_features" in config
    return is_named and has_own and not {"model_type", "architectures"} & set(config)


def _refuse_loading(name: str, config: Mapping[str, Any]) -> None:
    """Raise where a configuration names no model of timm's registry, or arguments that load something."""
    architecture = config.get("architecture", "resnet50")
    if not isinstance(architecture, str) or not _NAME.fullmatch(architecture):
        raise UnsupportedModelError(
            f"config.json of {quoted(name)}: architecture {quoted(architecture, 60)} is no name of a timm model; "
            "correct it."
        )
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, Mapping) or any(str(key).startswith(_LOADING) for key in arguments):
        listed = ", ".join(map(str, arguments)) if isinstance(arguments, Mapping) else arguments
        raise UnsupportedModelError(
            f"config.json of {quoted(name)}: model_args ({one_line(listed, 80)}) would have timm load files; drop them."
        )

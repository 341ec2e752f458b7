"""Files of a diffusers pipeline -> its parts: model_index.json names them, each in a folder of its own.

A folder of one part alone (`unet/`) is read as a pipeline of it. Which files are loaded is what diffusers chooses:
safetensors before pickles, no variant (models/modeling_utils.py and pipelines/pipeline_loading_utils.py, 0.42).

Not covered: pipelines whose parts are code of their repository; single files (`from_single_file`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from inspector.errors import ModelUnavailableError, one_line, quoted
from inspector.records.checkpoint import StoredFile
from inspector.records.diffusion import StoredComponent, StoredPipeline

__all__ = ["INDEX_FILE", "MODEL_TYPE", "is_component", "list_component_configs", "read_component", "read_pipeline"]

INDEX_FILE = "model_index.json"
# What the configuration of a part is called here, where transformers has types of models.
MODEL_TYPE = "diffusers"
# The folders of what is trained, in the order in which they are looked for.
_DENOISERS = ("unet", "transformer", "prior")
_MOST_PARTS = 32
_SCHEDULER = "scheduler/scheduler_config.json"
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model|pytorch_model)(?:-\d{5}-of-\d{5})?\.(?P<suffix>safetensors|bin)"
)

Read = Callable[[str], Mapping[str, Any]]


def list_component_configs(names: Sequence[str]) -> list[str]:
    """Return the configurations of parts among the files of a pipeline, that of its scheduler included."""
    return [name for name in names if name == _SCHEDULER or re.fullmatch(r"\w+/config\.json", name)][:_MOST_PARTS]


def is_component(config: Mapping[str, Any]) -> bool:
    """Tell whether a config.json is of a part of a pipeline."""
    return "_diffusers_version" in config and isinstance(config.get("_class_name"), str)


def read_pipeline(name: str, index: Mapping[str, Any], files: Sequence[StoredFile], read: Read) -> StoredPipeline:
    """Return the parts of a pipeline; raises ModelUnavailableError where none of them is known to be trained."""
    components = []
    configs = [item for item in list_component_configs([file.name for file in files]) if item != _SCHEDULER]
    for config_name in sorted(configs):
        part = config_name.partition("/")[0]
        named = index.get(part)
        if not isinstance(named, (list, tuple)) or len(named) != 2 or not all(isinstance(item, str) for item in named):
            continue
        components.append(_build(part, named[0], named[1], read(config_name), files, f"{part}/"))
    trained = next((part for part in _DENOISERS if any(item.name == part for item in components)), None)
    if trained is None:
        parts = sorted(item.partition("/")[0] for item in configs)
        listed = " or ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))
        advice = f"of its parts, name the folder of {listed}" if parts else "name a model"
        raise ModelUnavailableError(
            f"{quoted(name)} is a pipeline of diffusers (model_index.json) that names no {' or '.join(_DENOISERS)}; "
            f"{one_line(advice, 200)}."
        )
    class_name = one_line(index.get("_class_name", "DiffusionPipeline"), 60)
    has_noise = any(file.name == _SCHEDULER for file in files)
    return StoredPipeline(
        class_name=class_name,
        components=tuple(components),
        trained=trained,
        predicts_velocity=has_noise and read(_SCHEDULER).get("prediction_type") == "v_prediction",
    )


def read_component(folder: str, config: Mapping[str, Any], files: Sequence[StoredFile]) -> StoredPipeline:
    """Return one part as a pipeline of it alone; `files` are those of its folder."""
    component = _build(folder or "model", "diffusers", str(config["_class_name"]), config, files, "")
    return StoredPipeline(class_name=component.class_name, components=(component,), trained=component.name)


def _build(
    part: str, library: str, class_name: str, config: Mapping[str, Any], files: Sequence[StoredFile], prefix: str
) -> StoredComponent:
    """Return a part with the bytes of the weights in its folder."""
    sizes: dict[str, list[int | None]] = {}
    for file in files:
        found = _WEIGHTS.fullmatch(file.name.removeprefix(prefix)) if file.name.startswith(prefix) else None
        if found is not None:
            sizes.setdefault(found["suffix"], []).append(file.bytes)
    loaded = sizes.get("safetensors") or sizes.get("bin") or []
    known = [size for size in loaded if size is not None]
    total = sum(known) if known and len(known) == len(loaded) else None
    return StoredComponent(name=part, library=library, class_name=class_name, config=config, bytes=total)

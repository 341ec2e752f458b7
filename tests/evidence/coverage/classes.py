"""Every class of transformers with a head: whether it is counted, and its step traced.

A class is counted on its type's default configuration, and held against the same class built of real tensors, whose
pages are never touched. Its step is traced with few layers of every kind, and whole where it cannot be shortened.
"""

from __future__ import annotations

import inspect as python_inspect
import json
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import transformers
from torch import nn
from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto

import inspector
from tests.evidence.coverage.configurations import (
    build,
    count_parameters,
    find_type,
    list_shortened,
    make_fields,
)

__all__ = ["has_loss", "judge_class", "list_classes"]

# Auto mappings of models without a head.
_BARE = {
    "MODEL_MAPPING_NAMES",
    "MODEL_FOR_BACKBONE_MAPPING_NAMES",
    "MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_MAPPING_NAMES",
}
# More is not built for real: shortened models are.
_MOST_REAL = 1_000_000_000
_FEW_EXPERTS = 16
# Reasons that may be those of a shortened configuration alone.
_OF_SIZES = re.compile(r"ends of its|non-empty list|AttributeError|IndexError|KeyError|shape|size")
# What stands around the reason in the notice.
_BEFORE, _AFTER = "The training step was not traced: ", ". The static bytes are what is known."
_TARGETS = re.compile(
    r"labels|(?!input_)\w+_labels?|return_loss|start_positions|future_values|target_values|bool_masked_pos|decoder_input_values|"
    r"(sentence|next_sentence)_\w+label|alignment_\w+|mask_time_indices|past_observed_mask"
)
_WITHOUT_TRAINING = re.compile(
    r"(training|labels?|loss)\W[^\"']{0,60}not (yet )?(been )?(supported|implemented)|not support training|"
    r"not trainable",
    re.IGNORECASE,
)


def list_classes() -> list[dict[str, Any]]:
    """Return the type, the class and the tasks of every class with a head, those in no mapping included."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in dir(modeling_auto):
        if name.endswith("MAPPING_NAMES") and not name.startswith("CONFIG"):
            for model_type, names in getattr(modeling_auto, name).items():
                for class_name in names if isinstance(names, (tuple, list)) else (names,):
                    found.setdefault((model_type, class_name), []).append(name)
    mapped = {class_name for _, class_name in found}
    for name in dir(transformers):
        if name in mapped or name.startswith("Auto") or not re.match(r"[A-Z].*(For[A-Z]|HeadModel|HeadsModel)", name):
            continue
        model_class = getattr(transformers, name, None)
        if not isinstance(model_class, type) or not issubclass(model_class, transformers.PreTrainedModel):
            continue
        model_type = getattr(model_class.config_class, "model_type", "")
        if model_class.forward is not nn.Module.forward and model_type in CONFIG_MAPPING:
            found[model_type, name] = ["(none)"]
    return [
        {"type": model_type, "class": name, "tasks": sorted(map(_name_task, set(mappings) - _BARE))}
        for (model_type, name), mappings in found.items()
        if not set(mappings) <= _BARE
    ]


def has_loss(model_class: Any) -> bool:
    """Tell whether a class's forward takes what a loss compares with, and does not say that it cannot train."""
    forward = getattr(model_class, "forward", None)
    if forward is None or not any(map(_TARGETS.fullmatch, python_inspect.signature(forward).parameters)):
        return False
    return not _WITHOUT_TRAINING.search(python_inspect.getsource(forward))


def judge_class(case: dict[str, Any], folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what is found out of a class, a part at a time."""
    name = case["class"]
    model_class = getattr(transformers, name, None)
    model_type = find_type(case["type"], model_class)
    yield {"loss": has_loss(model_class)}
    fields = make_fields(model_type, name)
    try:
        whole = build(fields, model_type, model_class)
    except Exception as error:
        packages = " ".join(re.findall(r"`pip install ([\w-]+)`", str(error)))
        why = f"it needs packages: `pip install {packages}`" if packages else f"{type(error).__name__}: {error}"
        yield {"counted": False, "reason": f"transformers cannot build it: {why}"[:300]}
        return
    try:
        counted = _count(_write(folder, fields, name, model_type))
    except inspector.InspectorError as error:
        yield {"counted": False, "reason": str(error)[:300]}
        return
    yield {"counted": True, "parameters": counted}
    few = list(list_shortened(model_type, model_class, name, whole))
    if counted <= _MOST_REAL:
        yield {"equal": count_parameters(build(fields, model_type, model_class, "cpu")) == counted}
    else:
        for smaller in list_shortened(model_type, model_class, name, whole, _FEW_EXPERTS):
            counted = _count(_write(folder, smaller, name, model_type))
            if counted <= _MOST_REAL:
                yield {"equal": count_parameters(build(smaller, model_type, model_class, "cpu")) == counted}
    del whole
    for short in few:
        reason = yield from _trace_one(_write(folder, short, name, model_type))
        if reason is None or not _OF_SIZES.search(reason):
            return
    yield from _trace_one(_write(folder, fields, name, model_type))


def _count(path: str) -> int:
    """Return how many parameters the model of a config.json has."""
    report = inspector.inspect(path, offline=True, assume_defaults=True, count_only=True, dtype="float32")
    return report.parameters.base


def _trace_one(path: str) -> Generator[dict[str, Any], None, str | None]:
    """Yield whether a step is traced; return why not."""
    try:
        report = inspector.inspect(path, offline=True, assume_defaults=True, dtype="float32")
    except inspector.InspectorError as error:
        yield {"traced": False, "reason": str(error)[:300]}
        return str(error)
    run = report.training
    if run is None:
        reason = _say_why(report)
        yield {"traced": False, "reason": reason}
        return reason
    broken = list_broken_laws(run)
    left_out = sorted(notice.code for notice in report.warnings if notice.code in ("no-image", "no-sound", "no-boxes"))
    yield {
        "traced": True,
        "reason": None,
        **({"broken": broken} if broken else {}),
        **({"leaves_out": left_out} if left_out else {}),
        "peak": run.peak_allocated_bytes,
    }
    return None


def _say_why(report: inspector.Report) -> str:
    """Return why a step was not traced."""
    message = next((notice.message for notice in report.warnings if notice.code == "not-traced"), "no run")
    return message.removeprefix(_BEFORE).removesuffix(_AFTER)


def list_broken_laws(run: Any) -> list[str]:
    """Return which laws a traced run breaks."""
    broken = []
    if sum(run.peak.breakdown.values()) != run.peak_allocated_bytes or min(run.peak.breakdown.values()) < 0:
        broken.append("categories do not sum to the peak")
    if run.peak_reserved_bytes < run.peak_allocated_bytes:
        broken.append("less is reserved than allocated")
    if run.peak_allocated_bytes < run.end_of_step_allocated_bytes:
        broken.append("more is left than the peak")
    return broken


def _write(folder: Path, fields: dict[str, Any], name: str, model_type: str) -> str:
    """Write a config.json; return its path."""
    path = folder / "config.json"
    path.write_text(json.dumps({**fields, "architectures": [name], "model_type": fields.get("model_type", model_type)}))
    return str(path)


def _name_task(mapping: str) -> str:
    """Return what a mapping's models do, in words."""
    inner = re.sub(r"^MODEL_(FOR_|WITH_)?|_?MAPPING_NAMES$", "", mapping)
    return inner.lower().replace("_", " ") or mapping

"""Whose file it is, by the keys that only one framework has; what two frameworks claim is refused.

First match wins among the names that several have, in the order of `_SIGNS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inspector.checks import find_nearest_names
from inspector.errors import UsageError, one_line, quoted
from inspector.training_files.fields import Framework, parse_version
from inspector.training_files.frameworks.axolotl import AXOLOTL
from inspector.training_files.frameworks.distributed_config import DISTRIBUTED_CONFIG
from inspector.training_files.frameworks.launchers import ACCELERATE, DEEPSPEED
from inspector.training_files.frameworks.llamafactory import LLAMAFACTORY
from inspector.training_files.frameworks.trl import TRANSFORMERS, TRL
from inspector.training_files.frameworks.unsloth import UNSLOTH
from inspector.training_files.names import has_suffix

__all__ = ["FRAMEWORKS", "LAUNCHERS", "TORCHTUNE", "find_path", "parse_framework", "recognise"]

TORCHTUNE = "torchtune"
LAUNCHERS = (ACCELERATE, DEEPSPEED, DISTRIBUTED_CONFIG)
FRAMEWORKS: Mapping[str, Framework] = {
    "transformers": TRANSFORMERS,
    "trl": TRL,
    "axolotl": AXOLOTL,
    "llamafactory": LLAMAFACTORY,
    "unsloth": UNSLOTH,
    "accelerate": ACCELERATE,
    "deepspeed": DEEPSPEED,
    "distributedconfig": DISTRIBUTED_CONFIG,
}
# Keys that one framework alone has, or that stand in every file of it.
_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("axolotl", ("base_model",)),
    ("llamafactory", ("finetuning_type",)),
    ("accelerate", ("distributed_type", "compute_environment")),
    ("deepspeed", ("zero_optimization", "train_micro_batch_size_per_gpu")),
)
# Also fields of trainers.
_OF_DISTRIBUTED_CONFIG = ("tp_size", "fsdp_size", "ep_size")
_OF_LLAMAFACTORY = ("cutoff_len", "template", "lora_rank", "lora_target")
# Without a sign: so many names of TRL's configurations, one of these among them.
_LEAST_KNOWN = 2
_OF_TRAINING = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps", "output_dir"),
    *("learning_rate", "max_seq_length", "optim", "dataset_name"),
)
# A model's or an adapter's own configuration, or a report.
_OF_A_MODEL = ("architectures", "peft_type", "schema", "transformers_version", "auto_map")


def recognise(document: Mapping[str, Any], path: str) -> str | None:
    """Return whose file a document is, by a name of FRAMEWORKS or `torchtune`; None where nothing says so."""
    if any(key in document for key in _OF_A_MODEL) or _is_model(document):
        return None
    found = {name: next(key for key in keys if key in document) for name, keys in _SIGNS if set(keys) & set(document)}
    components = [key for key, value in document.items() if isinstance(value, dict) and "_component_" in value]
    if components:
        found[TORCHTUNE] = components[0]
    if "stage" in document and any(key in document for key in _OF_LLAMAFACTORY):
        found.setdefault("llamafactory", "stage")
    if "model_name_or_path" in document and "llamafactory" not in found:
        found["trl"] = "model_name_or_path"
    if len(found) > 1:
        claims = " and ".join(f"{key} of {name}" for name, key in found.items())
        raise UsageError(
            f"{one_line(path, 100)} has keys of two frameworks, {claims}; say whose it is: "
            f"`framework={next(iter(found))}`, for one."
        )
    if found:
        return next(iter(found))
    known = [name for name in document if name in TRL.index() or name in TRL.others]
    if len(known) >= _LEAST_KNOWN and any(name in document for name in _OF_TRAINING):
        return "trl"
    return "distributedconfig" if any(name in document for name in _OF_DISTRIBUTED_CONFIG) else None


def _is_model(document: Mapping[str, Any]) -> bool:
    """Tell whether a document is a model's configuration: axolotl's `model_type` stands beside its `base_model`."""
    return "model_type" in document and "base_model" not in document and "model_name_or_path" not in document


def parse_framework(text: str) -> tuple[str, str | None]:
    """Return the name of a framework and the version in `axolotl==0.21`, None where none is given."""
    name, separator, version = (part.strip() for part in text.partition("=="))
    key = name.lower().replace("-", "").replace("_", "")
    if key not in FRAMEWORKS and key != TORCHTUNE:
        near = find_nearest_names(key, (*FRAMEWORKS, TORCHTUNE))
        meant = f"did you mean {near[0]}? If not, " if near else ""
        raise UsageError(f"`framework` {quoted(text, 60)} is not known; {meant}use one of {', '.join(FRAMEWORKS)}.")
    if separator and not parse_version(version):
        raise UsageError(f"`framework` {quoted(text, 60)} has no version; give one, as in {key}==1.0.")
    return key, version or None


def find_path(model: str) -> Path | None:
    """Return the file of a name that a trainer may read, None where it is no such file."""
    if not has_suffix(model) or "\0" in model:
        return None
    path = Path(model)
    try:
        path = path.expanduser()
        return path if path.is_file() else None
    except (OSError, RuntimeError):  # a name that is too long; no home directory
        return None

"""A config.json's fields -> a transformers configuration, checked before anything is built from it.

Whatever comes from a repository is untrusted: a field may be negative, absurd or of the wrong type. transformers' own
validation runs within bounds of time and memory (`untrusted.bounds`), and every failure becomes one line. A file that
leaves the size of its model to the defaults of a class is refused (`untrusted.given`).

Two repairs are made, each with a notice: an unknown `model_type` whose `architectures` name a class that transformers
has is built with that class's own configuration (moonshotai/Kimi-K2 is a DeepSeek-V3), and `model_type` may be
missing when `architectures` says enough.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

import transformers
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from inspector.errors import InspectorError, UnsupportedModelError, one_line, quoted
from inspector.model.untrusted.bounds import bound_work
from inspector.model.untrusted.given import check_counts, find_gaps
from inspector.model.untrusted.successors import describe_missing_packages, name_successor
from inspector.quantization.declared import find_declared, has_ignored_declaration
from inspector.records.notice import Notice
from inspector.records.source import SourceFiles

__all__ = [
    "SIZES_ASSUMED",
    "describe_error",
    "explain_remote_failure",
    "find_missing_packages",
    "find_model_class",
    "find_text_config",
    "list_architectures",
    "read_configuration",
]

# The code of the notice that the figures are those of a class's defaults.
SIZES_ASSUMED = "sizes-assumed"

# How transformers names a package that it needs.
_PIP = re.compile(r"`pip install ([\w-]+)`")
# A configuration is made in milliseconds; one of 10^6 labels, each with a name, in a few seconds and some 200 MB.
_MOST_CPU_SECONDS = 20
_MOST_BYTES = 2**29


def read_configuration(
    files: SourceFiles, *, trust_remote_code: bool = False, assume_defaults: bool = False
) -> tuple[PretrainedConfig, list[Notice]]:
    """Return the transformers configuration for `files` and what had to be repaired to get it.

    Sizes that the file leaves to the class's defaults are a notice with `assume_defaults`, an error without.

    Raises UnsupportedModelError for a malformed configuration, one that does not say how large the model is, an unknown
    architecture or untrusted remote code.
    """
    fields: dict[str, Any] = _decode_numbers(files.config)
    list_architectures(fields)
    _check_quantization(find_declared(fields))
    model_type = fields.get("model_type")
    if model_type is not None and not isinstance(model_type, str):
        raise UnsupportedModelError(
            f"config.json of {files.id}: model_type must be a string, not {quoted(model_type, 60)}; correct it."
        )
    if "auto_map" in fields and model_type not in CONFIG_MAPPING and trust_remote_code:
        return _load_remote(files), [
            Notice(
                code="remote-code", message=f"The configuration and model classes are code from {files.code_location}."
            )
        ]
    notices = []
    if model_type is not None and model_type in CONFIG_MAPPING:
        config_class = CONFIG_MAPPING[model_type]
    else:
        config_class = _choose_class_by_architecture(files, model_type)
        # PEFT chooses targets and conversions by model_type: it must be the one of what is built.
        fields["model_type"] = config_class.model_type
        named = f"model_type {quoted(model_type)} is not one that transformers knows" if model_type else "no model_type"
        notices.append(
            Notice(
                code="model-type-fallback",
                message=f"config.json: {named}; built as {list_architectures(fields)[0]}, which its architectures "
                "name. Code that the repository may ship was not run.",
            )
        )
    check_counts(config_class, fields)
    config = _build_configuration(config_class, fields, files.id)
    if has_ignored_declaration(fields):
        notices.append(
            Notice(
                code="quantization-ignored",
                message="config.json declares a quantization as compression_config, which transformers ignores: the "
                "model is built and loaded in float. Newer files have it as quantization_config.",
            )
        )
    return config, [*notices, *_judge_gaps(config, fields, files, assume_defaults=assume_defaults)]


def _decode_numbers(value: Any) -> Any:
    """Return fields with numbers that JSON has none for, which transformers 5 saves as `{"__float__": "Infinity"}`."""
    if isinstance(value, Mapping):
        text = value.get("__float__") if len(value) == 1 else None
        if isinstance(text, str) and text in ("Infinity", "-Infinity"):
            return float(text)
        return {key: _decode_numbers(item) for key, item in value.items()}
    return [_decode_numbers(item) for item in value] if isinstance(value, list) else value


def _judge_gaps(
    config: PretrainedConfig, fields: Mapping[str, Any], files: SourceFiles, *, assume_defaults: bool
) -> list[Notice]:
    """Return a notice of sizes that the file does not give, where defaults may stand in for them; else raise."""
    gaps = find_gaps(config, fields)
    if not gaps:
        return []
    class_name = type(config).__name__
    if assume_defaults:
        message = f"config.json {gaps.describe()}: the figures are those of {class_name}'s defaults in their place."
        return [Notice(code=SIZES_ASSUMED, message=message)]
    stored = files.checkpoint
    has_gguf = stored is not None and any(item.kind == "gguf" for item in stored.left_out)
    step = "The weights are GGUF files: name the repository of the original model" if has_gguf else "Correct it"
    raise UnsupportedModelError(
        f"config.json of {files.id} {gaps.describe()}; {class_name}'s defaults would make another model of it. {step}, "
        "or add `assume_defaults=True` to go on with them."
    )


def _check_quantization(declared: Any) -> None:
    """Refuse a quantization_config that is no object, and one of two methods at once."""
    if declared is None:
        return
    if not isinstance(declared, Mapping):
        raise UnsupportedModelError(
            f"config.json: quantization_config must be an object, not {quoted(declared, 60)}; correct it."
        )
    method = declared.get("quant_method")
    loads = next((key for key in ("load_in_4bit", "load_in_8bit") if declared.get(key)), None)
    if loads and isinstance(method, str) and method.lower() != "bitsandbytes":
        raise UnsupportedModelError(
            f"config.json: quantization_config names {quoted(method, 40)} and sets {loads}, which is bitsandbytes'; "
            "correct it."
        )


def list_architectures(fields: Mapping[str, Any]) -> list[str]:
    """Return the class names that a configuration's `architectures` holds; malformed entries raise."""
    names = fields.get("architectures")
    if names is None:
        return []
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise UnsupportedModelError(
            f"config.json: architectures must be a list of class names, not {quoted(names, 60)}; correct it."
        )
    return list(names)


def find_model_class(name: str) -> type[PreTrainedModel] | None:
    """Return the transformers model class called `name`, or None when there is none."""
    candidate = getattr(transformers, name, None) if name.isidentifier() else None
    if isinstance(candidate, type) and issubclass(candidate, PreTrainedModel):
        # The bases that only hold what models have in common compute nothing and would count as empty. A whole of
        # parts that only generates has no forward either.
        is_whole = not name.endswith("PreTrainedModel") and "__init__" in vars(candidate)
        return candidate if is_whole or candidate.forward is not nn.Module.forward else None
    return None


def describe_error(error: Exception) -> str:
    """Return an error of a library on one line, its type first: a KeyError's text alone explains nothing."""
    return one_line(f"{type(error).__name__}: {error}".removesuffix(": "))


def find_missing_packages(error: Exception) -> str:
    """Return what pip installs of what transformers asks for (import_utils.py, `requires_backends`), or nothing."""
    return " ".join(_PIP.findall(str(error))) if isinstance(error, ImportError) else ""


def explain_remote_failure(part: str, files: SourceFiles, error: Exception) -> UnsupportedModelError:
    """Return what to say where the code of a repository failed: which packages it needs, or what it raised."""
    needs = describe_missing_packages(error)
    if needs is not None:
        return UnsupportedModelError(f"the {part} code of {files.id} {needs}.{name_successor(files.config)}")
    return UnsupportedModelError(
        f"the {part} code of {files.id} failed ({describe_error(error)}); look into that code."
        f"{name_successor(files.config)}"
    )


def find_text_config(config: PretrainedConfig) -> PretrainedConfig:
    """Return the part of a configuration that describes the text model; the whole when there is none, or several."""
    try:
        found = config.get_text_config()
    except ValueError:  # MusicGen has a text encoder and a decoder, and neither stands for the whole
        return config
    return found if isinstance(found, PretrainedConfig) else config


def _choose_class_by_architecture(files: SourceFiles, model_type: str | None) -> type[PretrainedConfig]:
    """Return the configuration class of the first architecture that transformers has, or raise why there is none."""
    for name in list_architectures(files.config):
        model_class = find_model_class(name)
        if model_class is not None and model_class.config_class is not None:
            return model_class.config_class
    if "auto_map" in files.config:
        raise UnsupportedModelError(
            f"{files.id} needs code from its repository (auto_map in config.json): read that code, then add "
            f"`trust_remote_code=True` to run it.{name_successor(files.config)}"
        )
    if model_type is None:
        raise UnsupportedModelError(
            f"config.json of {files.id} has no model_type and names no architecture that transformers "
            f"{transformers.__version__} has; name the configuration of a transformers model."
        )
    near = difflib.get_close_matches(model_type, list(CONFIG_MAPPING), n=1, cutoff=0.75)
    meant = f"did you mean {quoted(near[0])}? If not, " if near else ""
    raise UnsupportedModelError(
        f"config.json of {files.id}: model_type {quoted(model_type, 60)} is unknown to transformers "
        f"{transformers.__version__}; {meant}upgrade transformers, which may know it."
    )


def _build_configuration(
    config_class: type[PretrainedConfig], fields: Mapping[str, Any], model_id: str
) -> PretrainedConfig:
    """Build the configuration, turning whatever transformers raises into one line."""
    what = f"reading config.json of {model_id}"
    try:
        with bound_work(what, cpu_seconds=_MOST_CPU_SECONDS, memory_bytes=_MOST_BYTES):
            config: PretrainedConfig = config_class.from_dict(dict(fields))
    except InspectorError:
        raise
    except Exception as error:  # any class may be raised by 400 configuration classes over untrusted fields
        if packages := find_missing_packages(error):
            raise UnsupportedModelError(
                f"config.json of {model_id} is read with packages that are not installed: run `pip install {packages}`."
            ) from error
        raise UnsupportedModelError(
            f"config.json of {model_id} is malformed ({describe_error(error)}); correct it."
        ) from error
    return config


def _load_remote(files: SourceFiles) -> PretrainedConfig:
    """Run the repository's own configuration class; the user has declared that its code is trusted."""
    try:
        config: PretrainedConfig = transformers.AutoConfig.from_pretrained(
            files.code_location or files.id, revision=files.revision, trust_remote_code=True
        )
    except Exception as error:  # the repository's code can raise anything
        raise explain_remote_failure("configuration", files, error) from error
    return config

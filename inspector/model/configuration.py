"""A config.json's fields -> a transformers configuration, checked before anything is built from it.

Whatever comes from a repository is untrusted: a field may be negative, absurd or of the wrong type, and a module list
of 10^9 layers would fill the memory before any error shows. Sizes are therefore checked by name first
(`_check_sizes`), then transformers' own validation runs, and every failure becomes one line.

Two repairs are made, each with a notice: an unknown `model_type` whose `architectures` name a class that transformers
has is built with that class's own configuration (moonshotai/Kimi-K2 is a DeepSeek-V3), and `model_type` may be
missing when `architectures` says enough.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import transformers
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from inspector.errors import UnsupportedModelError, one_line, quoted
from inspector.records.notice import Notice
from inspector.records.source import SourceFiles

__all__ = ["describe_error", "find_model_class", "find_text_config", "list_architectures", "read_configuration"]

# Field names that say how many modules are built, and the most that a sane model has: Llama-3.1-405B has 126 layers,
# Kimi-K2 has 384 experts; the bounds leave room for two orders of magnitude.
# A vocabulary or a size for each layer is not a count (gemma3n's vocab_size_per_layer_input).
_MODULE_COUNT = re.compile(
    r"^(?!vocab_size_)(?:.*_)?(layers?|blocks?|depths?|stages?|experts?|groups|codes)(?!_(size|dim)s?$)($|_)"
)
# Those of them that are counts for sure; others may be positions, where -1 is the last layer (vision_feature_layer).
_SURE_COUNT = re.compile(r"^(num|n)_|^depths?$")
_MOST_MODULES = 10_000
# transformers makes a name for each label. ImageNet-21k has 21,843; catalogues of products some 10^5.
_LABEL_COUNT = re.compile(r"^(num|n)_(labels|classes)$")
_MOST_LABELS = 1_000_000
# Many more fields become loops and lists somewhere in 400 classes. Of those that count anything, a vocabulary is the
# largest with some 10^6; positions reach 10^7 and more, and bases of rotary embeddings and seeds are no sizes at all.
_LARGEST_COUNT = 2**28
_LARGEST_SIZE = 2**40
_NO_COUNT = re.compile(r"max|length|positions|theta|base|freq|seed|_id$")
_SIZE = re.compile(r"(size|dim|heads?|width|channels|positions|_inner|_embd|_model|_ff|_kv|rank)$")


def read_configuration(files: SourceFiles, *, trust_remote_code: bool = False) -> tuple[PretrainedConfig, list[Notice]]:
    """Return the transformers configuration for `files` and what had to be repaired to get it.

    Raises UnsupportedModelError for a malformed configuration, an unknown architecture or untrusted remote code.
    """
    fields = dict(files.config)
    _check_sizes(fields)
    _check_quantization(fields.get("quantization_config"))
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
    return _build_configuration(config_class, fields, files.id), notices


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
        # The bases that only hold what models have in common compute nothing and would count as empty.
        return candidate if candidate.forward is not nn.Module.forward else None
    return None


def describe_error(error: Exception) -> str:
    """Return an error of a library on one line, its type first: a KeyError's text alone explains nothing."""
    return one_line(f"{type(error).__name__}: {error}".removesuffix(": "))


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
            "`trust_remote_code=True` to run it."
        )
    if model_type is None:
        raise UnsupportedModelError(
            f"config.json of {files.id} has no model_type and names no architecture that transformers "
            f"{transformers.__version__} has; name the configuration of a transformers model."
        )
    near = difflib.get_close_matches(model_type, list(CONFIG_MAPPING), n=1)
    meant = f"did you mean {quoted(near[0])}? If not, " if near else ""
    raise UnsupportedModelError(
        f"config.json of {files.id}: model_type {quoted(model_type, 60)} is unknown to transformers "
        f"{transformers.__version__}; {meant}upgrade transformers, which may know it."
    )


def _build_configuration(
    config_class: type[PretrainedConfig], fields: Mapping[str, Any], model_id: str
) -> PretrainedConfig:
    """Build the configuration, turning whatever transformers raises into one line."""
    try:
        config: PretrainedConfig = config_class.from_dict(dict(fields))
    except Exception as error:  # any class may be raised by 400 configuration classes over untrusted fields
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
        raise UnsupportedModelError(
            f"the configuration code of {files.id} failed ({describe_error(error)}); look into that code."
        ) from error
    return config


def _check_sizes(fields: Mapping[str, Any]) -> None:
    """Refuse sizes that are negative or beyond any sane model, before a list of that length is made."""
    for path, key, value in _list_integers(fields, ""):
        lowest = 0 if _SURE_COUNT.search(key) else -_MOST_MODULES
        if _MODULE_COUNT.search(key) and not lowest <= value <= _MOST_MODULES:
            raise UnsupportedModelError(
                f"config.json: {one_line(path)} = {one_line(value, 40)} is outside of 0 to {_MOST_MODULES:,}; "
                "correct it, no model has so many."
            )
        if _LABEL_COUNT.search(key) and value > _MOST_LABELS:
            raise UnsupportedModelError(
                f"config.json: {one_line(path)} = {one_line(value, 40)} is more than {_MOST_LABELS:,}; correct it."
            )
        largest = _LARGEST_SIZE if _NO_COUNT.search(key) else _LARGEST_COUNT
        if value > largest or (value < 0 and _SIZE.search(key) and value != -1):
            raise UnsupportedModelError(f"config.json: {one_line(path)} = {value} is not a sane size; correct it.")


def _list_integers(value: Any, path: str) -> Iterator[tuple[str, str, int]]:
    """Yield (dotted path, last key, integer) for every integer in nested mappings and lists."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _list_integers(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _list_integers(item, path)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield path, path.rpartition(".")[2], value

"""Configuration -> the model itself, on the meta device: all modules and parameters, no data.

The class is the one that the config's `architectures` name, never the bare AutoModel, which drops the head. It is
built under `init_empty_weights(include_buffers=True)`, which is `torch.device("meta")`: the variant without buffers
breaks tied weights and allocates real memory for some modules. Dtypes are those that `from_pretrained` would give:
the checkpoint's, except for the parts that the class keeps in float32.

Not covered: quantized storage. A checkpoint that declares a quantization is built in its compute dtype, with a
notice.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from typing import Any

import accelerate
import torch
import transformers
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from inspector.compat.numbers import RememberNumbers
from inspector.compat.transformers import (
    float32_modules_of,
    from_config_of,
    model_mapping_of,
    strict_float32_modules_of,
    take_scipy_as_installed,
)
from inspector.errors import InspectorError, UnsupportedModelError, UsageError, quoted
from inspector.model.configuration import (
    describe_error,
    explain_remote_failure,
    find_missing_packages,
    find_model_class,
    find_text_config,
    list_architectures,
)
from inspector.model.untrusted.bounds import bound_modules, bound_work
from inspector.records.notice import Notice
from inspector.records.source import SourceFiles

__all__ = ["build_skeleton", "choose_class", "choose_dtype", "choose_reward_class", "find_head", "give_one_score"]


def find_head(config: PretrainedConfig, auto_classes: Iterable[str]) -> type[PreTrainedModel] | None:
    """Return the model class of the first of these auto classes that has one for `config`, None where none has.

    `auto_classes` are names such as AutoModelForCausalLM; those that transformers does not have are passed over.
    """
    for auto_class in auto_classes:
        auto = getattr(transformers, auto_class, None)
        mapping = None if auto is None else model_mapping_of(auto)
        if mapping is None:
            continue
        with contextlib.suppress(ValueError):  # some tables name classes that transformers does not have
            found = mapping.get(type(config), None)
            if found is not None:
                model_class: type[PreTrainedModel] = found[0] if isinstance(found, tuple) else found
                return model_class
    return None


# 250,000 modules, the most that are made, take some 30 s and as much memory; no model of the catalogue takes a tenth.
_MOST_CPU_SECONDS = 120
_MOST_BYTES = 5 * 2**27

# Which head to build when the config names no class that exists: the first of these that has one for the model type.
# Whole models come before parts of them: encoder-decoders before their decoders alone, two towers before one.
_ENCODER_DECODER_HEADS = ("AutoModelForSpeechSeq2Seq", "AutoModelForSeq2SeqLM")
_COMPOSITE_HEADS = ("AutoModelForImageTextToText", "AutoModel")
_FALLBACK_HEADS = (
    "AutoModelForMaskedLM",
    "AutoModelForCausalLM",
    "AutoModelForImageTextToText",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSpeechSeq2Seq",
    "AutoModelForImageClassification",
    "AutoModel",
)


def build_skeleton(
    config: PretrainedConfig, model_class: type[PreTrainedModel], dtype: torch.dtype, model_id: str
) -> PreTrainedModel:
    """Return `model_class` built from `config` on the meta device in `dtype`, weights tied.

    Raises UnsupportedModelError when the class cannot be built from this configuration.
    """
    try:
        with (
            bound_work(f"building {model_class.__name__}", cpu_seconds=_MOST_CPU_SECONDS, memory_bytes=_MOST_BYTES),
            bound_modules(),
            take_scipy_as_installed(),
            accelerate.init_empty_weights(include_buffers=True),
            RememberNumbers(),
        ):
            model: PreTrainedModel = from_config_of(model_class)(_take_part(config, model_class), dtype=dtype)
    except InspectorError:
        raise
    except Exception as error:  # 400 model classes over untrusted sizes can raise anything
        if packages := find_missing_packages(error):
            raise UnsupportedModelError(
                f"{model_id} cannot be built as {model_class.__name__} without packages that are not installed: "
                f"run `pip install {packages}`."
            ) from error
        raise UnsupportedModelError(
            f"{model_id} cannot be built as {model_class.__name__} from its config.json ({describe_error(error)}); "
            "correct it, or name another class with `model_class`."
        ) from error
    _move_to_meta(model)
    # Early releases of transformers 5 tie when they load weights; where the class has tied already, nothing changes.
    model.tie_weights()
    _keep_in_float32(model, dtype)
    return model


def choose_class(
    config: PretrainedConfig, files: SourceFiles, requested: str | None, *, trust_remote_code: bool = False
) -> tuple[type[PreTrainedModel], list[Notice]]:
    """Return the class to build and, when it is not the one that the config names, a notice that says so."""
    if requested is not None:
        model_class = find_model_class(requested)
        if model_class is None:
            raise UsageError(
                f"`model_class`: transformers {transformers.__version__} has no model class {quoted(requested, 60)}; "
                "name one such as Qwen2ForCausalLM."
            )
        return model_class, []
    names = list_architectures(files.config)
    if trust_remote_code and type(config).__module__.startswith("transformers_modules."):
        return _load_remote_class(config, files), []
    for name in names:
        model_class = find_model_class(name)
        if model_class is not None:
            return model_class, []
    model_class = _choose_fallback(config, names)
    reason = f"no class {quoted(names[0])} in transformers" if names else "its config.json names no architecture"
    message = f"Built as {model_class.__name__}: {reason}. Name another with `model_class`."
    return model_class, [Notice(code="class-fallback", message=message)]


def choose_reward_class(config: PretrainedConfig) -> tuple[type[PreTrainedModel], list[Notice]]:
    """Return the class of a configuration that gives sequences scores; raise UsageError where there is none."""
    model_class = find_head(config, ("AutoModelForSequenceClassification",))
    if model_class is None:
        raise UsageError(
            f"transformers has no class with a head for sequences for {type(config).__name__}, which `stage=reward` "
            "trains; name one with `model_class`."
        )
    message = f"Built as {model_class.__name__}: reward training puts a head of one score in the place of the logits."
    return model_class, [Notice(code="reward-head", message=message)]


def give_one_score(config: PretrainedConfig) -> None:
    """Set a configuration to one score a sequence, with a padding token where it names none.

    TRL loads the model with `num_labels=1` and takes the tokenizer's token (trainer/reward_trainer.py), by which the
    head finds the last token of a row; which one that is changes no memory.
    """
    config.num_labels = 1
    text = config.get_text_config()
    if getattr(text, "pad_token_id", None) is None:
        text.pad_token_id = 0


def choose_dtype(
    config: PretrainedConfig, requested: str, checkpoint_dtype: str | None
) -> tuple[torch.dtype, list[Notice]]:
    """Return the dtype of the base weights as `from_pretrained(dtype=requested)` would choose it."""
    if requested != "auto":
        return getattr(torch, requested), []
    declared = config.dtype or find_text_config(config).dtype
    if isinstance(declared, torch.dtype):
        return declared, []
    if checkpoint_dtype is not None:
        return getattr(torch, checkpoint_dtype), []
    message = (
        "Neither config.json nor the source says the dtype of the weights: float32 is assumed; set it with `dtype`."
    )
    return torch.float32, [Notice(code="dtype-assumed", message=message)]


def _take_part(config: PretrainedConfig, model_class: type[PreTrainedModel]) -> PretrainedConfig:
    """Return the part of a configuration that a class is built from, where that is no whole model (a thinker, say).

    `from_pretrained` of the part reads the same (configuration_utils.py, `base_config_key`).
    """
    wanted = model_class.config_class
    if wanted is None or isinstance(config, wanted):
        return config
    for name, part_class in config.sub_configs.items():
        part: PretrainedConfig | None = getattr(config, name, None)
        if part_class is wanted and part is not None and isinstance(part, wanted):
            part.processor_settings = getattr(config, "processor_settings", None)
            return part
    return config


def _choose_fallback(config: PretrainedConfig, names: list[str]) -> type[PreTrainedModel]:
    """Return the class of the model type whose head is closest to the names that do not exist."""
    suffixes = [name[name.rindex("For") :] for name in names if "For" in name]
    wanted = [f"AutoModel{suffix}" for suffix in suffixes]
    whole = _ENCODER_DECODER_HEADS if getattr(config, "is_encoder_decoder", False) else ()
    towers = _COMPOSITE_HEADS if len(config.sub_configs) > 1 else ()
    model_class = find_head(config, (*wanted, *whole, *towers, *_FALLBACK_HEADS))
    if model_class is None:
        raise UnsupportedModelError(
            f"transformers {transformers.__version__} has no model for {type(config).__name__}; "
            "name a class with `model_class`."
        )
    return model_class


def _load_remote_class(config: PretrainedConfig, files: SourceFiles) -> type[PreTrainedModel]:
    """Return the repository's own model class; the user has declared that its code is trusted."""
    auto_map: dict[str, Any] = dict(getattr(config, "auto_map", {}))
    references = [auto_map[head] for head in _FALLBACK_HEADS if head in auto_map]
    if not references:
        raise UnsupportedModelError(f"auto_map of {files.id} names no model class; name one with `model_class`.")
    try:
        found = transformers.dynamic_module_utils.get_class_from_dynamic_module(
            references[0], files.code_location or files.id, revision=files.revision
        )
    except Exception as error:  # the repository's code can raise anything
        raise explain_remote_failure("model", files, error) from error
    model_class: type[PreTrainedModel] = found
    return model_class


def _keep_in_float32(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Give the parts that the class keeps in float32 that dtype, as `from_pretrained` does when it loads them.

    One list holds under float16, the strict one under bfloat16 too (PreTrainedModel._get_dtype_plan, 5.23); patterns
    are searched anywhere in the name (core_model_loading.build_glob_alternation).
    """
    kept = set(float32_modules_of(model) or ()) if dtype is torch.float16 else set()
    if dtype in (torch.float16, torch.bfloat16):
        kept |= set(strict_float32_modules_of(model) or ())
    if not kept:
        return
    pattern = re.compile("|".join(glob.replace("*", ".*") for glob in sorted(kept)))
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and pattern.search(name):
            tensor.data = tensor.data.to(torch.float32)


def _move_to_meta(model: PreTrainedModel) -> None:
    """Move what a class made on a real device all the same (wav2vec2's masked_spec_embed) to meta."""
    if any(tensor.device.type != "meta" for tensor in (*model.parameters(), *model.buffers())):
        nn.Module.to(model, device="meta")

"""What the user asked for as an adapter -> a `peft.PeftConfig`.

Three forms arrive here: `LoraOptions` of the command line, a mapping of fields (an adapter_config.json), or a live
`PeftConfig`. PEFT's own validation decides; every failure becomes one line, and fields that the installed PEFT does not
know are dropped as PEFT drops them, but with a notice.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import peft
from peft import LoraConfig, PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType

from inspector.checks import describe_value
from inspector.errors import UsageError, one_line, quoted
from inspector.model.adapter.by_shape import stand_in_for_clustering
from inspector.model.adapter.mixed import METHOD, check_mixed, list_mixed
from inspector.model.configuration import describe_error
from inspector.records.notice import Notice
from inspector.records.request import LoraOptions

__all__ = ["LINEAR_NAMES", "list_changed_fields", "list_names", "name_method", "names_layers", "read_peft_config"]

# Stands for the names of the linear layers of a model, until there is one (`targets.spell_out_linear`).
LINEAR_NAMES = "linear-names"
# Which PEFT task goes with a model class; PEFT's task decides what it saves beside the adapter (a classifier, say).
_TASKS = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}


# Fields for which PEFT makes that many modules, or runs that many steps, for each layer; real ones are below 20.
_COUNTS = ("depth", "encoder_num_layers", "n_skills", "n_splits")
_MOST_OF_A_COUNT = 256
# First values that PEFT computes from the weights; the sizes are those of any others.
_LOFTQ = "loftq"
# What says how an adapter is attached and changes no size; PEFT does not save it.
_RUNTIME = frozenset({"runtime_config"})
# Fields for which PEFT loads weights from the Hub or imports a module by name while it attaches the adapter.
_LOADERS = ("adapters", "megatron_config", "shadow_model")
# "mirror" makes SHADOW's second backbone from the base's own configuration.
_LOADING_NOTHING: tuple[Any, ...] = (None, {}, "mirror")

# Fields of the first releases of PEFT, by the values with which they change nothing (peft 0.1, tuners/lora.py): today's
# LoRA has no part of a fused layer left out, and merging is a method.
_OLD_FIELDS: Mapping[str, tuple[Any, ...]] = {"enable_lora": (None, [], False), "merge_weights": (None, False, True)}

# Fields that choose among layers, and how fields end that name modules or parameters of the base.
_OF_LAYERS = ("layers_to_transform", "layers_pattern", "layer_replication", "adapter_layers")
_NAMING = ("modules", "parameters", "pattern", "to_save", "indices")


def read_peft_config(
    asked: LoraOptions | Mapping[str, Any] | PeftConfig, class_name: str
) -> tuple[PeftConfig, list[Notice]]:
    """Return a PEFT configuration of its own (never the caller's object) and what was dropped on the way.

    Raises UsageError for an unknown PEFT type, a missing one, or values that PEFT refuses.
    """
    if isinstance(asked, PeftConfig):
        config, notices = copy.deepcopy(asked), list[Notice]()
        if name_method(config) == METHOD:
            check_mixed(getattr(config, "adapters", None))
    elif not isinstance(asked, (LoraOptions, Mapping)):
        raise UsageError(
            f"`peft` is {describe_value(asked)}; give a peft.PeftConfig, LoraOptions or a mapping of PEFT fields."
        )
    else:
        fields = _list_lora_fields(asked) if isinstance(asked, LoraOptions) else dict(asked)
        # An adapter that was made without a task says null: PEFT then adds no classifier to what it saves.
        fields.setdefault("task_type", _find_task(class_name))
        config, notices = _build_config(fields)
    # Initial values from a text or a file would make PEFT load them, the tokenizer's own code included; sizes do not
    # depend on them.
    if hasattr(config, "prompt_tuning_init"):
        config.prompt_tuning_init = "RANDOM"
    if hasattr(config, "init_lora_weights") and config.init_lora_weights == _LOFTQ:
        config.init_lora_weights = True
    # The base is the model at hand, whatever the configuration says.
    config.base_model_name_or_path = None
    config.inference_mode = False
    _check_config(config)
    return config, notices


def name_method(config: PeftConfig) -> str:
    """Return PEFT's name of the method, such as LORA."""
    return str(getattr(config.peft_type, "value", config.peft_type))


def list_names(config: PeftConfig, field: str) -> list[str]:
    """Return the names in a field of a configuration, sorted; none where it is not set or is a pattern."""
    value = getattr(config, field, None)
    return sorted(name for name in value if isinstance(name, str)) if isinstance(value, (list, tuple, set)) else []


def names_layers(config: PeftConfig) -> bool:
    """Tell whether an adapter may treat layers of one kind differently: its fields name some, or how many."""
    if any(getattr(config, name, None) for name in _OF_LAYERS):
        return True
    if list_mixed(config):  # what scales the adapters of one layer has numbers for all
        return True
    texts = [text for name, value in vars(config).items() if name.endswith(_NAMING) for text in _list_texts(value)]
    # A path or a regular expression with a digit in it; names such as fc1 are in every layer.
    return any(re.search(r"[.\\\[]", text) and re.search(r"\d|\\d", text) for text in texts)


def _list_texts(value: Any) -> Iterator[str]:
    """Yield the texts in a field, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (str(key) for key in value)
    elif isinstance(value, (list, tuple, set)):
        yield from (text for item in value for text in _list_texts(item))


def list_changed_fields(config: PeftConfig) -> dict[str, Any]:
    """Return the fields that differ from PEFT's defaults as plain values, `peft_type` first."""
    defaults = {
        field.name: field.default_factory() if callable(field.default_factory) else field.default
        for field in dataclasses.fields(config)
    }
    changed = {
        name: value
        for name, value in config.to_dict().items()
        # The rank is what people look for first, PEFT's default or not.
        if value != defaults.get(name) or (name == "r" and value is not None)
    }
    changed.pop("peft_version", None)
    peft_type = PeftType(changed.pop("peft_type", config.peft_type)).value
    return {"peft_type": peft_type, **{name: _to_plain(value) for name, value in changed.items()}}


def _list_lora_fields(options: LoraOptions) -> dict[str, Any]:
    """Return the LoraConfig fields of the command line's options."""
    targets = options.targets if isinstance(options.targets, str | None) else list(options.targets)
    excluded = options.exclude_targets
    given = {
        "r": options.r,
        "lora_alpha": options.alpha,
        "lora_dropout": options.dropout,
        "bias": options.bias,
        "use_dora": options.dora or None,
        "use_rslora": options.rslora or None,
        "target_modules": LINEAR_NAMES if options.by_name and targets == "all-linear" else targets,
        "modules_to_save": list(options.modules_to_save) if options.modules_to_save else None,
        "exclude_modules": excluded if isinstance(excluded, str | None) else list(excluded),
    }
    return {"peft_type": "LORA", **{name: value for name, value in given.items() if value is not None}}


def _build_config(fields: dict[str, Any]) -> tuple[PeftConfig, list[Notice]]:
    """Build the configuration class that `peft_type` names from the fields it knows."""
    name = fields.get("peft_type")
    if not isinstance(name, str):
        raise UsageError("the PEFT configuration has no peft_type: add one, such as LORA, IA3 or LN_TUNING.")
    known = [peft_type.value for peft_type in PEFT_TYPE_TO_CONFIG_MAPPING]
    if name not in known:
        near = difflib.get_close_matches(name.upper(), known, n=1)
        meant = f"Did you mean {near[0]}?" if near else f"Use one of {', '.join(sorted(known))}."
        raise UsageError(f"peft_type {quoted(name, 60)} is unknown to PEFT {peft.__version__}. {meant}")
    if name == METHOD:
        check_mixed(fields.get("adapters"))
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(name)]
    accepted = {field.name for field in dataclasses.fields(config_class) if field.init}
    unknown = sorted(set(fields) - accepted - _RUNTIME)
    notices = [_describe_unknown(fields, unknown)] if unknown else []
    if fields.get("init_lora_weights") == _LOFTQ:
        fields = _drop_loftq(fields)
    try:
        with stand_in_for_clustering():
            config: PeftConfig = config_class(
                **{key: value for key, value in fields.items() if key in accepted - _RUNTIME}
            )
    except Exception as error:  # 45 configuration classes over untrusted values raise what they like
        raise UsageError(f"PEFT refuses this {name} configuration ({describe_error(error)}); correct it.") from error
    return config, notices


def _describe_unknown(fields: Mapping[str, Any], unknown: list[str]) -> Notice:
    """Say which fields PEFT ignores, and by what its release says of the one that wrote them whether that matters."""
    shown = ", ".join(one_line(field, 40) for field in unknown[:5])
    remainder = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
    writer = fields.get("peft_version")
    if all(field in _OLD_FIELDS for field in unknown):
        harmless = all(fields[field] in _OLD_FIELDS[field] for field in unknown)
        meaning = (
            "They are of PEFT 0.1 and change nothing."
            if harmless
            else "They are of PEFT 0.1, where they left parts of a fused layer out: its file may hold less."
        )
    elif isinstance(writer, str) and writer[:1].isdigit():
        meaning = f"PEFT {one_line(writer, 40)} wrote it: with that release the count may be another."
    else:
        meaning = "If a newer PEFT wrote it, upgrade PEFT: the count may change."
    message = (
        f"PEFT {peft.__version__} does not know these fields of the configuration and ignores them: "
        f"{shown}{remainder}. {meaning}"
    )
    return Notice(code="peft-unknown-fields", message=message)


def _drop_loftq(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields without LoftQ, which computes first values of the adapter from the weights, by scipy.

    Raises UsageError where PEFT, with scipy, would refuse it (LoraConfig.__post_init__).
    """
    if not fields.get("loftq_config"):
        raise UsageError("init_lora_weights is 'loftq' and loftq_config is missing: PEFT wants both; add it.")
    return {**fields, "init_lora_weights": True, "loftq_config": {}}


def _check_config(config: PeftConfig) -> None:
    """Refuse what PEFT would take for something else, and what would load or run anything but PEFT itself."""
    rank = getattr(config, "r", None)
    if isinstance(config, LoraConfig) and (not isinstance(rank, int) or isinstance(rank, bool) or rank < 1):
        raise UsageError(f"the LoRA rank r must be an integer of at least 1, not {quoted(rank, 60)}; correct it.")
    targets = getattr(config, "target_modules", None)
    if not (targets is None or isinstance(targets, str) or _is_names(targets)):
        raise UsageError(f"target_modules must be a list of names or a string, not {quoted(targets, 60)}; correct it.")
    saved = getattr(config, "modules_to_save", None)
    if not (saved is None or _is_names(saved)):  # PEFT would take a string for a list of letters
        raise UsageError(f"modules_to_save must be a list of names, not {quoted(saved, 60)}; correct it.")
    for name in _COUNTS:
        count = getattr(config, name, None)
        if isinstance(count, int) and count > _MOST_OF_A_COUNT:
            raise UsageError(f"{name} = {count} of the PEFT configuration is more than {_MOST_OF_A_COUNT}; correct it.")
    mixed = list_mixed(config)  # whose adapters are configurations by now, which load nothing
    for expert in mixed:
        _check_config(expert)
    for name in _LOADERS[bool(mixed) :]:
        if getattr(config, name, None) not in _LOADING_NOTHING:
            raise UsageError(
                f"{name} of the PEFT configuration loads a model or code, which is never done here; drop it."
            )


def _is_names(value: Any) -> bool:
    """Tell whether a value is a collection of strings."""
    return isinstance(value, (list, tuple, set, frozenset)) and all(isinstance(name, str) for name in value)


def _find_task(class_name: str) -> str | None:
    """Return PEFT's task type for a model class by its suffix, or None where PEFT has none that is sure to fit."""
    return next((task for suffix, task in _TASKS.items() if class_name.endswith(suffix)), None)


def _to_plain(value: Any) -> Any:
    """Turn sets, enums and nested values of a PEFT configuration into what JSON can hold."""
    if isinstance(value, (set, frozenset)):
        return sorted((_to_plain(item) for item in value), key=str)
    if isinstance(value, Mapping):
        return {str(key): _to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)

"""transformers' TrainingArguments, TRL's SFTConfig and their like -> a Recipe, and notices of what it cannot say.

Anything counts that is a dataclass instance with their fields. Fields alone are read, never a property: `device` and
`n_gpu` would ask for the GPU. What a field means stands in the tables of training files.

The class says which trainer they are of: DPOConfig and its like are steps of their own, in the installed TRL.

Does not cover: weight decay, which takes a temporary tensor under SGD, Adagrad and RMSprop; evaluation; whatever other
trainers (RLOO, CPO) run beside a supervised step, which a notice says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

from inspector.errors import UsageError, one_line
from inspector.records.notice import Notice
from inspector.records.recipe import Precision, Recipe
from inspector.training_files.fields import Field, Settings, Values
from inspector.training_files.frameworks.losses import choose_trl_loss, read_liger
from inspector.training_files.frameworks.stages import settle_trl_stage
from inspector.training_files.frameworks.trl import TRL
from inspector.training_files.packing import count_documents
from inspector.training_files.versions import find_version

__all__ = ["is_training_arguments", "read_training_arguments"]

# Fields that mean the same in a Recipe, as the tables of training files have them. Of several for one the first that is
# there and not None decides.
_SAME_MEANING: Mapping[str, tuple[str, ...]] = {
    item.becomes: (*item.aliases, item.name)
    for item in TRL.fields
    if item.becomes in (*("batch_size", "gradient_accumulation", "optimizer", "optim_args"), "gradient_checkpointing")
    or item.becomes in ("max_grad_norm", "use_cache", "seq_len", "neftune")
}
# The fields that hold the keywords of gradient checkpointing, and what a Recipe has for these.
_CHECKPOINTING_KEYWORDS = ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs")
_OF_CHECKPOINTS = {"use_reentrant": "use_reentrant", "every_n_layers": "checkpoint_every"}
_SWITCHES = {"offload": ("offload", "checkpoints"), "selective": ("checkpoint_keeps", "attention")}
# Fields whose values in an object say nothing, since their class fills them in whatever is asked for.
_FILLED_IN = ("fsdp_config", "loss_type", "eos_token", "max_prompt_length", "max_completion_length", "vllm_mode")
# Fields that change what a step takes, where they are on, and that are not traced.
_NOT_TRACED = tuple(item for item in TRL.fields if item.effect is not None and item.name not in _FILLED_IN)
# SFTConfig: dtype and attention of the model, which are arguments of their own here.
_OF_THE_MODEL = "model_init_kwargs"
# The trainers that are traced as steps of their own, by the class of their arguments.
_STAGES = {
    "DPOConfig": "dpo",
    "KTOConfig": "kto",
    "ORPOConfig": "orpo",
    "CPOConfig": "cpo",
    "RewardConfig": "reward",
    "GRPOConfig": "grpo",
}
# What of a stage's settings a recipe has.
_OF_A_STAGE = ("loss", "reference", "prompt_len", "num_generations", "vllm_share")
# What GRPO's prompts are taken to be, where they have no bound.
_PROMPT = 512


def is_training_arguments(value: Any) -> bool:
    """Tell whether a value is a dataclass instance with the fields of TrainingArguments."""
    is_instance = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return is_instance and {"per_device_train_batch_size", "optim"} <= {item.name for item in dataclasses.fields(value)}


def read_training_arguments(arguments: Any, *, has_adapter: bool = False) -> tuple[Recipe, tuple[Notice, ...]]:
    """Return the recipe that the fields of `arguments` describe, and notices of what of them is not traced.

    The step is a Trainer's, on a model with an adapter or without. Raises UsageError where a field has a value that no
    recipe can have.
    """
    fields = {item.name: getattr(arguments, item.name) for item in dataclasses.fields(arguments)}
    kind = one_line(type(arguments).__name__, 60)
    given: dict[str, Any] = {}
    for name, sources in _SAME_MEANING.items():
        value = next((fields[source] for source in sources if fields.get(source) is not None), None)
        if value is not None:
            given[name] = value
    if "seq_len" not in given and isinstance(fields.get("max_completion_length"), int):  # GRPO, RLOO
        given["seq_len"] = (fields.get("max_prompt_length") or _PROMPT) + fields["max_completion_length"]
    given |= _read_packing(fields, given.get("seq_len", Recipe().seq_len))
    if fields.get("max_grad_norm", 0) is None:  # Trainer clips where there is a norm above 0
        given["max_grad_norm"] = 0.0
    if not given.get("gradient_checkpointing"):  # then a Trainer leaves it as it finds it
        given.pop("gradient_checkpointing", None)
    keywords = _find_checkpointing_keywords(fields) if "gradient_checkpointing" in given else {}
    given |= {_OF_CHECKPOINTS[key]: value for key, value in keywords.items() if key in _OF_CHECKPOINTS}
    given |= {name: value for key, (name, value) in _SWITCHES.items() if keywords.get(key)}
    if fields.get("activation_offloading") is True:
        given["offload"] = "activations"
    given |= _read_losses(arguments, fields)
    if fields.get("bf16") and fields.get("fp16"):
        raise UsageError(f"`recipe` ({kind}): bf16 and fp16 are both on; drop one of them.")
    if fields.get("bf16") or fields.get("fp16"):
        given["mixed_precision"] = Precision.BF16 if fields.get("bf16") else Precision.FP16
    says_length = "seq_len" in given
    settings = _settle_stage(arguments, fields, given, has_adapter=has_adapter)
    given |= {name: settings.fields[name] for name in _OF_A_STAGE if name in settings.fields}
    try:
        recipe = Recipe(**given, stage=settings.stage)
    except UsageError as error:
        raise UsageError(f"`recipe` ({kind}): {error}") from error
    return recipe, tuple(_collect_notices(kind, recipe, fields, keywords, settings, says_length=says_length))


def _settle_stage(
    arguments: Any, fields: Mapping[str, Any], given: Mapping[str, Any], *, has_adapter: bool
) -> Settings:
    """Return what the trainer of these arguments runs beside a supervised step."""
    classes = (kind.__name__ for kind in type(arguments).__mro__)
    stage = next((_STAGES[name] for name in classes if name in _STAGES), None)
    settings = Settings(fields={**given, "peft": has_adapter or None}, stage=stage)
    known = {item.name for item in TRL.fields}
    own = {name: value for name, value in fields.items() if name in known and value is not None}
    settle_trl_stage(Values(path="", framework=TRL.name, version=find_version(TRL)[0], given=own), settings)
    return settings


def _read_losses(arguments: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return Liger's kernels, and for an SFTConfig of TRL what its SFTTrainer has: a loss of its own, and a mask."""
    liger = read_liger(fields.get("liger_kernel_config")) if fields.get("use_liger_kernel") else {}
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(arguments).__mro__}
    if ("trl", "SFTConfig") not in kinds:
        return liger
    has_liger = liger.pop("loss", None) is not None
    loss = choose_trl_loss(metadata.version("trl"), fields.get("loss_type"), has_liger=has_liger)
    is_one_row = fields.get("padding_free") or fields.get("packing")
    return liger | ({"loss": loss} if loss else {}) | ({} if is_one_row else {"attention_mask": True})


def _read_packing(fields: Mapping[str, Any], row: Any) -> dict[str, Any]:
    """Return how documents lie in a row of SFTConfig: a strategy that keeps them whole makes the batch padding-free."""
    if fields.get("packing"):
        is_cut = fields.get("packing_strategy") == "wrapped"
        return {"padding": False} if is_cut or not isinstance(row, int) else {"packing": count_documents(row)}
    return {"packing": 1} if fields.get("padding_free") is True else {}


def _find_checkpointing_keywords(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the keyword arguments of checkpointing."""
    values = (fields.get(name) for name in _CHECKPOINTING_KEYWORDS)
    return next((value for value in values if isinstance(value, Mapping)), {})


def _collect_notices(
    kind: str,
    recipe: Recipe,
    fields: Mapping[str, Any],
    keywords: Mapping[str, Any],
    settings: Settings,
    *,
    says_length: bool,
) -> Iterator[Notice]:
    """Yield what the user should know of a recipe that was read from fields."""
    if not says_length:
        message = (
            f"{kind} does not say how long the sequences are: {recipe.seq_len:,} tokens were taken, the default of a "
            "Recipe."
        )
        yield Notice(code="seq-len-assumed", message=message)
    if recipe.packing not in (None, 1):
        message = (
            f"{kind} does not say how long the documents of a packed sequence are: {recipe.packing:,} per sequence are "
            "assumed."
        )
        yield Notice(code="documents-assumed", message=message)
    uses_vllm = bool(fields.get("use_vllm"))
    silent = settings.silent
    on = [item for item in _NOT_TRACED if item.name in fields and _is_on(item, fields[item.name])]
    on = [item for item in on if item.name not in silent]
    ignored = [
        f"{item.name} ({item.effect.direction})"
        for item in on
        if item.effect is not None and (uses_vllm or not item.name.startswith("vllm_"))
    ]
    ignored += [f"{item.name} ({item.effect.direction})" for item in settings.not_modelled]
    ignored += [_OF_THE_MODEL] if fields.get(_OF_THE_MODEL) else []
    known = (*_OF_CHECKPOINTS, *_SWITCHES)
    ignored += [f"{_CHECKPOINTING_KEYWORDS[-1]}[{one_line(key, 40)!r}]" for key in keywords if key not in known]
    if ignored:
        message = f"These settings of {kind} change what a step takes and were not traced: {', '.join(ignored)}."
        yield Notice(code="arguments-not-traced", message=message)


def _is_on(item: Field, value: Any) -> bool:
    """Tell whether a setting is anything else than off."""
    try:
        return item.is_on(value)
    except Exception:  # an object without a truth value says more than "off"
        return True

"""The optimizers by transformers' names: where each comes from, and which arguments it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from inspector.checks import Choice, check_choice, to_plain_text
from inspector.errors import UsageError, quoted

__all__ = [
    "DEFAULT",
    "FAMILIES",
    "OF_OTHER_PACKAGES",
    "OPTIMIZERS",
    "OptimizerName",
    "check_optimizer_name",
    "parse_optim_args",
]


class OptimizerName(Choice):
    """An optimizer by the name of transformers' `TrainingArguments.optim`.

    ADAMW_TORCH, ADAMW_TORCH_FUSED, SGD, ADAGRAD, RMSPROP: torch's classes, the first with its foreach kernels.
    ADAFACTOR: transformers' class.
    SCHEDULE_FREE_ADAMW, SCHEDULE_FREE_SGD, SCHEDULE_FREE_RADAM: schedulefree's. STABLE_ADAMW: torch-optimi's.
    GALORE_ADAMW: galore_torch's, on all linear layers. LORAFA: PEFT's `create_lorafa_optimizer`, which nothing names.
    MUON, ADAM_MINI: LLaMA-Factory's, and axolotl's, which transformers has no name for.
    All others: the optimizers of bitsandbytes. 8BIT and 32BIT are the bits of an element of their state, 32 where the
    name says neither; PAGED ones keep it in managed memory. ADAMW_BNB_8BIT is another name of ADAMW_8BIT.
    """

    ADAMW_TORCH = "adamw_torch"
    ADAMW_TORCH_FUSED = "adamw_torch_fused"
    SGD = "sgd"
    ADAGRAD = "adagrad"
    RMSPROP = "rmsprop"
    ADAFACTOR = "adafactor"
    SCHEDULE_FREE_ADAMW = "schedule_free_adamw"
    SCHEDULE_FREE_SGD = "schedule_free_sgd"
    SCHEDULE_FREE_RADAM = "schedule_free_radam"
    STABLE_ADAMW = "stable_adamw"
    GALORE_ADAMW = "galore_adamw"
    LORAFA = "lorafa"
    MUON = "muon"
    ADAM_MINI = "adam_mini"
    ADAMW_8BIT = "adamw_8bit"
    ADAMW_BNB_8BIT = "adamw_bnb_8bit"
    PAGED_ADAMW_32BIT = "paged_adamw_32bit"
    PAGED_ADAMW_8BIT = "paged_adamw_8bit"
    LION_32BIT = "lion_32bit"
    LION_8BIT = "lion_8bit"
    PAGED_LION_32BIT = "paged_lion_32bit"
    PAGED_LION_8BIT = "paged_lion_8bit"
    ADEMAMIX = "ademamix"
    ADEMAMIX_8BIT = "ademamix_8bit"
    PAGED_ADEMAMIX_32BIT = "paged_ademamix_32bit"
    PAGED_ADEMAMIX_8BIT = "paged_ademamix_8bit"
    RMSPROP_BNB = "rmsprop_bnb"
    RMSPROP_BNB_8BIT = "rmsprop_bnb_8bit"
    RMSPROP_BNB_32BIT = "rmsprop_bnb_32bit"


# TrainingArguments.optim with torch 2.8 and newer (transformers/training_args.py, `default_optim`).
DEFAULT = OptimizerName.ADAMW_TORCH_FUSED.value
OPTIMIZERS = OptimizerName.values()
_OF_TORCH = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop")
_OF_TRANSFORMERS = ("adafactor",)
_SCHEDULE_FREE = ("schedule_free_adamw", "schedule_free_sgd", "schedule_free_radam")
_WRITTEN_AFTER = (*_SCHEDULE_FREE, "stable_adamw", "muon", "adam_mini", "galore_adamw", "lorafa")
# Where the class comes from -> the names.
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "torch": _OF_TORCH,
    "transformers": _OF_TRANSFORMERS,
    "schedulefree": _SCHEDULE_FREE,
    "torch-optimi": ("stable_adamw",),
    "galore_torch": ("galore_adamw",),
    "peft": ("lorafa",),
    "frameworks": ("muon", "adam_mini"),
    "bitsandbytes": tuple(name for name in OPTIMIZERS if name not in (*_OF_TORCH, *_OF_TRANSFORMERS, *_WRITTEN_AFTER)),
}
# What else transformers 5.23 names (training_args.py, OptimizerNames), and the package that each comes from.
OF_OTHER_PACKAGES: Mapping[str, str] = {
    "adamw_torch_xla": "torch_xla",
    "adamw_torch_npu_fused": "torch_npu",
    "adamw_anyprecision": "torchdistx",
    "adamw_torch_4bit": "torchao",
    "adamw_torch_8bit": "torchao",
    "galore_adamw_8bit": "galore_torch",
    "galore_adafactor": "galore_torch",
    "galore_adamw_layerwise": "galore_torch",
    "galore_adamw_8bit_layerwise": "galore_torch",
    "galore_adafactor_layerwise": "galore_torch",
    "lomo": "lomo_optim",
    "adalomo": "lomo_optim",
    "grokadamw": "grokadamw",
    "apollo_adamw": "apollo_torch",
    "apollo_adamw_layerwise": "apollo_torch",
}


def _parse_flag(text: str) -> bool:
    """Read a flag as transformers does (trainer_optimizer.py, _get_sgd)."""
    return text.lower() in ("true", "1", "yes")


def _parse_projection(text: str) -> str:
    """Read which singular vectors GaLore projects to (galore_projector.py)."""
    if text not in _PROJECTIONS:
        raise UsageError(f"`optim_args`: proj_type={quoted(text)} is not known; use {', '.join(_PROJECTIONS)}.")
    return text


def _parse_count(text: str) -> int:
    """Read a whole number above 0."""
    count = int(text)
    if count < 1:
        raise UsageError(f"`optim_args`: rank and update_proj_gap cannot be {quoted(text)}; use 1 or more.")
    return count


def _parse_set(text: str) -> bool:
    """Read a flag that any text but none sets, as transformers does (`bool` of it)."""
    return bool(text)


_PROJECTIONS = ("std", "reverse_std", "right", "left", "full")
_Readers = Mapping[str, Callable[[str], object]]
_ADEMAMIX: _Readers = {
    **dict.fromkeys(("beta1", "beta2", "beta3", "alpha", "eps"), float),
    **dict.fromkeys(("t_alpha", "t_beta3"), int),
}
# The keys that the handler of an optimizer reads (trainer_optimizer.py, 5.23). `foreach` is torch's own argument, which
# a Trainer takes through `optimizer_cls_and_kwargs`: with foreach=False torch updates one tensor after the other.
_ARGUMENTS: Mapping[str, _Readers] = {
    "adamw_torch": {"foreach": _parse_flag},
    "sgd": {
        **dict.fromkeys(("momentum", "dampening", "weight_decay"), float),
        **dict.fromkeys(("nesterov", "foreach"), _parse_flag),
    },
    "adagrad": {**dict.fromkeys(("lr_decay", "weight_decay", "eps"), float), "foreach": _parse_flag},
    "rmsprop": {
        **dict.fromkeys(("momentum", "alpha", "eps", "weight_decay"), float),
        **dict.fromkeys(("centered", "foreach"), _parse_flag),
    },
    # What they change is the average and the rate, which no memory follows from.
    **{name: {"weight_lr_power": float, "r": float} for name in _SCHEDULE_FREE},
    "stable_adamw": {"max_lr": float, "decouple_lr": _parse_set, "kahan_sum": _parse_set},
    "galore_adamw": {
        **dict.fromkeys(("rank", "update_proj_gap"), _parse_count),
        "scale": float,
        "proj_type": _parse_projection,
    },
    **{name: _ADEMAMIX for name in FAMILIES["bitsandbytes"] if "ademamix" in name},
}


def check_optimizer_name(name: object) -> OptimizerName:
    """Return the optimizer of a name that is known here, or raise UsageError with what was probably meant."""
    if isinstance(name, str) and (package := OF_OTHER_PACKAGES.get(name)) is not None:
        known = ", ".join(OPTIMIZERS)
        nearest = "galore_adamw, the nearest, or " if package == "galore_torch" else ""
        raise UsageError(
            f"`optimizer` {to_plain_text(name)} is of the package {package}, not known here; "
            f"use {nearest}one of {known}."
        )
    if name == "adam":  # which is as near to ademamix; transformers has AdamW alone
        others = ", ".join(OPTIMIZERS)
        raise UsageError(f"`optimizer` adam is not known; did you mean {DEFAULT}? If not, use one of {others}.")
    return check_choice("optimizer", name, OptimizerName)


def parse_optim_args(name: str, text: str | None) -> dict[str, object]:
    """Read `key=value,key=value`, transformers' `optim_args`, for the optimizer of a name."""
    readers = _ARGUMENTS.get(name, {})
    values: dict[str, object] = {}
    for piece in text.split(",") if text is not None else ():
        key, separator, value = (part.strip() for part in piece.partition("="))
        if not separator:
            raise UsageError(f"`optim_args`: {quoted(key)} is not a setting; write key=value, as in momentum=0.9.")
        if key not in readers:
            takes = f"use {', '.join(readers)}" if readers else "drop it"
            raise UsageError(f"`optim_args`: {name} has no argument {quoted(key)}; {takes}.")
        try:
            values[key] = readers[key](value)
        except ValueError as error:
            raise UsageError(
                f"`optim_args`: {key}={quoted(value)} is not a number; write one, as in {key}=0.9."
            ) from error
    return values

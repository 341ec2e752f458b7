"""The optimizers that a step can be traced with, under the names of transformers' `TrainingArguments.optim`.

Names and the keys of `optim_args` alone, so that the command line can check them before torch is loaded; how each is
made stands in `inspector.workloads.training.optimizers`. Not covered: the optimizers of packages that are not installed
here, which are refused by name.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping

from inspector.errors import UsageError, quoted

__all__ = ["DEFAULT", "FAMILIES", "OF_OTHER_PACKAGES", "OPTIMIZERS", "checked_name", "parse_optim_args"]

DEFAULT = "adamw_torch"
# Where the class comes from -> the names.
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "torch": (DEFAULT, "adamw_torch_fused", "sgd", "adagrad", "rmsprop"),
    "transformers": ("adafactor",),
    "bitsandbytes": (
        "adamw_8bit",
        "adamw_bnb_8bit",
        "paged_adamw_32bit",
        "paged_adamw_8bit",
        "lion_32bit",
        "lion_8bit",
        "paged_lion_32bit",
        "paged_lion_8bit",
        "ademamix",
        "ademamix_8bit",
        "paged_ademamix_32bit",
        "paged_ademamix_8bit",
        "rmsprop_bnb",
        "rmsprop_bnb_8bit",
        "rmsprop_bnb_32bit",
    ),
}
OPTIMIZERS = tuple(name for names in FAMILIES.values() for name in names)
# What else transformers 5.23 names (training_args.py, OptimizerNames), and the package that each comes from.
OF_OTHER_PACKAGES: Mapping[str, str] = {
    "adamw_torch_xla": "torch_xla",
    "adamw_torch_npu_fused": "torch_npu",
    "adamw_anyprecision": "torchdistx",
    "adamw_torch_4bit": "torchao",
    "adamw_torch_8bit": "torchao",
    "galore_adamw": "galore_torch",
    "galore_adamw_8bit": "galore_torch",
    "galore_adafactor": "galore_torch",
    "galore_adamw_layerwise": "galore_torch",
    "galore_adamw_8bit_layerwise": "galore_torch",
    "galore_adafactor_layerwise": "galore_torch",
    "lomo": "lomo_optim",
    "adalomo": "lomo_optim",
    "grokadamw": "grokadamw",
    "schedule_free_radam": "schedulefree",
    "schedule_free_adamw": "schedulefree",
    "schedule_free_sgd": "schedulefree",
    "apollo_adamw": "apollo_torch",
    "apollo_adamw_layerwise": "apollo_torch",
    "stable_adamw": "torch-optimi",
}


def _flag(text: str) -> bool:
    """Read a flag as transformers does (trainer_optimizer.py, _get_sgd)."""
    return text.lower() in ("true", "1", "yes")


_Readers = Mapping[str, Callable[[str], object]]
_ADEMAMIX: _Readers = {
    **dict.fromkeys(("beta1", "beta2", "beta3", "alpha", "eps"), float),
    **dict.fromkeys(("t_alpha", "t_beta3"), int),
}
# The keys that the handler of an optimizer reads (trainer_optimizer.py, 5.23). `foreach` is torch's own argument, which
# a Trainer takes through `optimizer_cls_and_kwargs`: with foreach=False torch updates one tensor after the other.
_ARGUMENTS: Mapping[str, _Readers] = {
    DEFAULT: {"foreach": _flag},
    "sgd": {
        **dict.fromkeys(("momentum", "dampening", "weight_decay"), float),
        **dict.fromkeys(("nesterov", "foreach"), _flag),
    },
    "adagrad": {**dict.fromkeys(("lr_decay", "weight_decay", "eps"), float), "foreach": _flag},
    "rmsprop": {
        **dict.fromkeys(("momentum", "alpha", "eps", "weight_decay"), float),
        **dict.fromkeys(("centered", "foreach"), _flag),
    },
    **{name: _ADEMAMIX for name in FAMILIES["bitsandbytes"] if "ademamix" in name},
}


def checked_name(name: str) -> str:
    """Return the name of an optimizer that is known here, or raise UsageError with what was probably meant."""
    if name in OPTIMIZERS:
        return name
    known = f"use one of {', '.join(OPTIMIZERS)}"
    if name in OF_OTHER_PACKAGES:
        raise UsageError(f"--optimizer {name} is of the package {OF_OTHER_PACKAGES[name]}, not known here; {known}.")
    meant_name = name.lower().replace("-", "_")
    # `adamw` is the start of several: the first of them is the usual one.
    longer = [known_name for known_name in OPTIMIZERS if meant_name and known_name.startswith(f"{meant_name}_")]
    near = longer or difflib.get_close_matches(meant_name, OPTIMIZERS, n=1)
    meant = f"did you mean {near[0]}? If not, " if near else ""
    raise UsageError(f"--optimizer {quoted(name)} is not known; {meant}{known}.")


def parse_optim_args(name: str, text: str | None) -> dict[str, object]:
    """Read `key=value,key=value`, transformers' `optim_args`, for the optimizer of a name."""
    readers = _ARGUMENTS.get(name, {})
    values: dict[str, object] = {}
    for piece in text.split(",") if text is not None else ():
        key, separator, value = (part.strip() for part in piece.partition("="))
        if not separator:
            raise UsageError(f"--optim-args: {quoted(key)} is no setting; write key=value, as in momentum=0.9.")
        if key not in readers:
            takes = f"use {', '.join(readers)}" if readers else "drop it"
            raise UsageError(f"--optim-args: {name} has no argument {quoted(key)}; {takes}.")
        try:
            values[key] = readers[key](value)
        except ValueError as error:
            raise UsageError(
                f"--optim-args: {key}={quoted(value)} is no number; write one, as in {key}=0.9."
            ) from error
    return values

"""How the optimizer of a recipe is made: transformers' `optim` name -> the class and arguments that its Trainer takes.

torch's optimizers and transformers' Adafactor are the real classes; that torch chooses for meta what it chooses for
CUDA is the business of `foreach`. Those of bitsandbytes allocate what the library does (`bnb_optimizers`). Duplicate
names raise. Source: transformers 5.23, trainer_optimizer.py and Trainer.create_optimizer; tests/trace holds the
registry against `Trainer.get_optimizer_cls_and_kwargs`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.trainer_pt_utils import get_parameter_names

from inspector.model.census import count_head_elements
from inspector.records.recipe import Recipe
from inspector.records.steps.optimizers import parse_optim_args
from inspector.workloads.training.bnb_optimizers import BnbOptimizer, State
from inspector.workloads.training.low_rank import GaLoreAdamW, build_lora_fa, list_projected_groups
from inspector.workloads.training.stand_ins import AdamMini, Muon, ScheduleFree, StableAdamW

__all__ = [
    "build_optimizer",
    "count_managed_bytes",
    "find_class_and_arguments",
    "list_parameter_groups",
    "list_state_tensors",
]

# What transformers.Trainer leaves without weight decay (trainer.py, get_decay_parameter_names).
_WITHOUT_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
# Defaults of TrainingArguments.
_LEARNING_RATE = 5e-5
_ADAM: Mapping[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8}
_OF_SCHEDULES: Mapping[str, Any] = {"weight_decay": 0.0, "weight_lr_power": 2.0, "r": 0.0}

_ClassAndArguments = tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]
_CLASSES: dict[str, Callable[[], _ClassAndArguments]] = {}

# What bitsandbytes keeps: AdamW two moments, Lion and RMSprop one, AdEMAMix a fast and a slow one in one buffer, and
# the second (optim/adamw.py, lion.py, rmsprop.py, ademamix.py).
_ADAMW, _ONE, _ADEMAMIX = (1, 1), (1,), (2, 1)
_STATES: Mapping[str, State] = {
    "adamw_8bit": State(buffers=_ADAMW, bits=8),
    "adamw_bnb_8bit": State(buffers=_ADAMW, bits=8),
    "paged_adamw_32bit": State(buffers=_ADAMW, bits=32, paged=True),
    "paged_adamw_8bit": State(buffers=_ADAMW, bits=8, paged=True),
    "lion_32bit": State(buffers=_ONE, bits=32),
    "lion_8bit": State(buffers=_ONE, bits=8),
    "paged_lion_32bit": State(buffers=_ONE, bits=32, paged=True),
    "paged_lion_8bit": State(buffers=_ONE, bits=8, paged=True),
    "ademamix": State(buffers=_ADEMAMIX, bits=32, scales_first=True),
    "ademamix_8bit": State(buffers=_ADEMAMIX, bits=8, scales_first=True),
    "paged_ademamix_32bit": State(buffers=_ADEMAMIX, bits=32, paged=True, scales_first=True),
    "paged_ademamix_8bit": State(buffers=_ADEMAMIX, bits=8, paged=True, scales_first=True),
    "rmsprop_bnb": State(buffers=_ONE, bits=32, bfloat16=False),
    "rmsprop_bnb_8bit": State(buffers=_ONE, bits=8, bfloat16=False),
    "rmsprop_bnb_32bit": State(buffers=_ONE, bits=32, bfloat16=False),
}


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Make the optimizer of a recipe for what trains in a model, as the loop of the recipe makes it."""
    groups = list(list_parameter_groups(model, recipe.loop))
    state = _STATES.get(recipe.optimizer)
    if state is not None:
        return BnbOptimizer(groups, state, _list_wide_parameters(model, recipe, state))
    if recipe.optimizer == "lorafa":
        return build_lora_fa(model, _LEARNING_RATE)
    make, arguments = find_class_and_arguments(recipe.optimizer)
    if recipe.optimizer == "galore_adamw":
        groups = list(list_projected_groups(model))
    trained = [(name, item) for name, item in model.named_parameters() if item.requires_grad]
    if recipe.optimizer == "adam_mini":
        groups = [{"params": [item], "name": name.lower()} for name, item in trained]
        arguments = {**arguments, "head_elements": count_head_elements(model)}
    if recipe.optimizer == "muon":
        # One group, and AdamW for what is no matrix of a hidden layer (LLaMA-Factory, train/trainer_utils.py).
        groups = [{"params": [item for _, item in trained]}]
        arguments = {**arguments, "others": [item for name, item in trained if not _is_hidden_matrix(name, item)]}
    optimizer = make(groups, **arguments, **parse_optim_args(recipe.optimizer, recipe.optim_args))
    if recipe.loop == "trainer" and optimizer.state:
        _place(optimizer)
    return optimizer


def find_class_and_arguments(name: str) -> _ClassAndArguments:
    """Return the class of a name and the arguments that a Trainer gives it, without `optim_args`."""
    return _CLASSES[name]()


def count_managed_bytes(model: nn.Module, recipe: Recipe) -> int:
    """Return how much of the optimizer's state is managed memory, which torch's allocator does not see.

    Parameters that train and get no gradient are counted too, though an update would pass them over.
    """
    state = _STATES.get(recipe.optimizer)
    if state is None:
        return 0
    wide = {id(parameter) for parameter in _list_wide_parameters(model, recipe, state)}
    trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
    return sum(state.count_managed_bytes(parameter, wide=id(parameter) in wide) for parameter in trained)


def list_state_tensors(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """Yield the tensors on meta that an optimizer holds already: Adagrad makes its state before the first step."""
    for state in optimizer.state.values():
        yield from (item for item in state.values() if isinstance(item, Tensor) and item.device.type == "meta")


def _register(name: str) -> Callable[[Callable[[], _ClassAndArguments]], Callable[[], _ClassAndArguments]]:
    """Register the class and arguments of a name."""

    def register(entry: Callable[[], _ClassAndArguments]) -> Callable[[], _ClassAndArguments]:
        if name in _CLASSES or name in _STATES:
            raise ValueError(f"two optimizers named {name}")
        _CLASSES[name] = entry
        return entry

    return register


@_register("adamw_torch")
def _adamw() -> _ClassAndArguments:
    return torch.optim.AdamW, {"lr": _LEARNING_RATE, **_ADAM}


@_register("adamw_torch_fused")
def _fused_adamw() -> _ClassAndArguments:
    return torch.optim.AdamW, {"lr": _LEARNING_RATE, **_ADAM, "fused": True}


@_register("sgd")
def _sgd() -> _ClassAndArguments:
    return torch.optim.SGD, {"lr": _LEARNING_RATE}


@_register("adagrad")
def _adagrad() -> _ClassAndArguments:
    return torch.optim.Adagrad, {"lr": _LEARNING_RATE}


@_register("rmsprop")
def _rmsprop() -> _ClassAndArguments:
    return torch.optim.RMSprop, {"lr": _LEARNING_RATE}


@_register("adafactor")
def _adafactor() -> _ClassAndArguments:
    from transformers.optimization import Adafactor

    return Adafactor, {"lr": _LEARNING_RATE, "scale_parameter": False, "relative_step": False}


@_register("schedule_free_adamw")
def _schedule_free_adamw() -> _ClassAndArguments:
    return functools.partial(ScheduleFree, kind="adamw"), {"lr": _LEARNING_RATE, **_ADAM, **_OF_SCHEDULES}


@_register("schedule_free_sgd")
def _schedule_free_sgd() -> _ClassAndArguments:
    return functools.partial(ScheduleFree, kind="sgd"), {"lr": _LEARNING_RATE, **_OF_SCHEDULES}


@_register("schedule_free_radam")
def _schedule_free_radam() -> _ClassAndArguments:
    return functools.partial(ScheduleFree, kind="radam"), {"lr": _LEARNING_RATE, **_ADAM, **_OF_SCHEDULES}


@_register("stable_adamw")
def _stable_adamw() -> _ClassAndArguments:
    return StableAdamW, {"lr": _LEARNING_RATE, **_ADAM}


@_register("muon")
def _muon() -> _ClassAndArguments:
    return Muon, {"lr": _LEARNING_RATE, **_ADAM}


@_register("adam_mini")
def _adam_mini() -> _ClassAndArguments:
    return AdamMini, {"lr": _LEARNING_RATE, **_ADAM}


@_register("galore_adamw")
def _galore_adamw() -> _ClassAndArguments:
    return GaLoreAdamW, {"lr": _LEARNING_RATE, **_ADAM}


def list_parameter_groups(model: nn.Module, loop: str) -> Iterator[dict[str, Any]]:
    """Yield the parameter groups: what trains, split into with and without weight decay where the Trainer does so.

    The Trainer gives each group the decay of `TrainingArguments.weight_decay`, by default 0 for both.
    """
    trained = [(name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad]
    if loop == "plain":
        yield {"params": [tensor for _, tensor in trained]}
        return
    decayed = set(get_parameter_names(model, [nn.LayerNorm], _WITHOUT_DECAY))
    for decays in (True, False):
        group = [tensor for name, tensor in trained if (name in decayed) is decays]
        if group:
            yield {"params": group, "weight_decay": 0.0}


def _is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Tell whether Muon updates a parameter itself."""
    return parameter.dim() == 2 and "embed" not in name and "lm_head" not in name


def _list_wide_parameters(model: nn.Module, recipe: Recipe, state: State) -> list[Tensor]:
    """Return what keeps 32 bits under an 8-bit optimizer: the Trainer says so of embeddings (create_optimizer)."""
    if recipe.loop != "trainer" or state.bits != 8:
        return []
    return [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]


def _place(optimizer: torch.optim.Optimizer) -> None:
    """Move state that exists by now to the device of its parameter, as accelerate does when it wraps the optimizer.

    The step counters, which torch keeps on the CPU, become tensors of the GPU (accelerate/optimizer.py,
    AcceleratedOptimizer.__init__).
    """
    for parameter, state in optimizer.state.items():
        state.update({name: item.to(parameter.device) for name, item in state.items() if isinstance(item, Tensor)})

"""Optimizers of packages that need not be installed, written after their source: the same tensors in the same order.

- `ScheduleFree` is that of schedulefree 1.4.1 (adamw_schedulefree.py, sgd_schedulefree.py, radam_schedulefree.py), with
  its foreach kernels.
- `Muon` is that of LLaMA-Factory 0.9.5 (third_party/muon/muon.py), which is Moonshot's.
- `StableAdamW` is that of torch-optimi 0.3.3 (stableadamw.py) as it runs on CUDA, where Triton is there: its kernels
  work in place and take nothing beside the state.

The first two compute what the packages compute, and run on a GPU as they are. tests/workloads holds them against the
packages, event by event.

RAdam's update scales by the second moments from its fifth on, and takes a copy of them then: the updates here are such.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["Muon", "ScheduleFree", "StableAdamW"]

_Groups = Iterable[Mapping[str, Any]]
_Closure = Callable[[], float]
# From this update on RAdam's approximation is long enough for beta2 = 0.999 (rho_t > 4).
_RECTIFIED = 5


class _OfTrained(torch.optim.Optimizer):
    """An optimizer that updates its groups one after the other, each as `_update` does."""

    def __init__(self, groups: _Groups, defaults: Mapping[str, Any]) -> None:
        super().__init__([dict(group) for group in groups], dict(defaults))
        self._updates = 0

    @torch.no_grad()
    def step(self, closure: _Closure | None = None) -> float | None:  # type: ignore[override]  # as torch's own
        """Update what has a gradient."""
        loss = closure() if closure is not None else None
        self._updates += 1
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            if trained:
                self._update(group, trained)
        return loss

    def _update(self, group: dict[str, Any], trained: list[Tensor]) -> None:
        """Update the parameters of a group that have a gradient."""
        raise NotImplementedError


class ScheduleFree(_OfTrained):
    """AdamW, SGD or RAdam without a schedule: beside the weights it keeps where an average of them begins.

    `kind` is adamw, sgd or radam; SGD keeps no second moment.
    """

    def __init__(
        self,
        groups: _Groups,
        *,
        kind: str,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **_of_schedules: float,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._kind = kind
        self._updates = _RECTIFIED if kind == "radam" else 0

    def _update(self, group: dict[str, Any], trained: list[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        for parameter in trained:
            state = self.state[parameter]
            if "z" not in state:
                state["z"] = torch.clone(parameter, memory_format=torch.preserve_format)
                if self._kind != "sgd":
                    state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        starts = [self.state[parameter]["z"] for parameter in trained]
        if self._kind != "sgd":
            squares = [self.state[parameter]["exp_avg_sq"] for parameter in trained]
            torch._foreach_mul_(squares, beta2)
            torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
            roots = torch._foreach_div(squares, 1 - beta2**self._updates)
            torch._foreach_sqrt_(roots)
            torch._foreach_add_(roots, group["eps"])
            torch._foreach_div_(gradients, roots)
        if group["weight_decay"]:
            torch._foreach_add_(gradients, trained, alpha=group["weight_decay"])
        share = 1 / self._updates
        torch._foreach_lerp_(trained, starts, weight=share)
        torch._foreach_add_(trained, gradients, alpha=group["lr"] * (beta1 * (1 - share) - 1))
        torch._foreach_sub_(starts, gradients, alpha=group["lr"])


class StableAdamW(_OfTrained):
    """AdamW whose rate is cut where gradients jump; low precision has a compensation for what updates round off."""

    def __init__(self, groups: _Groups, *, eps: float = 1e-6, **others: Any) -> None:
        super().__init__(groups, {"eps": eps, **others})

    def _update(self, group: dict[str, Any], trained: list[Tensor]) -> None:
        for parameter in trained:
            state = self.state[parameter]
            if state:
                continue
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["eps_sq"] = torch.full((), group["eps"] ** 2, dtype=parameter.dtype, device=parameter.device)
            is_low = parameter.dtype in (torch.float16, torch.bfloat16)
            if is_low and group.get("kahan_sum") is not False:
                state["kahan_comp"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            else:
                state["kahan_comp"] = torch.zeros(1, dtype=torch.uint8, device=parameter.device)
            state["mean_square"] = torch.zeros(1, dtype=torch.float32, device=parameter.device)


class Muon(_OfTrained):
    """Momentum made orthogonal for matrices; AdamW for `others`, what is no matrix of a hidden layer."""

    def __init__(
        self,
        groups: _Groups,
        *,
        others: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        momentum: float = 0.95,
        rounds: int = 5,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "momentum": momentum, "rounds": rounds})
        self._others = {id(parameter) for parameter in others}

    def _update(self, group: dict[str, Any], trained: list[Tensor]) -> None:
        """Update matrices, then all else; as in the original the last of each name lives until the function ends."""
        rate, (beta1, beta2), momentum = group["lr"], group["betas"], group["momentum"]
        decay = 1 - rate * group.get("weight_decay", 0.0)
        for parameter in trained:
            if id(parameter) in self._others:
                continue
            gradient, state = parameter.grad, self.state[parameter]
            assert gradient is not None
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(gradient)
            buffer = state["momentum_buffer"]
            buffer.mul_(momentum).add_(gradient)
            gradient = gradient.add(buffer, alpha=momentum)
            update = _make_orthogonal(gradient, group["rounds"])
            parameter.data.mul_(decay)
            parameter.data.add_(update, alpha=-rate * 0.2 * math.sqrt(max(parameter.shape)))
        for parameter in trained:
            if id(parameter) not in self._others:
                continue
            gradient, state = parameter.grad, self.state[parameter]
            assert gradient is not None
            if "moment1" not in state:
                state["moment1"] = torch.zeros_like(gradient)
                state["moment2"] = torch.zeros_like(gradient)
            first, second = state["moment1"], state["moment2"]
            first.lerp_(gradient, 1 - beta1)
            second.lerp_(gradient.square(), 1 - beta2)
            gradient = first / (group["eps"] + second.sqrt())
            scale = (1 - beta1**self._updates) / (1 - beta2**self._updates) ** 0.5
            parameter.data.mul_(decay)
            parameter.data.add_(gradient, alpha=-rate / scale)


def _make_orthogonal(gradient: Tensor, rounds: int) -> Tensor:
    """Return the nearest orthogonal matrix, nearly (`zeropower_via_newtonschulz5`)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    matrix = gradient.bfloat16()
    is_tall = gradient.size(0) > gradient.size(1)
    if is_tall:
        matrix = matrix.T
    matrix = matrix / (matrix.norm() + 1e-7)
    for _ in itertools.repeat(None, rounds):
        square = matrix @ matrix.T
        update = b * square + c * square @ square
        matrix = a * matrix + update @ matrix
    return matrix.T if is_tall else matrix

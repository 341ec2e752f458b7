"""Optimizers of packages that need not be installed, written after their source: the same tensors in the same order.

- `ScheduleFree` is that of schedulefree 1.4.1 (adamw_schedulefree.py, sgd_schedulefree.py, radam_schedulefree.py), with
  its foreach kernels.
- `Muon` is that of LLaMA-Factory 0.9.5 (third_party/muon/muon.py), which is Moonshot's.
- `AdamMini` is that of adam-mini 1.1.1 (adam_mini.py), on one card.
- `StableAdamW` is that of torch-optimi 0.3.3 (stableadamw.py) as it runs on CUDA, where Triton is there: its kernels
  work in place and take nothing beside the state.

All but the last compute what the packages compute, and run on a GPU as they are. tests/workloads holds them against the
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

from inspector.errors import UsageError, one_line

__all__ = ["AdamMini", "Muon", "ScheduleFree", "StableAdamW"]

aten = torch.ops.aten
_Groups = Iterable[Mapping[str, Any]]
_Closure = Callable[[], float]
# From this update on RAdam's approximation is long enough for beta2 = 0.999 (rho_t > 4).
_RECTIFIED = 5
# What a second moment is shared by under Adam-mini, by words in the name of a parameter.
_BY_HEAD = ("k_proj", "q_proj", "wq", "wk", "query", "key")
_BY_ROW = (
    *("embed", "embd", "wte", "lm_head", "output", "final_layer", "v_proj", "wv", "value"),
    *("feed_forward", "linear", "mlp", "o_proj", "wo", "attn.proj"),
)


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
        self._roots: list[Tensor] = []  # those of a group live until the next one has its own

    @torch.no_grad()
    def step(self, closure: _Closure | None = None) -> float | None:  # type: ignore[override]  # as torch's own
        """Update what has a gradient, one group after the other in one function."""
        loss = super().step(closure)
        self._roots = []
        return loss

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
            aten._foreach_mul_.Scalar(squares, beta2)
            aten._foreach_addcmul_.Scalar(squares, gradients, gradients, 1 - beta2)
            self._roots = aten._foreach_div.Scalar(squares, 1 - beta2**self._updates)
            aten._foreach_sqrt_.default(self._roots)
            aten._foreach_add_.Scalar(self._roots, group["eps"])
            aten._foreach_div_.List(gradients, self._roots)
        if group["weight_decay"]:
            aten._foreach_add_.List(gradients, trained, alpha=group["weight_decay"])
        share = 1 / self._updates
        aten._foreach_lerp_.Scalar(trained, starts, share)
        aten._foreach_add_.List(trained, gradients, alpha=group["lr"] * (beta1 * (1 - share) - 1))
        aten._foreach_sub_.List(starts, gradients, alpha=group["lr"])


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


class AdamMini(_OfTrained):
    """AdamW with a second moment for each row of a matrix, each head of queries and keys, or a whole norm.

    Groups have one parameter each and its `name`, which decides. `head_elements` are the weights of a head.
    """

    def __init__(
        self,
        groups: _Groups,
        *,
        head_elements: int,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps})
        self._head_elements = head_elements

    @torch.no_grad()
    def step(self, closure: _Closure | None = None) -> float | None:  # type: ignore[override]  # as torch's own
        """Update what has a gradient; as in the original the last of each name lives until the function ends."""
        loss = closure() if closure is not None else None
        self._updates += 1
        for group in self.param_groups:
            (parameter,) = group["params"]
            if parameter.grad is None:
                continue
            (beta1, beta2), name, state = group["betas"], group["name"], self.state[parameter]
            first, second = 1 - beta1**self._updates, math.sqrt(1 - beta2**self._updates)
            if "bias" in name:
                if not state:
                    state["m"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                    state["v"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                gradient = parameter.grad
                state["v"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                state["m"].lerp_(gradient, 1 - beta1)
                root = (state["v"].sqrt() / second).add_(group["eps"])
                size = group["lr"] / first
                parameter.addcdiv_(state["m"], root, value=-size)
                continue
            by_head, by_row = (any(word in name for word in words) for words in (_BY_HEAD, _BY_ROW))
            if by_head and (not self._head_elements or parameter.numel() % self._head_elements):
                raise UsageError(
                    f"`optimizer` adam_mini cuts {one_line(name, 80)} into heads as its package does, which do not go "
                    "into it evenly; use another one."
                )
            if not state:
                moment = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                state["m"] = moment.view(-1, self._head_elements) if by_head else moment
                if by_head or by_row:
                    state["vmean"] = torch.zeros_like(state["m"][:, 0:1], memory_format=torch.preserve_format)
                else:
                    state["vmean"] = torch.zeros_like(torch.sum(parameter * parameter))
            gradient = parameter.grad
            if by_head or by_row:
                gradient = gradient.view(state["m"].shape)
                mean = torch.mean(gradient * gradient, dim=1, keepdim=True)
                state["vmean"].mul_(beta2).add_(mean, alpha=1 - beta2)
                state["m"].lerp_(gradient, 1 - beta1)
            else:
                mean = torch.sum(gradient * gradient)
                mean = mean / parameter.numel()
                state["m"].lerp_(gradient, 1 - beta1)
                state["vmean"].mul_(beta2).add_(mean, alpha=1 - beta2)
            root = (state["vmean"].sqrt() / second).add_(group["eps"])
            size = (1 / first) / root
            update = (state["m"] * size).view(parameter.size())
            update.mul_(group["lr"])
            parameter.add_(-update)
        return loss


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

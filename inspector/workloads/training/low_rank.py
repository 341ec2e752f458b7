"""The optimizers of low rank: GaLore's AdamW after galore_torch 1.0, and PEFT's own LoRA-FA.

`GaLoreAdamW` is written after galore_torch's adamw.py and galore_projector.py, which need not be installed: the
gradient of a linear layer is projected to its first singular vectors, found again every `update_proj_gap` updates, and
the moments are those of what is left. It computes what the package does and runs on a GPU as it is; tests/workloads
holds it against the package event by event. What cuSOLVER takes for the singular vectors is known to no rule
(`find_low_rank_unaccounted`).

LoRA-FA is the class of the installed PEFT: it freezes the matrices A, and reads their pseudoinverse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from inspector.errors import UsageError
from inspector.records.memory import Unaccounted
from inspector.records.recipe import Recipe
from inspector.runtime.patches import call_at_end, replace_attribute, restore_changes
from inspector.workloads.base import base_model

__all__ = [
    "GaLoreAdamW",
    "autocast_on",
    "build_lora_fa",
    "check_low_rank",
    "find_low_rank_unaccounted",
    "list_projected_groups",
]

_SVD = "cuSOLVER's workspace and its copy of the matrix, which no rule gives"
_PINV = "what one takes beside its result, a few matrices of rank by rank and cuSOLVER's workspace"


def list_projected_groups(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Yield what trains in two groups: all else, and the weights of linear layers, which are projected.

    That is `optim_target_modules="all-linear"` (transformers 5.23, trainer_optimizer.py, _setup_low_rank_optimizer).
    """
    targets = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    trained = [(name, item) for name, item in model.named_parameters() if item.requires_grad]
    yield {"params": [item for name, item in trained if name not in targets], "is_projected": False}
    yield {"params": [item for name, item in trained if name in targets], "is_projected": True}


class GaLoreAdamW(torch.optim.Optimizer):
    """AdamW whose moments for a matrix are those of its projected gradient."""

    def __init__(
        self,
        groups: Iterable[Mapping[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        rank: int = 128,
        update_proj_gap: int = 200,
        scale: float = 0.25,
        proj_type: str = "std",
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "is_projected": False}
        super().__init__([dict(group) for group in groups], defaults)
        self._rank, self._gap, self._scale, self._kind = rank, update_proj_gap, scale, proj_type

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # as torch's
        """Update what has a gradient; as in the original the last of each name lives until the function ends."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient, state = parameter.grad, self.state[parameter]
                updates = state.setdefault("step", 0)
                if group["is_projected"]:
                    gradient = self._project(gradient, state, is_due=updates % self._gap == 0)
                if "exp_avg" not in state:
                    state["exp_avg"] = torch.zeros_like(gradient)
                    state["exp_avg_sq"] = torch.zeros_like(gradient)
                moment, square = state["exp_avg"], state["exp_avg_sq"]
                state["step"] = updates + 1
                moment.mul_(beta1).add_(gradient, alpha=1.0 - beta1)
                square.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
                root = square.sqrt().add_(group["eps"])
                size = group["lr"] * math.sqrt(1.0 - beta2 ** (updates + 1)) / (1.0 - beta1 ** (updates + 1))
                update = moment / root
                if group["is_projected"]:
                    update = self._project_back(update, state["projection"])
                parameter.add_(update, alpha=-size)
        return loss

    def _project(self, gradient: Tensor, state: dict[str, Any], *, is_due: bool) -> Tensor:
        """Return the gradient in the space of its first singular vectors, which are found anew when that is due."""
        if is_due or "projection" not in state:
            state["projection"] = _find_singular_vectors(gradient, self._rank, _find_side(gradient, self._kind))
        left, right = state["projection"]
        if right is None:
            return torch.matmul(left.t(), gradient)
        if left is None:
            return torch.matmul(gradient, right.t())
        return torch.matmul(left.t(), gradient) @ right.t()

    def _project_back(self, update: Tensor, projection: tuple[Tensor | None, Tensor | None]) -> Tensor:
        """Return an update of the parameter from one of the space of its singular vectors."""
        left, right = projection
        if left is not None:
            full = torch.matmul(left, update)
            if right is not None:
                full = full @ right
        else:
            assert right is not None
            full = torch.matmul(update, right)
        return full * self._scale


def _find_side(gradient: Tensor, kind: str) -> str:
    """Return which singular vectors project a gradient: left, right or full, both."""
    if kind in ("left", "right", "full"):
        return kind
    is_tall = gradient.shape[0] >= gradient.shape[1]
    return "right" if is_tall is (kind == "std") else "left"


def _find_singular_vectors(gradient: Tensor, rank: int, side: str) -> tuple[Tensor | None, Tensor | None]:
    """Return the first singular vectors of a side; of float32 they are a part of all that were found, which stay."""
    matrix = gradient.data if gradient.dtype is torch.float32 else gradient.data.float()
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    # The original makes the other side, too, and all of it lives until the function ends.
    if side == "right":
        first, second = left[:, :rank] @ torch.diag(values[:rank]), right[:rank, :]
        second = second.type(gradient.dtype)
        return None, second
    first = left[:, :rank]
    if side == "left":
        second = torch.diag(values[:rank]) @ right[:rank, :]
        first = first.type(gradient.dtype)
        return first, None
    second = right[:rank, :]
    first, second = first.type(gradient.dtype), second.type(gradient.dtype)
    return first, second


def check_low_rank(model: Any, recipe: Recipe) -> None:
    """Refuse LoRA-FA where there are no pairs of matrices A and B."""
    if recipe.optimizer != "lorafa":
        return
    configs = [] if base_model(model) is model else list(model.peft_config.values())
    if not configs or any(config.peft_type != "LORA" for config in configs):
        raise UsageError("`optimizer` lorafa trains the matrices B of LoRA, and there are none; add `--lora r=16`.")
    if any(config.use_dora for config in configs):
        raise UsageError(
            "`optimizer` lorafa takes the magnitudes of DoRA for a matrix of LoRA, and a real step stops; drop DoRA."
        )


def find_low_rank_unaccounted(recipe: Recipe) -> Iterator[Unaccounted]:
    """Yield what an optimizer takes for singular vectors."""
    if recipe.optimizer == "galore_adamw":
        yield Unaccounted(what="singular vectors of GaLore", why=_SVD)
    if recipe.optimizer == "lorafa":
        yield Unaccounted(what="pseudoinverses of LoRA-FA", why=_PINV)


def build_lora_fa(model: Any, rate: float) -> torch.optim.Optimizer:
    """Make PEFT's optimizer for an adapter, which freezes the matrices A: until the run is over, not for good."""
    from peft.optimizers import create_lorafa_optimizer

    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            call_at_end(parameter.requires_grad_, parameter.requires_grad)
    config = model.peft_config[model.active_adapters[0]]
    optimizer: torch.optim.Optimizer = create_lorafa_optimizer(model, r=config.r, lora_alpha=config.lora_alpha, lr=rate)
    autocast_on(optimizer, next(model.parameters()).device.type)
    return optimizer


def autocast_on(optimizer: torch.optim.Optimizer, device: str) -> None:
    """Have LoRA-FA take the autocast of the device that the parameters are on, not of what this host has."""
    from peft.optimizers import lorafa

    update = optimizer.step

    def step(closure: Callable[[], float] | None = None) -> Any:
        """Update under the autocast of the device."""
        with restore_changes():
            replace_attribute(lorafa, "infer_device", lambda: device)
            return update(closure)

    optimizer.step = step  # type: ignore[method-assign]  # of the one optimizer

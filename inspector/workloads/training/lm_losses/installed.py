"""Losses and kernels by the packages' own code, for a step that runs on a GPU: TRL, Liger and cut-cross-entropy.

A trace takes the stand-ins beside this module, which are held against what is here, event by event
(tests/workloads/test_real_losses.py): they need no package, and know which module works. What is patched is what the
packages patch: `add_fused_lm_head` and `SFTTrainer.compute_loss` of TRL 1.15 and newer,
`_apply_liger_kernel_to_instance` of Liger, `linear_cross_entropy` of cut-cross-entropy as its patches call it.

Not covered: TRL's loss of 1.7 to 1.14, whose statements run as they are (`chunked.py`), and the steps of stages.
"""

from __future__ import annotations

import collections
import contextlib
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from inspector.records.recipe import Recipe
from inspector.records.steps.losses import LigerKernel, LossName, check_liger
from inspector.runtime.patches import replace_attribute, restore_changes
from inspector.workloads.base import base_model
from inspector.workloads.training.losses import Loss, ModelLoss

__all__ = [
    "InstalledCce",
    "InstalledFusedHead",
    "make_installed_loss",
    "make_sft_trainer",
    "use_installed_kernels",
]

_LAYER_KERNELS = (LigerKernel.ROPE, LigerKernel.RMS_NORM, LigerKernel.SWIGLU, LigerKernel.GEGLU)


def make_installed_loss(recipe: Recipe) -> Loss | None:
    """Return the loss of a recipe by its package's own code, None where no package has it."""
    if recipe.loss == LossName.FUSED:
        return InstalledFusedHead()
    if recipe.loss == LossName.CCE:
        return InstalledCce()
    if recipe.loss == LossName.LIGER:
        return InstalledLiger(fused_linear_cross_entropy=True)
    return None


@contextlib.contextmanager
def use_installed_kernels(model: Any, recipe: Recipe) -> Iterator[None]:
    """Let the layers of a model run Liger's own kernels inside the block, which leaves transformers as it was."""
    base = base_model(model)
    modeling = sys.modules[type(base).__module__]
    with restore_changes():
        for name, value in list(vars(modeling).items()):
            replace_attribute(modeling, name, value)  # Liger writes over some of them
        if recipe.liger:
            asked = check_liger(recipe.liger)
            _apply_liger(base, {str(kernel): kernel in asked for kernel in _LAYER_KERNELS})
        yield


def _apply_liger(base: Any, kernels: Mapping[str, bool]) -> None:
    """Patch a model with the kernels of Liger that are asked for, and no loss unless it is among them."""
    from liger_kernel.transformers import (  # type: ignore[import-not-found]  # where it is asked for alone
        _apply_liger_kernel_to_instance,
    )

    _apply_liger_kernel_to_instance(model=base, **{"fused_linear_cross_entropy": False, **kernels})


class InstalledLiger(ModelLoss):
    """A model that Liger has patched: its loss, and of its layers what is asked for."""

    def __init__(self, **kernels: bool) -> None:
        self._kernels = {**{str(kernel): False for kernel in _LAYER_KERNELS}, **kernels}

    def build_forward(self, model: nn.Module) -> Callable[..., Any]:
        """Patch the model."""
        _apply_liger(base_model(model), self._kernels)
        return model


class InstalledCce(ModelLoss):
    """A model whose loss is cut-cross-entropy's, called as by the package's patches for transformers."""

    def build_forward(self, model: nn.Module) -> Callable[..., Any]:
        """Patch the model."""
        from cut_cross_entropy import linear_cross_entropy  # type: ignore[import-not-found]  # asked for alone

        base: Any = base_model(model)
        cap = getattr(base.config.get_text_config(), "final_logit_softcapping", None)

        def forward(*args: Any, labels: Tensor, **kwargs: Any) -> dict[str, Any]:
            hidden_states = base.base_model(*args, **kwargs)[0]
            weight = base.get_output_embeddings().weight
            return {"loss": score(hidden_states, weight, labels, kwargs.get("num_items_in_batch"))}

        def score(hidden_states: Tensor, weight: Tensor, labels: Tensor, number: Any) -> Any:
            reduction = "mean" if number is None else "sum"
            loss = linear_cross_entropy(hidden_states, weight, labels, shift=True, reduction=reduction, softcap=cap)
            if number is not None:
                loss = loss / number
            return loss

        base.forward = forward
        return model


def make_sft_trainer(model: nn.Module, loss_type: str) -> Any:
    """Return as much of TRL's SFTTrainer for a model as its `compute_loss` asks for."""
    from trl.trainer.sft_trainer import SFTTrainer  # type: ignore[import-not-found]  # asked for alone

    trainer = SFTTrainer.__new__(SFTTrainer)
    trainer.__dict__.update(
        model=model,
        args=types.SimpleNamespace(
            loss_type=loss_type, average_tokens_across_devices=True, max_length=None, use_liger_kernel=False, n_gpu=1
        ),
        accelerator=types.SimpleNamespace(
            parallelism_config=None, gather_for_metrics=lambda tensor: tensor, num_processes=1
        ),
        compute_loss_func=None,
        label_smoother=None,
        aux_loss_enabled=False,
        model_accepts_loss_kwargs=True,
        _metrics={"train": collections.defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        get_tp_size=lambda: 1,
        current_gradient_accumulation_steps=1,
    )
    return trainer


class InstalledFusedHead:
    """`SFTTrainer.compute_loss` on a model whose head TRL has patched, without the rest of a trainer."""

    of_a_batch: ClassVar[str | None] = None
    _trainer: Any

    def build_forward(self, model: nn.Module) -> Callable[..., Any]:
        """Patch the model as SFTTrainer does."""
        from trl.trainer import utils  # type: ignore[import-not-found]  # asked for alone

        utils.add_fused_lm_head(base_model(model), outputs=("log_probs", "entropy", "is_top1"))
        self._trainer = make_sft_trainer(model, "nll")
        return model

    def compute_loss(
        self, forward: Callable[..., Any], batch: Mapping[str, Any], count: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return TRL's loss."""
        loss: Tensor = self._trainer.compute_loss(forward, dict(batch), **count)
        return loss, None

    def counts_labels(self, model: nn.Module, batch: Mapping[str, Any]) -> bool:
        """Return that labels are counted: SFTTrainer's loss takes their number whatever the model does."""
        return True

"""BOFT's butterfly factors, as where PEFT's CUDA extension builds; no compiler is started here.

PEFT compiles the extension when it attaches BOFT. Where that fails (no nvcc, no ninja) it sets
`boft_n_butterfly_factor` to 1 with a warning, and trains less than was asked for. A machine that trains has CUDA, so
what stands in here is the extension: it takes the same memory by torch's own ops, on meta and on a device.

Source: PEFT 0.21, tuners/boft/layer.py (`get_fbd_cuda`, `FastBlockDiag`) and tuners/boft/fbd/fbd_cuda_kernel.cu.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.boft import layer as boft
from torch import Tensor

from inspector.model.adapter.peft_names import find_adapted_layers
from inspector.runtime.patches import replace_attribute, restore_changes

__all__ = ["count_without_extension", "stand_in_for_extension"]


@contextlib.contextmanager
def stand_in_for_extension(config: PeftConfig | None = None) -> Iterator[None]:
    """Let PEFT find its extension inside the block; for one factor, with which both ways train the same, find none."""
    one = getattr(config, "boft_n_butterfly_factor", None) == 1
    with restore_changes():
        replace_attribute(boft, "get_fbd_cuda", _find_none if one else _Extension)
        yield


def count_without_extension(model: PeftModel) -> int | None:
    """Return how many parameters BOFT trains where its extension does not build; None where that makes no difference.

    One factor is left of `boft_R`, whose first dimension they are.
    """
    lost = 0
    for _, layer in find_adapted_layers(model):
        if isinstance(layer, boft.BOFTLayer):
            rotations = layer.boft_R[model.active_adapter]
            lost += rotations.numel() - rotations[0].numel()
    return model.get_nb_trainable_parameters()[0] - lost if lost else None


def _find_none() -> None:
    """Answer that the extension did not build."""


class _Extension:
    """The two functions of the extension: blocks of [factors, blocks, size, size] to diagonal matrices, and back."""

    @staticmethod
    def forward(blocks: Tensor) -> list[Tensor]:
        """Write the blocks into zeros of [factors, blocks * size, blocks * size]."""
        factors, count, size, _ = blocks.shape
        matrices = blocks.new_zeros((factors, count * size, count * size))
        _view_blocks(matrices, count, size).copy_(blocks)
        return [matrices]

    @staticmethod
    def backward(gradient: Tensor, blocks: Tensor) -> list[Tensor]:
        """Read the gradients of the blocks from those of the matrices."""
        _, count, size, _ = blocks.shape
        return [torch.zeros_like(blocks).copy_(_view_blocks(gradient, count, size))]


def _view_blocks(matrices: Tensor, count: int, size: int) -> Tensor:
    """Return the blocks on the diagonals of matrices as [factors, blocks, size, size], without a copy."""
    return matrices.view(-1, count, size, count, size).diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)

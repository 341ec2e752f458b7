"""Where code goes another way on meta than on every real device, put right for the time of a trace.

What differs between CUDA and other devices is in `trace/rules/cuda.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel, modeling_utils

from inspector.compat.torch import dispatcher_rules
from inspector.runtime.patches import replace_attribute, restore_changes
from inspector.trace.host import SaveOnHost
from inspector.trace.rules.ctc import compute_ctc_loss

__all__ = ["treat_meta_as_device"]

_FORMAT: Callable[[Tensor, str], str] = Tensor.__format__


@contextlib.contextmanager
def treat_meta_as_device() -> Iterator[None]:
    """Let meta tensors take the branches that tensors with data take inside the block."""
    with restore_changes():
        library = dispatcher_rules("aten")
        library.impl("one_hot", _one_hot, "AutogradMeta")
        library.impl("linear", _linear, "AutogradMeta")
        library.impl("ctc_loss.Tensor", compute_ctc_loss, "AutogradMeta")
        replace_attribute(Tensor, "__format__", _write_number)
        replace_attribute(PreTrainedModel, "warn_if_padding_and_no_attention_mask", _look_for_padding)
        if hasattr(modeling_utils, "save_on_cpu"):  # early releases have no checkpoints on the host
            replace_attribute(modeling_utils, "save_on_cpu", SaveOnHost)
        yield


def _one_hot(indices: Tensor, num_classes: int = -1) -> Tensor:
    """Write ones into zeros; on meta torch compares with all classes instead (ATen/native/Onehot.cpp)."""
    count = int(indices.max().item()) + 1 if num_classes == -1 else num_classes
    return indices.new_zeros((*indices.shape, count)).scatter_(-1, indices.unsqueeze(-1), 1)


def _linear(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Add a bias in place to the product of values that are no contiguous rows.

    Under a mode torch takes every tensor for a subclass, and adds out of place (ATen/native/Linear.cpp). And meta
    multiplies what no device does: tensors of two dtypes.
    """
    if values.dtype is not weight.dtype:
        names = (str(item.dtype).removeprefix("torch.") for item in (values, weight))
        raise RuntimeError(f"expected m1 and m2 to have the same dtype, but got: {' != '.join(names)}")
    if bias is None or values.dim() <= 2 or values.is_contiguous():
        result: Tensor = torch.ops.aten.linear.default.decompose(values, weight, bias)
        return result
    return values.matmul(weight.t()).add_(bias)


def _write_number(tensor: Tensor, how: str) -> str:
    """Write a tensor of one number as the number, `f"expert_{index}"`; torch's own writes out what meta tensors are."""
    return format(tensor.item(), how) if tensor.is_meta and tensor.dim() == 0 else _FORMAT(tensor, how)


def _look_for_padding(self: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor | None) -> None:
    """Look for padded ids in a batch without a mask, only not read what is found: the original does, to warn.

    The index comes from a list in model code and never passes a dispatch mode, so it has no value here
    (transformers/modeling_utils.py, 5.23).
    """
    if attention_mask is None and self.config.pad_token_id is not None:
        (input_ids[:, [-1, 0]] == self.config.pad_token_id).any()

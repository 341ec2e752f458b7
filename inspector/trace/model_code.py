"""What transformers' model code reads of its inputs only to warn, replaced for the time of a trace.

The replacement runs the same ops, which take memory for a moment, and leaves out the reading.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor
from transformers import PreTrainedModel

__all__ = ["without_reading"]


@contextlib.contextmanager
def without_reading() -> Iterator[None]:
    """Let models look for padded ids in a batch without a mask, and not read what they find.

    The index of that look-up comes from a list in model code: it never passes a dispatch mode, so it has no value.
    """
    original = PreTrainedModel.warn_if_padding_and_no_attention_mask
    PreTrainedModel.warn_if_padding_and_no_attention_mask = _look_for_padding  # type: ignore[method-assign]
    try:
        yield
    finally:
        PreTrainedModel.warn_if_padding_and_no_attention_mask = original  # type: ignore[method-assign]


def _look_for_padding(self: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor | None) -> None:
    """Do what the original does before it reads (transformers/modeling_utils.py, 5.23)."""
    if attention_mask is None and self.config.pad_token_id is not None:
        (input_ids[:, [-1, 0]] == self.config.pad_token_id).any()

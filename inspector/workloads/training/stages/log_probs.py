"""Log-probabilities of tokens from logits, as TRL 1.13 and 1.14 compute them on a GPU, and what they log of logits.

One kernel of Triton reads the logits in place and gives the log-probability of each label and the entropy; another
gives the gradient, as large as the logits (trl/kernels/logprob_entropy.py of 1.14, `_LogProbEntropyFunction`). Here
these kernels compute nothing: what they read and write is allocated as there, and values are 0.

Not covered: releases before 1.13, which take `torch.logsumexp` row by row, keep more and have gradients twice as large.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["IGNORED", "score_labels"]

# The label of positions that do not count (torch.nn.functional.cross_entropy, ignore_index).
IGNORED = -100


class _LogProbAndEntropy(torch.autograd.Function):
    """Allocate what TRL's function does, forward and backward."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and entropies; the normalizer and the expected logit are kept beside the logits."""
        log_probs = torch.zeros(logits.shape[:-1], device=logits.device, dtype=torch.float32)
        entropy, normalizer, expected = (torch.zeros_like(log_probs) for _ in range(3))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(logits, labels, normalizer, expected, mask)
        return log_probs, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor, None, None]:
        """Return the gradient of the logits."""
        logits = ctx.saved_tensors[0]
        gradient = torch.zeros_like(logits, memory_format=torch.contiguous_format)
        contiguous = [item.contiguous() for item in gradients if item is not None]
        del contiguous
        return gradient, None, None


def score_labels(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of labels (batch, positions), and the entropies, which are logged alone."""
    log_probs, entropy = _LogProbAndEntropy.apply(logits, labels, mask)  # type: ignore[no-untyped-call]
    return log_probs, entropy.detach()

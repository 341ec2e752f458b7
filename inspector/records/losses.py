"""Where the loss of a causal language model comes from, and which of its layers are Liger's."""

from __future__ import annotations

from inspector.checks import Choice

__all__ = ["LossName"]


class LossName(Choice):
    """What makes a loss of the hidden states and the labels.

    STOCK: the model itself, from all logits.
    CHUNKED: TRL 1.7 to 1.14 (`loss_type="chunked_nll"`): 256 positions at a time, computed again in the backward pass.
    FUSED: TRL 1.15 and newer (`add_fused_lm_head`): tiles of 4,096 positions and 32,768 tokens.
    LIGER: Liger's fused linear cross-entropy, which makes the gradients in the forward pass.
    CCE: cut-cross-entropy, which makes no logits.
    FLOAT32: LLaMA-Factory's DPO: all logits in float32, and their log-softmax.
    """

    STOCK = "stock"
    CHUNKED = "chunked"
    FUSED = "fused"
    LIGER = "liger"
    CCE = "cce"
    FLOAT32 = "float32"

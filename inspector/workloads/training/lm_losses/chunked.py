"""TRL's chunked loss: logits of 256 positions at a time, in float32, each chunk computed again in the backward pass.

Source: trl 1.7 to 1.14, `_patch_chunked_ce_lm_head`, `_chunked_cross_entropy_loss` and `SFTTrainer.compute_loss` with
`loss_type="chunked_nll"` (trainer/sft_trainer.py of 1.10). Nothing of it is Triton's, so that its own statements run.

Not covered: routers whose loss is added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from inspector.workloads.base import base_model
from inspector.workloads.training.lm_losses.heads import find_head, log_ratio, read_on_host, run_as_head

__all__ = ["ChunkedLoss"]

_CHUNK = 256
_IGNORED = -100


class ChunkedLoss:
    """The loss of TRL's SFTTrainer, 1.7 to 1.14."""

    of_a_batch: ClassVar[str | None] = None

    def build_forward(self, model: nn.Module) -> Callable[..., Any]:
        """Return the model with a loss that is made in chunks."""
        base: Any = base_model(model)
        head = find_head(base, "chunked")
        config = base.config.get_text_config()
        cap = getattr(config, "final_logit_softcapping", None)
        scale = getattr(config, "logit_scale", 1.0)

        def forward(
            *,
            input_ids: Tensor | None = None,
            attention_mask: Tensor | None = None,
            labels: Tensor,
            num_items_in_batch: Any = None,
            **kwargs: Any,
        ) -> dict[str, Any]:
            kwargs.pop("use_cache", None)
            kwargs.pop("output_router_logits", None)
            outputs = base.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **kwargs)
            hidden_states = outputs.last_hidden_state
            return run_as_head(head, _add_up, head, hidden_states, labels, num_items_in_batch, scale, cap)

        base.forward = forward
        return model

    def compute_loss(
        self, forward: Callable[..., Any], batch: Mapping[str, Any], count: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return the loss, after what is logged."""
        inputs = {**batch, "use_cache": False}
        outputs = forward(**inputs, **count)
        loss: Tensor = outputs["loss"]
        if count.get("num_items_in_batch") is not None:
            loss *= 1  # process
        num_valid = outputs["num_valid_tokens"].sum()
        entropy_sum = outputs["entropy_sum"].sum()
        log_ratio(entropy_sum, num_valid)
        if "attention_mask" in inputs:
            read_on_host(inputs["attention_mask"].sum().sum())
        correct = outputs["num_correct_tokens"].sum()
        log_ratio(correct, num_valid)
        return loss, None

    def counts_labels(self, model: nn.Module, batch: Mapping[str, Any]) -> bool:
        """Return that labels are counted: SFTTrainer's loss takes their number whatever the model does."""
        return True


def _add_up(
    head: Any, hidden_states: Tensor, labels: Tensor, number: Any, scale: float, cap: float | None
) -> dict[str, Tensor]:
    """Add up the losses of chunks, positions without a label last."""
    hidden = hidden_states[..., :-1, :].reshape(-1, hidden_states.size(-1))
    labels = labels[..., 1:].reshape(-1)
    valid = labels != _IGNORED
    n_valid = valid.sum()
    correct = hidden.new_zeros((), dtype=torch.float32)
    entropy_sum = hidden.new_zeros((), dtype=torch.float32)
    if n_valid == 0:
        raise ValueError("no position has a label")
    order = valid.to(torch.int8).argsort(descending=True, stable=True)
    hidden = hidden[order]
    labels = labels[order]
    n_padded: Any = (n_valid / _CHUNK).ceil().to(torch.int64) * _CHUNK
    loss = hidden.new_zeros((), dtype=torch.float32)
    for start in range(0, n_padded, _CHUNK):
        h_chunk = hidden[start : start + _CHUNK]
        label_chunk = labels[start : start + _CHUNK]
        chunk_loss, chunk_correct, chunk_entropy = checkpoint(
            _score_chunk, h_chunk, head.weight, head.bias, label_chunk, scale, cap, use_reentrant=False
        )
        loss = loss + chunk_loss
        correct = correct + chunk_correct
        entropy_sum = entropy_sum + chunk_entropy
    loss = loss / n_valid if number is None else loss / number
    return {"loss": loss, "num_correct_tokens": correct, "entropy_sum": entropy_sum, "num_valid_tokens": n_valid}


def _score_chunk(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, scale: float, cap: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss of a chunk, and for the log how many of its tokens come first and their entropy."""
    logits = hidden.float() @ weight.float().t()
    if bias is not None:
        logits = logits + bias.float()
    if scale != 1.0:
        logits = logits * scale
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    log_p = functional.log_softmax(logits, dim=-1)
    loss = functional.nll_loss(log_p, labels, ignore_index=_IGNORED, reduction="sum")
    valid = labels != _IGNORED
    correct = ((logits.argmax(dim=-1) == labels) & valid).sum().float()
    entropy = (-(log_p.exp() * log_p).sum(dim=-1) * valid).sum()
    return loss, correct, entropy

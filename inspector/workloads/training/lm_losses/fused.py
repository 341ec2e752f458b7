"""TRL's fused head: log-probabilities of the labels from tiles of logits that are made again in the backward pass.

Source: trl 1.16, `add_fused_lm_head` (trainer/utils.py), `ChunkedLogProbFunction` (kernels/chunked_logprob.py) and
`SFTTrainer.compute_loss`; 1.15 is the same. Products go into one tile; on CUDA a product that is added to float32 is
added in place, and kernels of Triton read and write what is there.

Not covered: label smoothing and `loss_type="dft"`, float32 heads, and routers whose loss is added (TRL switches that on
where the configuration asks for it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from inspector.workloads.base import base_model
from inspector.workloads.training.lm_losses.heads import find_head, log_ratio, read_on_host, run_as_head

__all__ = ["FusedHead", "add_fused_head"]

_TOKENS_PER_TILE = 4096
_VOCABULARY_PER_TILE = 32768
_IGNORED = -100


class FusedHead:
    """The loss of TRL's SFTTrainer, 1.15 and newer."""

    of_a_batch: ClassVar[str | None] = None

    def build_forward(self, model: nn.Module) -> Callable[..., Any]:
        """Return the model with a head that makes log-probabilities of its labels."""
        add_fused_head(base_model(model), ("entropy", "is_top1"))
        return model

    def compute_loss(
        self, forward: Callable[..., Any], batch: Mapping[str, Any], count: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return the loss, after what is logged."""
        inputs = {**batch, "use_cache": False}
        outputs = forward(**inputs)
        per_token_loss = -outputs["log_probs"]
        number = count.get("num_items_in_batch")
        num_tokens = outputs["label_mask"].sum() if number is None else number
        loss: Tensor = per_token_loss.sum() / torch.as_tensor(num_tokens).clamp(min=1)
        if number is not None:
            loss = loss * 1
        num_valid = outputs["label_mask"].sum().sum()
        entropy_sum = outputs["entropy"].detach().sum().sum()
        num_correct = outputs["is_top1"].sum().sum()
        log_ratio(entropy_sum, num_valid)
        log_ratio(num_correct, num_valid)
        if "attention_mask" in inputs:
            read_on_host(inputs["attention_mask"].sum().sum())
        return loss, None

    def counts_labels(self, model: nn.Module, batch: Mapping[str, Any]) -> bool:
        """Return that labels are counted: SFTTrainer's loss takes their number whatever the model does."""
        return True


def add_fused_head(base: Any, outputs: tuple[str, ...] = ()) -> None:
    """Let a transformers model return log-probabilities of its labels, and of each position what else is asked for."""
    head = find_head(base)

    def forward(*args: Any, labels: Tensor, **kwargs: Any) -> dict[str, Any]:
        kwargs["use_cache"] = False
        backbone_outputs = base.base_model(*args, **kwargs)
        hidden_states = backbone_outputs.last_hidden_state[:, :-1]
        labels = labels[:, 1:]
        return run_as_head(head, _score, head, hidden_states, labels, outputs)

    base.forward = forward


def _score(head: Any, hidden_states: Tensor, labels: Tensor, outputs: tuple[str, ...]) -> dict[str, Any]:
    """Score the positions that have a label, and put zeros where there is none.

    What is scored dies as it is put there: a generator holds it alone.
    """
    mask = labels != _IGNORED
    score: Any = _LogProbs.apply
    scored: Any = (
        None if item is None else item.new_zeros(mask.shape).masked_scatter(mask, item)
        for item in score(hidden_states[mask], head.weight, head.bias, labels[mask], outputs)
    )
    log_probs, entropy, mean_logits, is_top1 = scored
    loss = -log_probs.sum() / mask.sum().clamp(min=1)
    of_each = {"log_probs": log_probs, "entropy": entropy, "mean_logits": mean_logits, "is_top1": is_top1}
    return {"loss": loss, **of_each, "label_mask": mask}


class _LogProbs(torch.autograd.Function):
    """`ChunkedLogProbFunction` with the outputs that trainers ask for."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, outputs: tuple[str, ...]
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Fold each tile of logits into a few numbers a position."""
        ctx.set_materialize_grads(False)
        rows, vocabulary = hidden.shape[0], weight.shape[0]
        device = hidden.device
        dtype = _find_compute_dtype(hidden)
        running_max = torch.full((rows,), float("-inf"), device=device, dtype=torch.float32)
        sum_exp = torch.zeros((rows,), device=device, dtype=torch.float32)
        x_sum_exp = torch.zeros((rows,), device=device, dtype=torch.float32)
        sq_sum_exp = torch.zeros((rows,), device=device, dtype=torch.float32)
        z_sum = torch.zeros((rows,), device=device, dtype=torch.float32)
        max_before_target = torch.full((rows,), float("-inf"), device=device, dtype=torch.float32)
        target_logit = torch.zeros((rows,), device=device, dtype=torch.float32)
        buffer = torch.empty((min(rows, _TOKENS_PER_TILE), _VOCABULARY_PER_TILE), device=device, dtype=dtype)
        for token in range(0, rows, _TOKENS_PER_TILE):
            hidden_chunk = hidden[token : token + _TOKENS_PER_TILE].to(dtype)
            for start in range(0, vocabulary, _VOCABULARY_PER_TILE):
                end = min(start + _VOCABULARY_PER_TILE, vocabulary)
                tile = buffer[: hidden_chunk.shape[0], : end - start]
                torch.mm(hidden_chunk, weight[start:end].to(dtype).t(), out=tile)
                if bias is not None:
                    tile.add_(bias[start:end].to(dtype))
        log_z = running_max + torch.log(sum_exp)
        logprobs = target_logit - log_z
        entropy = log_z - x_sum_exp / sum_exp if "entropy" in outputs else None
        mean_logits = z_sum / vocabulary if "mean_logits" in outputs else None
        is_top1 = None
        if "is_top1" in outputs:
            is_top1 = (target_logit >= running_max) & (target_logit > max_before_target)
        del sq_sum_exp, z_sum  # which TRL makes whether they are asked for or not
        ctx.save_for_backward(hidden, weight, bias, targets, log_z, log_z if entropy is None else entropy)
        ctx.compute_dtype = dtype
        ctx.mark_non_differentiable(*(item for item in (mean_logits, is_top1) if item is not None))
        return logprobs, entropy, mean_logits, is_top1

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Make each tile again, turn it into its gradient in place, and add up the products in float32."""
        hidden, weight, bias, _targets, log_z, _entropy = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        dtype, device = ctx.compute_dtype, hidden.device
        rows, vocabulary = hidden.shape[0], weight.shape[0]
        grad_hidden = torch.zeros(hidden.shape, device=device, dtype=torch.float32) if needs_hidden else None
        grad_weight = torch.zeros(weight.shape, device=device, dtype=torch.float32) if needs_weight else None
        grad_bias = torch.zeros(bias.shape, device=device, dtype=torch.float32) if needs_bias else None
        buffer = torch.empty((min(rows, _TOKENS_PER_TILE), _VOCABULARY_PER_TILE), device=device, dtype=dtype)
        used = [item.float().contiguous() for item in gradients[:2] if item is not None]
        for token in range(0, rows, _TOKENS_PER_TILE):
            hidden_chunk = hidden[token : token + _TOKENS_PER_TILE].to(dtype)
            for start in range(0, vocabulary, _VOCABULARY_PER_TILE):
                end = min(start + _VOCABULARY_PER_TILE, vocabulary)
                w_chunk = weight[start:end].to(dtype)
                tile = buffer[: hidden_chunk.shape[0], : end - start]
                torch.mm(hidden_chunk, w_chunk.t(), out=tile)
                if bias is not None:
                    tile.add_(bias[start:end].to(dtype))
                if grad_hidden is not None:
                    _add_product(grad_hidden[token : token + _TOKENS_PER_TILE], tile, w_chunk)
                if grad_weight is not None:
                    _add_product(grad_weight[start:end], tile.t(), hidden_chunk)
                if grad_bias is not None:
                    grad_bias[start:end] += tile.sum(dim=0, dtype=torch.float32)
        del used, log_z
        return (
            grad_hidden.to(hidden.dtype) if grad_hidden is not None else None,
            grad_weight.to(weight.dtype) if grad_weight is not None else None,
            grad_bias.to(bias.dtype) if grad_bias is not None else None,
            None,
            None,
        )


def _find_compute_dtype(hidden: Tensor) -> torch.dtype:
    """Return the dtype of the tiles: autocast's, where it is on."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _add_product(total: Tensor, first: Tensor, second: Tensor) -> None:
    """Add a product of half precision to float32: torch 2.8 and newer do so in cuBLAS, without anything beside.

    The workspace of cuBLAS is there from the products before.
    """
    if first.dtype not in (torch.float16, torch.bfloat16):
        total.addmm_(first.float(), second.float())

"""GRPO: answers are generated for all micro-batches of an update at once, scored, and learned from one after the other.

Source: trainer/grpo_trainer.py of TRL 1.14 and 1.16 (`_prepare_inputs`, `_generate_and_score_completions`,
`_compute_loss`) with their defaults: `loss_type="dapo"`, importance by token, `steps_per_generation` as many as there
are micro-batches. Log-probabilities of the policy as it was run where vLLM generates, whose own are corrected by them;
those of the reference run where there is one. What is logged is part of it; statements, names and their order are
TRL's.

Not covered: rewards, which are functions on the host, or models of their own; `num_iterations` above 1; tools and
images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from inspector.records.recipe import Recipe
from inspector.records.steps.losses import LossName
from inspector.records.steps.stages import Reference, split_row
from inspector.records.tape import Phase
from inspector.workloads.base import base_model
from inspector.workloads.batch import Input, make_inputs_without_labels
from inspector.workloads.training.stages.generation import generate
from inspector.workloads.training.stages.log_probs import IGNORED, score_labels
from inspector.workloads.training.stages.passes import Passes, pause_checkpointing
from inspector.workloads.training.stages.stage_loss import StageLoss

__all__ = ["GrpoLoss"]

_BETA = 0.04
_EPSILON = 0.2


class GrpoLoss(StageLoss):
    """The loss of an update whose first micro-batch generates the rows of all."""

    outputs = ("entropy",)

    def __init__(self, passes: Passes, reference: Reference) -> None:
        super().__init__(passes, reference)
        self._is_fused = passes.recipe.loss == LossName.FUSED
        self._buffered: list[dict[str, Tensor]] = []
        self._count = 0

    def counts_labels(self, model: nn.Module, batch: Mapping[str, Any]) -> bool:
        """Return that the loss is divided by the number of tokens that are learned from."""
        return True

    def compute_loss(
        self, forward: Callable[..., Any], batch: Mapping[str, Any], count: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return the loss of the next micro-batch."""
        recipe = self._passes.recipe
        place = self._count % recipe.gradient_accumulation
        if place == 0:
            self._buffered = self._prepare(forward, recipe)
        self._count += 1
        return self._compare(forward, self._buffered[place]), None

    # --- before an update ---------------------------------------------------------------------------------------------

    def _prepare(self, forward: Callable[..., Any], recipe: Recipe) -> list[dict[str, Tensor]]:
        """Generate, score, and share the rows out."""
        with self._passes.run_beside(Phase.GENERATE):
            rows = self._generate(recipe)
        rows = self._add_log_probs(forward, rows, recipe)
        with self._passes.run_beside(Phase.GENERATE):
            order = torch.arange(len(rows["prompt_ids"]))  # TRL shuffles, which takes as much
            rows = {name: item if item.dim() == 0 else item[order] for name, item in rows.items()}
            steps, size = recipe.gradient_accumulation, recipe.batch_size
            return [
                {name: item if item.dim() == 0 else item[at * size : (at + 1) * size] for name, item in rows.items()}
                for at in range(steps)
            ]

    def _generate(self, recipe: Recipe) -> dict[str, Tensor]:
        """Return prompts, answers and advantages; where vLLM generates nothing is made here before."""
        passes, device = self._passes, self._passes.device
        prompt_len, completion_len = split_row(
            recipe.seq_len or 0, recipe.prompt_len, recipe.completion_len, halves=True
        )
        number = recipe.batch_size * recipe.gradient_accumulation
        mask = torch.ones((number, prompt_len), dtype=torch.int64)
        if recipe.padding:
            mask[:: recipe.batch_size, 0] = 0  # each micro-batch has a prompt that is shorter than the longest of all
        token = make_inputs_without_labels(base_model(passes.model), recipe)["input_ids"]
        assert isinstance(token, Input)
        prompts = torch.full((number, prompt_len), token.value)
        if recipe.vllm_share is None:
            config = base_model(passes.model).config.get_text_config(decoder=True)
            with torch.no_grad(), pause_checkpointing(passes.model):
                generate(passes.generator, config, prompts.to(device), mask.to(device), completion_len)
        rows = {
            "prompt_ids": prompts.to(device),
            "prompt_mask": mask.to(device),
            "completion_ids": torch.full((number, completion_len), token.value).to(device),
            "completion_mask": torch.ones((number, completion_len), dtype=torch.int64).to(device),
        }
        if recipe.vllm_share is not None:
            rows["sampling_per_token_logps"] = torch.zeros((number, completion_len), dtype=torch.float32).to(device)
        return rows

    def _add_log_probs(self, forward: Callable[..., Any], rows: dict[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
        """Add the log-probabilities of the policy as it was and of the reference, and what the answers are worth."""
        num_items = rows["completion_mask"].sum().sum()
        ids = torch.cat([rows["prompt_ids"], rows["completion_ids"]], dim=1)
        mask = torch.cat([rows["prompt_mask"], rows["completion_mask"]], dim=1)
        keep, size = rows["completion_ids"].size(1), recipe.batch_size
        old = ratio = of_reference = None
        with torch.no_grad(), pause_checkpointing(self._passes.model):
            if recipe.vllm_share is not None:
                with self._passes.run_beside():
                    old = self._score(forward, ids, mask, keep, size)[0]
                    difference = (old - rows["sampling_per_token_logps"]) * rows["completion_mask"]
                    ratio = torch.exp(torch.nan_to_num(difference, nan=0.0).sum(dim=-1, keepdim=True))
            if self._reference is not Reference.NONE:
                with self._passes.run_reference() as reference:
                    of_reference = self._score(reference, ids, mask, keep, size)[0]
        rows["advantages"] = torch.zeros(len(ids), device=ids.device)
        rows["num_items_in_batch"] = num_items
        added = {"old_per_token_logps": old, "importance_sampling_ratio": ratio, "ref_per_token_logps": of_reference}
        return rows | {name: item for name, item in added.items() if item is not None}

    # --- passes -------------------------------------------------------------------------------------------------------

    def _score(
        self,
        forward: Callable[..., Any],
        ids: Tensor,
        mask: Tensor,
        keep: int,
        size: int,
        *,
        with_entropy: bool = False,
    ) -> tuple[Tensor, Any]:
        """Return the log-probabilities of answers and their entropies, `size` rows at a time."""
        all_logps: list[Any] = []
        all_entropies: list[Any] = []
        for start in range(0, ids.size(0), size):
            end = min(start + size, ids.size(0))
            of_ids, of_mask = ids[start:end], mask[start:end]
            if self._is_fused:
                labels = of_ids.masked_fill(of_mask == 0, IGNORED)
                labels[:, :-keep] = IGNORED
                with self._passes.precision.autocast():
                    outputs = forward(input_ids=of_ids, attention_mask=of_mask, labels=labels)
                all_logps.append(outputs["log_probs"][:, -keep:])
                all_entropies.append(outputs["entropy"][:, -keep:] if with_entropy else None)
                continue
            outputs = forward(input_ids=of_ids, attention_mask=of_mask, logits_to_keep=keep + 1, use_cache=False)
            logits = outputs.logits[:, :-1, :][:, -keep:, :]
            logps, entropies = score_labels(logits, of_ids[:, -keep:], of_mask[:, -keep:])
            all_logps.append(logps)
            all_entropies.append(entropies if with_entropy else None)
        logps = torch.cat(all_logps, dim=0)
        return logps, torch.cat(all_entropies, dim=0) if with_entropy else None

    def _compare(self, forward: Callable[..., Any], inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of a micro-batch."""
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        attention_mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        mask = inputs["completion_mask"]
        per_token_logps, entropies = self._score(
            forward, ids, attention_mask, mask.size(1), len(ids), with_entropy=True
        )
        advantages = inputs["advantages"].unsqueeze(1)
        old = inputs.get("old_per_token_logps")
        old_per_token_logps = per_token_logps.detach() if old is None else old
        log_ratio = per_token_logps - old_per_token_logps
        coef_1 = torch.exp(log_ratio)
        if (ref := inputs.get("ref_per_token_logps")) is not None:
            per_token_kl = torch.exp(ref - per_token_logps) - (ref - per_token_logps) - 1
            per_token_kl = per_token_kl * coef_1
        coef_2 = torch.clamp(coef_1, 1 - _EPSILON, 1 + _EPSILON)
        per_token_loss1 = coef_1 * advantages
        per_token_loss2 = coef_2 * advantages
        per_token_loss = -torch.min(per_token_loss1, per_token_loss2)
        if (ratio := inputs.get("importance_sampling_ratio")) is not None:
            per_token_loss = per_token_loss * ratio
        if ref is not None:
            per_token_loss = per_token_loss + _BETA * per_token_kl
        normalizer = inputs["num_items_in_batch"].clamp(min=1.0) / 1
        steps = self._passes.recipe.gradient_accumulation
        normalizer = normalizer * steps / steps
        loss = (per_token_loss * mask).sum() / normalizer
        policy_loss = loss.detach()
        # What is logged.
        if ref is not None:
            _log_mean(per_token_kl, mask)
        _log_mean(entropies, mask)
        is_low_clipped = (coef_1 < 1 - _EPSILON) & (advantages < 0)
        is_high_clipped = (coef_1 > 1 + _EPSILON) & (advantages > 0)
        is_region_clipped = is_low_clipped | is_high_clipped
        for clipped in (is_low_clipped, is_high_clipped, is_region_clipped):
            _log_mean(clipped.float(), mask)
        for clipped in (is_low_clipped, is_high_clipped):
            gathered = _compute_row_means(clipped.float(), mask)
            torch.isnan(gathered).all()
        del policy_loss
        return loss


def _compute_row_means(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of each answer."""
    return (values * mask).sum(-1) / mask.sum(-1)


def _log_mean(values: Tensor, mask: Tensor) -> None:
    """Compute a mean of all answers."""
    local_sum, local_count = (values * mask).sum(), mask.sum().float()
    totals = torch.stack([local_sum, local_count])
    _ = totals[0] / totals[1].clamp(min=1.0)

"""The head of values that LLaMA-Factory's reward training puts beside the logits: a score for each token.

Source: trl/models/modeling_value_head.py of TRL 0.24, the newest that LLaMA-Factory 0.9.5 takes. The head is made in
float32 after the adapter is attached, and trains with it or with the whole model.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from inspector.records.recipe import Recipe
from inspector.records.steps.losses import LossName
from inspector.records.steps.stages import Stage

__all__ = ["add_value_head", "has_value_head", "score_tokens", "scores_sequences"]

_HEAD = "v_head"
_DROPOUT = 0.1


def has_value_head(recipe: Recipe) -> bool:
    """Tell whether a step scores its rows by a head of values beside the logits."""
    return recipe.stage == Stage.REWARD and recipe.loss == LossName.FLOAT32


def scores_sequences(recipe: Recipe) -> bool:
    """Tell whether a step trains a head of one score in the place of the logits, as TRL's reward training does."""
    return recipe.stage == Stage.REWARD and not has_value_head(recipe)


def add_value_head(model: nn.Module, recipe: Recipe) -> None:
    """Put the head on a model, which an adapter may be on, where a recipe has one."""
    if not has_value_head(recipe):
        return
    config: Any = model.config
    size = getattr(config, "word_embed_proj_dim", config.get_text_config().hidden_size)
    model.add_module(_HEAD, _ValueHead(size).to(next(model.parameters()).device))


def score_tokens(model: Any, **inputs: Any) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return the logits in float32, the loss that they have with the labels, and a value for each token."""
    base_model_output = model(**inputs, output_hidden_states=True, past_key_values=None)
    last_hidden_state = base_model_output.hidden_states[-1]
    lm_logits = base_model_output.logits
    loss = base_model_output.loss
    value = getattr(model, _HEAD)(last_hidden_state).squeeze(-1)
    return lm_logits.float(), loss, value


class _ValueHead(nn.Module):
    """One score of a hidden state, with dropout before it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(_DROPOUT)
        self.summary = nn.Linear(size, 1)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the scores, computed in float32 where autocast does not say otherwise."""
        output = self.dropout(hidden_states)
        output = output.to(self.summary.weight.dtype)
        return self.summary(output)  # type: ignore[no-any-return]

"""The model of reward training: the class with a head for sequences, which gives each one score.

TRL loads it with `num_labels=1` and takes the tokenizer's padding token (trainer/reward_trainer.py), by which the head
finds the last token of a row; which token that is changes no memory.
"""

from __future__ import annotations

from transformers import PretrainedConfig, PreTrainedModel

from inspector.errors import UsageError
from inspector.model.skeleton import find_head
from inspector.records.notice import Notice

__all__ = ["choose_reward_class", "give_one_score"]


def choose_reward_class(config: PretrainedConfig) -> tuple[type[PreTrainedModel], list[Notice]]:
    """Return the class of a configuration that gives sequences scores; raise UsageError where there is none."""
    model_class = find_head(config, ("AutoModelForSequenceClassification",))
    if model_class is None:
        raise UsageError(
            f"transformers has no class with a head for sequences for {type(config).__name__}, which `stage=reward` "
            "trains; name one with `model_class`."
        )
    message = f"Built as {model_class.__name__}: reward training puts a head of one score in the place of the logits."
    return model_class, [Notice(code="reward-head", message=message)]


def give_one_score(config: PretrainedConfig) -> None:
    """Set a configuration to one score a sequence, with a padding token where it names none."""
    config.num_labels = 1
    text = config.get_text_config()
    if getattr(text, "pad_token_id", None) is None:
        text.pad_token_id = 0

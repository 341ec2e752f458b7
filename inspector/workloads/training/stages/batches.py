"""The batches of the stages, as TRL's collators make them: a mask of attention always, and one of the answers.

Two rows are a pair in DPO, ORPO and reward training: a batch size counts pairs there, and answers in KTO and GRPO.
Source: `DataCollatorForPreference` and `DataCollatorForUnpairedPreference` of TRL 1.16 (trainer/dpo_trainer.py,
kto_trainer.py, reward_trainer.py).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from inspector.records.recipe import Recipe
from inspector.records.stages import Reference, split_row
from inspector.workloads.batch import Input, Inputs, make_inputs_without_labels
from inspector.workloads.training.stages.passes import find_reference

__all__ = ["make_stage_inputs"]


def make_stage_inputs(model: Any, base: Any, recipe: Recipe) -> Inputs:
    """Return a micro-batch of a recipe's stage for a model, whose transformers model is `base`."""
    return _MAKERS[str(recipe.stage)](model, base, recipe)


def _make_pairs(model: Any, base: Any, recipe: Recipe) -> Inputs:
    """Make chosen rows and rejected rows of as many tokens."""
    rows = 2 * recipe.batch_size
    inputs = {**_make_rows(base, recipe, rows), "completion_mask": _mark_answers(recipe, rows)}
    if recipe.stage == "dpo" and find_reference(model, recipe) is Reference.NONE:
        known = Input(shape=(recipe.batch_size,), dtype=torch.float32)
        inputs |= {"ref_chosen_logps": known, "ref_rejected_logps": known}
    return inputs


def _make_answers(model: Any, base: Any, recipe: Recipe) -> Inputs:
    """Make answers, other rows of as many tokens, and which answers are wanted: the first ones of as many as not."""
    rows = recipe.batch_size
    own = {**_make_rows(base, recipe, rows), "completion_mask": _mark_answers(recipe, rows)}
    inputs = own | {f"KL_{name}": item for name, item in own.items()}
    if find_reference(model, recipe) is Reference.NONE:
        known = Input(shape=(rows,), dtype=torch.float32)
        inputs |= {"ref_logps": known, "ref_KL_logps": known}
    verdict = Input(shape=(rows,), dtype=torch.bool, make=lambda: torch.arange(rows) < (rows + 1) // 2)
    return {**inputs, "label": verdict}


def _make_rows(base: Any, recipe: Recipe, rows: int) -> dict[str, Input]:
    """Return ids and their mask: the last row is padded where the recipe says so."""
    made = make_inputs_without_labels(base, dataclasses.replace(recipe, batch_size=rows, padding=True))
    ids, mask = made["input_ids"], made["attention_mask"]
    assert isinstance(ids, Input) and isinstance(mask, Input)
    return {"input_ids": ids, "attention_mask": mask if recipe.padding else dataclasses.replace(mask, last=None)}


def _mark_answers(recipe: Recipe, rows: int) -> Input:
    """Return the mask of the answers, which a padded position is none of."""
    length = recipe.seq_len or 0
    prompt = split_row(length, recipe.prompt_len, recipe.completion_len, halves=False)[0]

    def make() -> Tensor:
        mask = torch.ones((rows, length), dtype=torch.int64)
        mask[:, :prompt] = 0
        if recipe.padding:
            mask[-1, -1] = 0
        return mask

    return Input(shape=(rows, length), value=1, make=make)


_MAKERS = {"dpo": _make_pairs, "kto": _make_answers}

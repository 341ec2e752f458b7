"""The batches of the stages, as TRL's collators make them: a mask of attention always, and one of the answers.

Two rows are a pair in DPO, ORPO, CPO and reward training: a batch size counts pairs there, and answers in KTO and GRPO.
Source: `DataCollatorForPreference` and `DataCollatorForUnpairedPreference` of TRL 1.16 (trainer/dpo_trainer.py,
kto_trainer.py, reward_trainer.py).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from inspector.records.recipe import Recipe
from inspector.records.steps.losses import LossName
from inspector.records.steps.stages import Reference, split_row
from inspector.workloads.batch import Input, Inputs, make_inputs_without_labels
from inspector.workloads.training.stages.log_probs import IGNORED
from inspector.workloads.training.stages.passes import find_reference

__all__ = ["make_stage_inputs"]


def make_stage_inputs(model: Any, base: Any, recipe: Recipe) -> Inputs:
    """Return a micro-batch of a recipe's stage for a model, whose transformers model is `base`."""
    return _MAKERS[str(recipe.stage)](model, base, recipe)


def _make_pairs(model: Any, base: Any, recipe: Recipe) -> Inputs:
    """Make chosen rows and rejected rows of as many tokens."""
    inputs = _make_rows(base, recipe, 2 * recipe.batch_size, padded=bool(recipe.padding))
    if recipe.loss == LossName.FLOAT32:
        return _label(inputs)
    if find_reference(model, recipe) is Reference.NONE:
        known = Input(shape=(recipe.batch_size,), dtype=torch.float32)
        inputs |= {"ref_chosen_logps": known, "ref_rejected_logps": known}
    return inputs


def _make_answers(model: Any, base: Any, recipe: Recipe) -> Inputs:
    """Make answers, other rows of as many tokens, and which answers are wanted: the first half."""
    rows = recipe.batch_size
    own = _make_rows(base, recipe, rows, padded=bool(recipe.padding))
    verdict = Input(shape=(rows,), dtype=torch.bool, make=lambda: torch.arange(rows) < (rows + 1) // 2)
    if recipe.loss == LossName.FLOAT32:
        own = _label(own)
        return {**own, **{f"kl_{name}": item for name, item in own.items()}, "kto_tags": verdict}
    inputs = own | {f"KL_{name}": item for name, item in own.items()}
    if find_reference(model, recipe) is Reference.NONE:
        known = Input(shape=(rows,), dtype=torch.float32)
        inputs |= {"ref_logps": known, "ref_KL_logps": known}
    return {**inputs, "label": verdict}


def _make_parts(_model: Any, base: Any, recipe: Recipe) -> Inputs:
    """Make chosen rows and rejected rows apart, with labels, and their prompts alone, which the step does not read."""
    inputs: dict[str, Input] = {}
    rows, prompt = recipe.batch_size, _split(recipe)[0]
    for name, padded in (("chosen", False), ("rejected", bool(recipe.padding))):
        made = _label(_make_rows(base, recipe, rows, padded=padded))
        inputs |= {f"{name}_{key}": item for key, item in made.items()}
    of_prompts = _make_rows(base, dataclasses.replace(recipe, seq_len=prompt, prompt_len=None), rows, padded=False)
    del of_prompts["completion_mask"]
    return inputs | {f"prompt_{key}": item for key, item in of_prompts.items()}


def _make_scored_pairs(_model: Any, base: Any, recipe: Recipe) -> Inputs:
    """Make chosen rows and rejected rows for a head of one score."""
    inputs = _make_rows(base, recipe, 2 * recipe.batch_size, padded=bool(recipe.padding))
    if recipe.loss == LossName.FLOAT32:
        return _label(inputs)
    del inputs["completion_mask"]
    return inputs


def _make_nothing(_model: Any, _base: Any, _recipe: Recipe) -> Inputs:
    """Make nothing: prompts are lists on the host, and rows are generated in the step."""
    return {}


def _make_rows(base: Any, recipe: Recipe, rows: int, *, padded: bool) -> dict[str, Input]:
    """Return ids, their mask, and the mask of the answers; `padded` leaves out the end of the last row."""
    length, prompt = recipe.seq_len or 0, _split(recipe)[0]
    made = make_inputs_without_labels(base, dataclasses.replace(recipe, batch_size=rows, padding=True))
    ids, mask = made["input_ids"], made["attention_mask"]
    assert isinstance(ids, Input)
    assert isinstance(mask, Input)
    answers = functools.partial(_mark_answers, rows, length, prompt, padded=padded)
    return {
        "input_ids": ids,
        "attention_mask": mask if padded else dataclasses.replace(mask, last=None),
        "completion_mask": Input(shape=(rows, length), make=answers),
    }


def _label(rows: dict[str, Input]) -> dict[str, Input]:
    """Return rows with labels in the place of the mask of answers."""
    ids, mark = rows["input_ids"], rows["completion_mask"].make
    assert mark is not None
    labels = Input(shape=ids.shape, make=functools.partial(_label_answers, mark, ids.value))
    return {"input_ids": ids, "attention_mask": rows["attention_mask"], "labels": labels}


def _mark_answers(rows: int, length: int, prompt: int, *, padded: bool) -> Tensor:
    """Return 1 for the tokens of answers, which a padded position is none of."""
    mask = torch.ones((rows, length), dtype=torch.int64)
    mask[:, :prompt] = 0
    if padded:
        mask[-1, -1] = 0
    return mask


def _label_answers(mark: Callable[[], Tensor], token: int) -> Tensor:
    """Return the token where a mask holds, and the label that does not count elsewhere."""
    return torch.where(mark() == 1, token, IGNORED)


def _split(recipe: Recipe) -> tuple[int, int]:
    """Return how many tokens of a row are prompt and answer."""
    return split_row(recipe.seq_len or 0, recipe.prompt_len, recipe.completion_len, halves=False)


_MAKERS: Mapping[str, Callable[[Any, Any, Recipe], Inputs]] = {
    "cpo": _make_parts,
    "dpo": _make_pairs,
    "grpo": _make_nothing,
    "kto": _make_answers,
    "orpo": _make_parts,
    "reward": _make_scored_pairs,
}

"""The step that is traced is the step that `transformers.Trainer` runs: torch's profiler watches both on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from inspector.records.recipe import Recipe
from tests.trace.small_models import build
from tests.workloads.trainer_events import assert_same_events, list_our_events, list_trainer_events


def assert_same_update(name: str, recipe: Recipe, folder: Path) -> None:
    """Compare both updates of a small model."""

    def list_both(attempt: int) -> tuple[list[int], list[int]]:
        (ours, batch), (theirs, _) = build("cpu", name), build("cpu", name)
        events = list_our_events(ours, batch, recipe, with_batches=True)
        return events, list_trainer_events(theirs, batch, recipe, folder / str(attempt))

    assert_same_events(list_both)


# Decoders, experts, encoders with each head, encoder-decoders, images, speech, and models that take no count of labels
# (gemma3, clip): one of each way in which the step differs.
@pytest.mark.parametrize(
    ("name", "accumulation"),
    [
        *((name, 1) for name in ("qwen2", "gemma2", "gpt_neox", "gpt2", "opt", "mixtral", "bert", "electra", "mpnet")),
        *((name, 1) for name in ("bart", "vit", "llava", "whisper", "gemma3")),
        *((name, steps) for name in ("llama", "t5", "clip") for steps in (1, 2)),
    ],
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.one_of(3)
def test_a_trainers_update_allocates_and_frees_what_ours_does(name: str, accumulation: int, tmp_path: Path) -> None:
    recipe = Recipe(gradient_accumulation=accumulation)
    assert_same_update(name, recipe, tmp_path)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(max_grad_norm=0),  # the Trainer takes the norm of the gradients all the same, and logs it
        Recipe(optimizer="adamw_torch_fused"),
        Recipe(optimizer="sgd", optim_args="momentum=0.9,nesterov=true"),
        Recipe(optimizer="adagrad"),
        Recipe(optimizer="rmsprop", optim_args="momentum=0.9,centered=true"),
        Recipe(optimizer="adafactor"),
    ],
    ids=lambda recipe: recipe.optimizer,
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.one_of(3)
def test_a_trainers_update_allocates_and_frees_what_ours_does_with_every_optimizer(
    recipe: Recipe, tmp_path: Path
) -> None:
    assert_same_update("llama", recipe, tmp_path)

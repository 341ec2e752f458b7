"""What is kept of the forward pass, and where: held against real steps, real Trainers and TRL's own switches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import inspector
from inspector.errors import UsageError
from inspector.records.recipe import Recipe
from inspector.records.tape import EventKind, Phase
from inspector.workloads.training.checkpointing import add_noise, enable_checkpointing
from tests.model.tiny import llama
from tests.trace.cpu_truth import assert_aligned, meta_step, real_step
from tests.workloads.tracing import trace
from tests.workloads.trainer_events import Recorder, list_our_events

ON = Recipe(gradient_checkpointing=True, batch_size=2, seq_len=24, padding=False)
CONFIG = {"dtype": "float32", "use_cache": False, "attn_implementation": "eager"}


def changed(**changes: Any) -> Recipe:
    """Return a checkpointed recipe with changes."""
    return Recipe(**{"gradient_checkpointing": True, "batch_size": 2, "seq_len": 24, "padding": False, **changes})


def build(device: str, recipe: Recipe, **changes: Any) -> nn.Module:
    """Return a small decoder that is set up as a recipe says."""
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.LlamaForCausalLM._from_config(llama(**{**CONFIG, **changes})).train()
    if recipe.gradient_checkpointing:
        enable_checkpointing(model, recipe)
    if recipe.neftune is not None:
        add_noise(model, recipe.neftune)
    part: nn.Module = model
    return part


def tokens(device: str) -> dict[str, Any]:
    """Return a batch."""
    ids = (torch.arange(48).reshape(2, 24) % 64).to(device)
    return {"input_ids": ids, "labels": ids}


@pytest.mark.parametrize(
    "recipe",
    [
        changed(checkpoint_every=2),
        changed(checkpoint_keeps="attention"),  # torch's mode is at work, and has nothing to keep of eager attention
        Recipe(neftune=5.0),
        changed(neftune=5.0),
    ],
    ids=["every second block", "selective", "NEFTune", "NEFTune, checkpointed"],
)
def test_a_step_that_keeps_less_allocates_and_frees_what_it_does_with_data(recipe: Recipe) -> None:
    def make(device: str) -> tuple[nn.Module, dict[str, Any]]:
        return build(device, recipe), tokens(device)

    real, inside = real_step(make)
    assert_aligned(real, inside, meta_step(make, values=tokens("cpu")))


@pytest.mark.parametrize(
    ("recipe", "arguments"),
    [
        (changed(checkpoint_every=2), {"gradient_checkpointing_kwargs": {"every_n_layers": 2, "use_reentrant": False}}),
        (Recipe(neftune=5.0), {"neftune_noise_alpha": 5.0}),
    ],
    ids=["every second block", "NEFTune"],
)
@pytest.mark.filterwarnings("ignore")
def test_a_trainer_sets_the_model_up_alike(recipe: Recipe, arguments: dict[str, Any], tmp_path: Path) -> None:
    recorder = Recorder()
    real = transformers.Trainer(
        model=build("cpu", Recipe()),
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=2, max_steps=3, report_to=[],
            save_strategy="no", logging_strategy="no", disable_tqdm=True,
            gradient_checkpointing=bool(recipe.gradient_checkpointing), **arguments,
        ),
        train_dataset=[{name: item[0] for name, item in tokens("cpu").items()}] * 8,
        callbacks=[recorder],
    )  # fmt: skip
    real.train()
    model = build("cpu", recipe)
    ours = list_our_events(model, tokens("cpu"), recipe)
    assert ours == recorder.list_events()


def test_trls_switch_saves_the_output_of_the_same_kernels() -> None:
    selective = pytest.importorskip("trl.models.selective_activation_checkpointing")
    from inspector.workloads.training import checkpointing

    assert selective._aten_attention_ops() == checkpointing._ATTENTION


def run(recipe: Recipe, peft: Any = None) -> tuple[int, int | None]:
    """Return what lives when the forward pass of a small model ends on an A100, and the most that the host holds."""
    config = llama(num_hidden_layers=4, hidden_size=64, intermediate_size=128)
    training = inspector.inspect(config, recipe=recipe, peft=peft, gpu="a100-40gb", advice=False).training
    assert training is not None
    (forward,) = (phase for phase in training.phases if phase.name is Phase.FORWARD)
    return forward.end_allocated_bytes, training.host_bytes


def test_what_checkpoints_keep_is_what_the_arithmetic_says() -> None:
    recipe: dict[str, Any] = {"gradient_checkpointing": True, "seq_len": 256}
    plain, nothing = run(Recipe(**recipe))
    assert nothing is None
    hidden = 256 * 64 * 2
    assert run(Recipe(**recipe, neftune=5.0))[0] == plain
    # With an adapter the embeddings' output is a leaf that wants a gradient: it lives on beside its sum with the noise.
    lora = inspector.LoraOptions(r=2)
    assert run(Recipe(**recipe, neftune=5.0), lora)[0] - run(Recipe(**recipe), lora)[0] == hidden
    attention, _ = run(Recipe(**recipe, checkpoint_keeps="attention"))
    # In each layer the output, a float32 for each of 4 heads and 256 rows, and two numbers of the random state.
    assert attention - plain == 4 * (hidden + 4 * 256 * 4 + 2 * 512)
    kept, host = run(Recipe(**recipe, offload="checkpoints"))
    assert host == 4 * hidden
    assert plain - kept == 4 * hidden


def test_what_lies_on_the_host_ends_with_the_step_and_is_read_back_once_a_layer() -> None:
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM._from_config(llama(use_cache=False)).train()
    tape = trace(model, Recipe(gradient_checkpointing=True, offload="checkpoints", seq_len=32))
    made = [event for event in tape if event.kind is EventKind.HOST_ALLOCATE]
    ended = [event for event in tape if event.kind is EventKind.HOST_FREE]
    assert [event.bytes for event in made] == [32 * 16 * 2] * 3 * 2  # three layers, two steps
    assert {event.block for event in made} == {event.block for event in ended}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"checkpoint_every": 2}, "`checkpoint_every` says how to checkpoint: add `gradient_checkpointing`"),
        ({"offload": "checkpoints"}, "`offload` says how to checkpoint: add `gradient_checkpointing`"),
        ({"checkpoint_keeps": "attention"}, "`checkpoint_keeps` says how to checkpoint"),
        (
            {"checkpoint_keeps": "attention", "gradient_checkpointing": True, "use_reentrant": True},
            "`checkpoint_keeps` needs a checkpoint that is not reentrant",
        ),
        (
            {"checkpoint_keeps": "attention", "gradient_checkpointing": True, "attention": "flash_attention_2"},
            "not with flash_attention_2",
        ),
    ],
    ids=str,
)
def test_settings_of_checkpoints_that_mean_nothing_are_one_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        inspector.inspect(llama(), recipe=Recipe(**fields))

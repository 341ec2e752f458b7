"""Batches by task: the end of a class's name -> the inputs and labels that a collator for that task makes.

The names are those of transformers' auto classes (AutoModelForMultipleChoice, AutoModelForCTC, ...). What a batch holds
beside labels follows from the model's main input: ids of tokens, samples or spectrograms of sound, images, video.

Not covered: detection and segmentation by matching, whose losses compare real numbers to choose what is matched; speech
that is generated; series of numbers. Such a model is counted, and its step is said not to be traced.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from inspector.records.recipe import Recipe
from inspector.records.steps.media import ASSUMED_SECONDS
from inspector.workloads.inputs import BatchError, Input, Inputs
from inspector.workloads.media.images import make_plain_images

__all__ = ["find_task", "make_ending_ids"]

Task = Callable[[Any, Recipe, Input], Inputs]
# Endings to choose from, as in SWAG (examples/pytorch/multiple-choice of transformers).
_CHOICES = 4
# Letters of a second of speech: LibriSpeech has some 14.
_LETTERS_PER_SECOND = 14
_SAMPLES_PER_SECOND = 16_000
# Frames of a second in a spectrogram (hop of 10 ms).
_FRAMES_PER_SECOND = 100

_TASKS: dict[tuple[str, str], Task] = {}


def find_task(model: Any) -> Task | None:
    """Return what makes the batch of a model by the end of its class's name, None where no task has it."""
    name, main = type(model).__name__, model.main_input_name
    found = (task for (ending, wanted), task in _TASKS.items() if name.endswith(ending) and wanted == main)
    return next(found, None)


def make_ending_ids(ids: Input, end: int) -> Input:
    """Return ids of rows that each end with a token."""
    return Input(shape=ids.shape, make=functools.partial(_end_rows, ids.shape, ids.value, end))


def _register(*endings: str, main: tuple[str, ...]) -> Callable[[Task], Task]:
    """Register a task for classes whose names end so and whose main input is one of `main`."""

    def register(task: Task) -> Task:
        for ending in endings:
            for name in main:
                if (ending, name) in _TASKS:
                    raise ValueError(f"two tasks for {ending} with {name}")
                _TASKS[ending, name] = task
        return task

    return register


# --- text -------------------------------------------------------------------------------------------------------------


@_register("ForMultipleChoice", main=("input_ids",))
def _make_choices(_model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make a row for each choice, with a mask as DataCollatorForMultipleChoice sends it, and which one is right."""
    rows, length = ids.shape
    shape = (rows, _CHOICES, length)
    mask = Input(shape=shape, make=functools.partial(_mask_choices, shape, padded=bool(recipe.padding)))
    return {
        "input_ids": Input(shape=shape, value=ids.value),
        "attention_mask": mask,
        "labels": Input(shape=(rows,)),
    }


@_register("ForNextSentencePrediction", main=("input_ids",))
def _make_next_sentences(_model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make pairs of sentences, and whether the second one follows."""
    return {"input_ids": ids, **_make_mask(recipe, ids), "labels": Input(shape=ids.shape[:1])}


@_register("ForPreTraining", main=("input_ids",))
def _make_pretraining(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make masked tokens, and the order of two sentences where the class learns that."""
    arguments = inspect.signature(type(model).forward).parameters
    if "labels" not in arguments or "visual_embeds" in arguments or "visual_feats" in arguments:
        raise BatchError(f"which batch {type(model).__name__} trains on is not known here")
    order = [name for name in ("next_sentence_label", "sentence_order_label") if name in arguments]
    return {
        "input_ids": ids,
        **_make_mask(recipe, ids),
        "labels": Input(shape=ids.shape),
        **{name: Input(shape=ids.shape[:1]) for name in order},
    }


# --- sound ------------------------------------------------------------------------------------------------------------

_SOUND = ("input_values", "input_features")


@_register("ForCTC", main=_SOUND)
def _make_transcripts(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make speech and the letters of its transcript, none of which is the blank."""
    letters = max(round(_seconds(recipe) * _LETTERS_PER_SECOND), 1)
    return {**_make_sound(model, recipe), "labels": Input(shape=(recipe.batch_size, letters), value=ids.value or 1)}


@_register("ForSequenceClassification", "ForAudioClassification", "ForXVector", main=_SOUND)
def _make_sound_labels(model: Any, recipe: Recipe, _ids: Input) -> Inputs:
    """Make sound and a class of each."""
    return {**_make_sound(model, recipe), "labels": Input(shape=(recipe.batch_size,))}


# --- images -----------------------------------------------------------------------------------------------------------


@_register("ForMaskedImageModeling", main=("pixel_values",))
def _make_masked_images(model: Any, recipe: Recipe, _ids: Input) -> Inputs:
    """Make images and which of their patches are masked."""
    images = make_plain_images(model, recipe)
    patch = getattr(model.config, "patch_size", None)
    if not isinstance(patch, int):
        raise BatchError(f"how large the patches of {type(model).__name__} are is not known here")
    patches = (images.shape[-2] // patch) * (images.shape[-1] // patch)
    return {
        "pixel_values": images,
        "bool_masked_pos": Input(shape=(recipe.batch_size, patches), dtype=torch.bool, value=1),
    }


@_register("ForVideoClassification", main=("pixel_values",))
def _make_videos(model: Any, recipe: Recipe, _ids: Input) -> Inputs:
    """Make videos of as many frames as the configuration says, and a class of each."""
    frames = getattr(model.config, "num_frames", None) or getattr(model.config, "frames_per_clip", None)
    if not isinstance(frames, int):
        raise BatchError(f"how many frames a video of {type(model).__name__} has is not known here")
    images = make_plain_images(model, recipe)
    shape = (images.shape[0], frames, *images.shape[1:])
    return {
        "pixel_values": Input(shape=shape, dtype=torch.float32),
        "labels": Input(shape=(recipe.batch_size,)),
    }


# --- parts ------------------------------------------------------------------------------------------------------------


def _make_mask(recipe: Recipe, ids: Input) -> dict[str, Input]:
    """Return the mask of a padded batch, or of a collator that always sends one."""
    if not recipe.padding and not recipe.attention_mask:
        return {}
    return {"attention_mask": Input(shape=ids.shape, value=1, last=0 if recipe.padding else None)}


def _seconds(recipe: Recipe) -> float:
    """Return how long the sound of a row is."""
    return recipe.audio_seconds or ASSUMED_SECONDS


def _make_sound(model: Any, recipe: Recipe) -> dict[str, Input]:
    """Return samples, or a spectrogram of as many bins and frames as the configuration says."""
    config, rows = model.config, recipe.batch_size
    if model.main_input_name == "input_values" and not hasattr(config, "num_mel_bins"):
        return {"input_values": Input(shape=(rows, round(_seconds(recipe) * _SAMPLES_PER_SECOND)), dtype=torch.float32)}
    bins = getattr(config, "num_mel_bins", None) or getattr(config, "feature_projection_input_dim", None)
    fixed = getattr(config, "max_length", None)
    positions = getattr(config, "max_source_positions", None)
    if not isinstance(bins, int):
        raise BatchError(f"how the features of {type(model).__name__} look is not known here")
    if isinstance(positions, int) and hasattr(config, "d_model"):  # whisper: bins first, a window of 30 seconds
        return {"input_features": Input(shape=(rows, bins, 2 * positions), dtype=torch.float32)}
    frames = fixed if isinstance(fixed, int) and fixed > 1 else round(_seconds(recipe) * _FRAMES_PER_SECOND)
    return {model.main_input_name: Input(shape=(rows, frames, bins), dtype=torch.float32)}


def _end_rows(shape: tuple[int, ...], token: int, end: int) -> Tensor:
    """Return rows of one token with another at the end."""
    rows = torch.full(shape, token, dtype=torch.int64)
    rows[:, -1] = end
    return rows


def _mask_choices(shape: tuple[int, ...], *, padded: bool) -> Tensor:
    """Return a mask of choices, of which the last one is padded."""
    mask = torch.ones(shape, dtype=torch.int64)
    if padded:
        mask[-1, -1, -1] = 0
    return mask

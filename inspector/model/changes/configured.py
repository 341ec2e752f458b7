"""What a recipe changes of a configuration before its model is built, as `from_pretrained` takes it beside the name.

`labels` is its `num_labels`: the classes that a head tells apart. `frames` is `num_frames` or `frames_per_clip`, what a
video has: of a model of videos, or of the tower of one that has text too. Frames of `videos` in rows of text are no
part of a configuration: the batch has them.

Not covered: `id2label`, of which the number alone changes memory.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from inspector.errors import UsageError
from inspector.records.recipe import Recipe

__all__ = ["change_configuration", "refuse_built"]

# Classes whose head has a row for each label, by the convention of their names.
_WITH_LABELS = re.compile("Classification|Detection|Segmentation")
_OF_FRAMES = ("num_frames", "frames_per_clip")


def change_configuration(config: PretrainedConfig, model_class: type[PreTrainedModel], recipe: Recipe) -> None:
    """Set what a recipe changes; raises UsageError where the class or its configuration has no such thing."""
    if recipe.labels is not None:
        if not _WITH_LABELS.search(model_class.__name__):
            raise UsageError(
                f"`labels`: {model_class.__name__} has no head with a row for each label; name a class that has, such "
                "as `model_class=...ForSequenceClassification`, or drop it."
            )
        config.num_labels = recipe.labels
    if recipe.frames is not None and not recipe.videos:
        name, holder = _find_frames(config, model_class)
        setattr(holder, name, recipe.frames)


def refuse_built(recipe: Recipe) -> None:
    """Raise UsageError where a recipe changes the configuration of a model that is built already."""
    for name in ("labels", "frames"):
        if getattr(recipe, name) is not None and not (name == "frames" and recipe.videos):
            raise UsageError(f"`{name}` changes a configuration, and this model is built already: drop it.")


def _find_frames(config: PretrainedConfig, model_class: type[PreTrainedModel]) -> tuple[str, Any]:
    """Return the field that says how many frames a video has, and the part of a configuration that has it."""
    for holder in (getattr(config, "vision_config", None) or config, config):
        for name in _OF_FRAMES:
            if isinstance(getattr(holder, name, None), int):
                return name, holder
    takes = "pixel_values_videos" in inspect.signature(model_class.forward).parameters
    advice = "say how many `videos` a sequence has" if takes else "drop it"
    raise UsageError(f"`frames`: the configuration of {model_class.__name__} has no number of frames; {advice}.")

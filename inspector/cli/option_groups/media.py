"""The options of what the rows of a batch hold beside text.

Standard library and click only, as `options`.
"""

from __future__ import annotations

import click

from inspector.errors import UsageError
from inspector.records.recipe import Recipe
from inspector.records.steps.media import MOST_FRAMES, MOST_LABELS, MOST_VIDEOS

__all__ = ["OF_MEDIA"]


def _check_size(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse what is no size of an image."""
    try:
        Recipe(image_size=value)
    except UsageError as error:
        raise click.BadParameter(str(error)) from error
    return value


OF_MEDIA: tuple[click.Parameter, ...] = (
    click.Option(
        ["--images"],
        type=click.IntRange(0, 1024),
        metavar="N",
        help="Images in each sequence of a vision-language model, as its processor prepares them; 0 is text alone; "
        "default: one.",
    ),
    click.Option(
        ["--image-size"],
        metavar="WxH",
        callback=_check_size,
        help="Width and height of an image or a video before the processor resizes it; default: 640x480.",
    ),
    click.Option(
        ["--videos"],
        type=click.IntRange(0, MOST_VIDEOS),
        metavar="N",
        help="Videos in each sequence of a model of text and video, in place of images; default: none.",
    ),
    click.Option(
        ["--audio-seconds"],
        type=click.FloatRange(0, 36_000),
        metavar="SECONDS",
        help="Length of the audio in each sequence of a model of text and audio; 0 is text alone; default: 30.",
    ),
    click.Option(
        ["--frames"],
        type=click.IntRange(1, MOST_FRAMES),
        metavar="N",
        help="Frames of a video that reach the model; default: those of its configuration or processor, else 16.",
    ),
    click.Option(
        ["--labels"],
        type=click.IntRange(1, MOST_LABELS),
        metavar="N",
        help="Labels of a classifier, as from_pretrained(num_labels=N); default: those of the configuration.",
    ),
)

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
        help="Images in each sequence of a model of text and images, made as its processor makes them; 0 is text "
        "alone; default: one.",
    ),
    click.Option(
        ["--image-size"],
        metavar="WxH",
        callback=_check_size,
        help="Width and height of an image, or of a video, before its processor resizes it; default: 640x480.",
    ),
    click.Option(
        ["--videos"],
        type=click.IntRange(0, MOST_VIDEOS),
        metavar="N",
        help="Videos in each sequence of a model of text and videos, in place of images; default: none.",
    ),
    click.Option(
        ["--audio-seconds"],
        type=click.FloatRange(0, 36_000),
        metavar="SECONDS",
        help="Sound in each sequence of a model of text and sound; 0 is text alone; default: 30.",
    ),
    click.Option(
        ["--frames"],
        type=click.IntRange(1, MOST_FRAMES),
        metavar="N",
        help="Frames of a video as the model sees them; default: as its configuration or its processor says, else 16.",
    ),
    click.Option(
        ["--labels"],
        type=click.IntRange(1, MOST_LABELS),
        metavar="N",
        help="Labels of a classifier, as from_pretrained(num_labels=N); default: as the configuration says.",
    ),
)

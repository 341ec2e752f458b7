"""Rows of tokens with the placeholders of images, videos and sound among them.

As processors write them: a row starts with a token of text, then come the placeholders, one after the other with a
token of text between those of two images, as much as a processor writes between two frames of a video, and the rest is
text. What marks the borders of an image is text as well. Labels do not count where a
placeholder stands, as in TRL's DataCollatorForVisionLanguageModeling, which also sends the mask that processors return.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inspector.records.memory import RowMedia
from inspector.records.recipe import Recipe
from inspector.records.steps.media import ASSUMED_SECONDS, ASSUMED_SIZE, parse_image_size
from inspector.workloads.inputs import BatchError, Input, Inputs
from inspector.workloads.media import crops, tiles  # noqa: F401  # they register their processors
from inspector.workloads.media.audio import make_sound
from inspector.workloads.media.images import Images, Pictures, find_processor, make_images
from inspector.workloads.media.videos import (
    ASSUMED_FRAMES,
    FRAMES_PER_SECOND,
    Clips,
    Videos,
    find_frames,
    make_videos,
    read_video_settings,
)

__all__ = ["Media", "find_media", "make_rows"]

_IGNORED = -100
# The argument by which a model learns which tokens are an image's.
_TYPES = ("mm_token_type_ids", "token_type_ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """What the rows of a batch hold beside text.

    `spans` are how many placeholders each image, frame or sound of a row takes, `gaps` how many tokens of text stand
    before each, one where they are empty; `count` images, videos or sounds are in all of them. `token` is the id of
    placeholders, `type` their kind as the model is told, `inputs` the tensors that a processor returns beside the
    tokens, `of_rows` those that depend on the length of a row. `holds_all`: the model looks for padding among the
    images, of which there is none. `words` say what there is, `assumed` what nobody said.
    """

    kind: str
    spans: Sequence[int]
    token: int
    inputs: Mapping[str, Input]
    of_rows: Mapping[str, Callable[[int], Input]]
    words: str
    assumed: str | None = None
    holds_all: bool = False
    count: int = 1
    gaps: Sequence[int] = ()
    type: int = 1

    @property
    def tokens(self) -> int:
        """Return how many placeholders a row has."""
        return sum(self.spans)

    def describe(self) -> RowMedia:
        """Return it as a report says it."""
        return RowMedia(kind=self.kind, count=self.count, tokens=self.tokens // self.count)

    @property
    def least_length(self) -> int:
        """Return how many tokens a row has at least."""
        return self.tokens + (sum(self.gaps) or len(self.spans)) + 1


def find_media(model: Any, recipe: Recipe, arguments: set[str]) -> Media | None:
    """Return what the batch of a model whose forward takes `arguments` has beside text, None for text alone.

    Raises BatchError where images or videos were asked for and are not known of this model.
    """
    if recipe.videos:
        return _find_videos(model, recipe, arguments)
    if model.main_input_name != "input_ids" or "input_ids" not in arguments:
        return None
    settings = getattr(model.config, "processor_settings", None) or {}
    if recipe.images != 0 and "pixel_values" in arguments:
        try:
            found = _find_images(model, recipe, settings)
        except Exception:  # of a tower that refuses the image; configurations hold values of any kind
            if recipe.images or recipe.image_size is not None:
                raise
            found = None  # text alone, which is said
        if found is not None:
            return found
    if recipe.images:
        raise BatchError(f"how images go into the batch of {type(model).__name__} is not known here: use `images=0`")
    if recipe.audio_seconds != 0 and recipe.images != 0:
        return _find_sound(model, recipe, settings, arguments)
    return None


def make_rows(model: Any, recipe: Recipe, media: Media, ids: Input) -> Inputs:
    """Return ids with the placeholders of media, their mask, what the processor returns with them, and labels."""
    length = recipe.seq_len or 0
    if media.least_length > length:
        raise BatchError(
            f"{media.words} take {media.tokens:,} of the {length:,} tokens of a sequence, which leaves no room for "
            f"text: use `seq_len={-(-media.least_length // 64) * 64}`"
        )
    place = functools.partial(_place, ids.shape, media.spans, media.gaps or (1,) * len(media.spans))
    made = {
        "input_ids": Input(shape=ids.shape, make=functools.partial(_write_ids, place, media.token, ids.value)),
        "attention_mask": Input(shape=ids.shape, value=1, last=0 if recipe.padding else None),
    }
    arguments = inspect.signature(type(model).forward).parameters
    for name in _TYPES:
        if name in arguments and media.kind != "audio":
            made[name] = Input(shape=ids.shape, make=functools.partial(_write_types, place, media.type))
            break
    made |= {**media.inputs, **{name: make(length) for name, make in media.of_rows.items()}}
    labels = functools.partial(_write_labels, place, ids.value, padded=bool(recipe.padding))
    return {**made, "labels": Input(shape=ids.shape, make=labels)}


def _find_images(model: Any, recipe: Recipe, settings: Mapping[str, Any]) -> Media | None:
    """Return the images of a batch, None where the model's processor is not known here."""
    processor = find_processor(model, settings)
    token = _find_token(model.config, ("image_token_id", "image_token_index"))
    if processor is None or token is None:
        return None
    width, height = ASSUMED_SIZE if recipe.image_size is None else parse_image_size(recipe.image_size)
    count = 1 if recipe.images is None else recipe.images
    pictures = Pictures(model=model, settings=settings, rows=recipe.batch_size, count=count, size=(height, width))
    images = make_images(processor, pictures)
    return Media(
        kind="images",
        spans=(images.tokens,) * count,
        count=count,
        token=token,
        inputs=images.inputs,
        of_rows=images.of_rows,
        words=_describe_images(images, count, (width, height)),
        assumed=_explain_assumed(recipe, bool(settings), (width, height)),
        holds_all=images.holds_all,
    )


def _describe_images(images: Images, count: int, size: tuple[int, int]) -> str:
    """Return in words what the images of a row are."""
    height, width = images.pixels
    seen = f"{images.parts} tiles of {width}x{height}" if images.parts > 1 else f"{width}x{height}"
    each = f" of {images.tokens:,} tokens" if images.tokens > 1 else ""
    of = "an image" if count == 1 else f"{count} images"
    return f"{of}{each}{' each' if count > 1 and each else ''} ({size[0]}x{size[1]} pixels, seen as {seen})"


def _explain_assumed(recipe: Recipe, has_file: bool, size: tuple[int, int]) -> str | None:
    """Return what of the images nobody said, None where all was."""
    parts = [
        *(["one image per sequence (`images=0` is text alone)"] if recipe.images is None else []),
        *([f"{size[0]} x {size[1]} pixels (`image_size`)"] if recipe.image_size is None else []),
        *([] if has_file else ["the processor's defaults, since no preprocessor_config.json was read"]),
    ]
    return ", ".join(parts) or None


def _find_videos(model: Any, recipe: Recipe, arguments: set[str]) -> Media:
    """Return the videos of a batch; raises BatchError where the model takes none, or where it is not known how."""
    name, count = type(model).__name__, recipe.videos or 1
    if model.main_input_name != "input_ids" or not arguments & {"pixel_values_videos", "pixel_values"}:
        raise BatchError(f"{name} takes no videos among text: drop `videos`")
    settings = getattr(model.config, "processor_settings", None) or {}
    of_videos = read_video_settings(settings)
    frames = recipe.frames or find_frames(of_videos)
    size = ASSUMED_SIZE if recipe.image_size is None else parse_image_size(recipe.image_size)
    clips = Clips(
        model=model,
        settings=of_videos,
        rows=recipe.batch_size,
        count=count,
        size=size[::-1],
        frames=frames or ASSUMED_FRAMES,
    )
    videos = make_videos(clips)
    token = None if videos is None else _find_token(model.config, videos.names)
    if videos is None or token is None:
        raise BatchError(f"how videos go into the batch of {name} is not known here: drop `videos`")
    assumed = [
        *([f"{clips.frames} frames (`frames`)"] if frames is None else []),
        *([f"{size[0]} x {size[1]} pixels (`image_size`)"] if recipe.image_size is None else []),
        *([f"{FRAMES_PER_SECOND} frames a second, where text says when"] if len(videos.spans) > 1 else []),
        *([] if settings else ["the processor's defaults, since no file of its was read"]),
    ]
    return Media(
        kind="videos",
        spans=videos.spans * count,
        gaps=(1, *[videos.gap] * (len(videos.spans) - 1)) * count,
        count=count,
        token=token,
        type=videos.type,
        inputs=videos.inputs,
        of_rows={},
        words=_describe_videos(videos, clips),
        assumed=", ".join(assumed) or None,
        holds_all=videos.holds_all,
    )


def _describe_videos(videos: Videos, clips: Clips) -> str:
    """Return in words what the videos of a row are."""
    (height, width), seen = clips.size, videos.pixels
    of = "a video" if clips.count == 1 else f"{clips.count} videos"
    each = " each" if clips.count > 1 else ""
    frames = "a frame" if clips.frames == 1 else f"{clips.frames} frames"
    tokens = f"{sum(videos.spans):,} tokens{each}"
    return f"{of} of {tokens} ({frames} of {width}x{height} pixels, seen as {seen[1]}x{seen[0]})"


def _find_sound(model: Any, recipe: Recipe, settings: Mapping[str, Any], arguments: set[str]) -> Media | None:
    """Return the sound of a batch, None where the model takes none that is known here."""
    token = _find_token(model.config, ("audio_token_id", "audio_token_index"))
    if token is None:
        return None
    seconds = ASSUMED_SECONDS if recipe.audio_seconds is None else recipe.audio_seconds
    sound = make_sound(model, settings, arguments, rows=recipe.batch_size, seconds=seconds)
    if sound is None:
        return None
    return Media(
        kind="audio",
        spans=(sound.tokens,),
        token=token,
        inputs=sound.inputs,
        of_rows={},
        words=f"sound of {seconds:g} s in {sound.tokens:,} tokens",
        assumed=f"{seconds:g} s of audio per sequence (`audio_seconds`)" if recipe.audio_seconds is None else None,
    )


def _find_token(config: Any, names: Sequence[str]) -> int | None:
    """Return the id of placeholders."""
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if isinstance(value, int) and value >= 0), None)


def _place(shape: tuple[int, ...], spans: Sequence[int], gaps: Sequence[int]) -> Tensor:
    """Return which image each token of a batch belongs to, counted from 1, 0 for text."""
    row = torch.zeros(shape[-1], dtype=torch.int64)
    start = 0
    for number, (span, gap) in enumerate(zip(spans, gaps, strict=True), start=1):
        row[start + gap : start + gap + span] = number
        start += gap + span
    return row.expand(shape).clone()


def _write_ids(place: Callable[[], Tensor], token: int, text: int) -> Tensor:
    """Return ids of tokens."""
    return torch.where(place() > 0, token, text)


def _write_types(place: Callable[[], Tensor], kind: int) -> Tensor:
    """Return the kind of what is no text."""
    return (place() > 0).to(torch.int64) * kind


def _write_labels(place: Callable[[], Tensor], text: int, *, padded: bool) -> Tensor:
    """Return labels, of which those of placeholders and of padding do not count."""
    labels = torch.where(place() > 0, _IGNORED, text)
    if padded:
        labels[-1, -1] = _IGNORED
    return labels

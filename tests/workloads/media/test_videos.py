"""Videos become the tensors that transformers' own processors make of them, and stand in rows as these write them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from typing import Any

import pytest
import torch
import transformers

import inspector
from inspector.records.checkpoint import StoredFile
from inspector.records.memory import RowMedia
from inspector.source.processor import find_processor
from inspector.workloads.batch import find_media, make_batch_inputs
from inspector.workloads.inputs import BatchError, Input
from tests.trace.cpu_truth import adamw, assert_aligned, meta_step, real_step
from tests.trace.small_models import RECIPE
from tests.trace.small_models import build as build_plain
from tests.workloads.media.record_videos import RECORDED
from tests.workloads.media.small_videos import KERNELS, OF_VIDEOS, VIDEO_MODELS, VIDEO_TOKEN, build

ROWS = json.loads(RECORDED.read_text())
# Tokens that the recorder's tokenizer has none for: new lines, and the blank before a mark.
BLANKS = {"internvl": 2, "smolvlm": 1}


@functools.cache
def model_of(name: str) -> transformers.PreTrainedModel:
    """Return a small model without data."""
    model: transformers.PreTrainedModel = build("meta", name)[0]
    return model


def tensors_of(model: transformers.PreTrainedModel, recipe: inspector.Recipe) -> dict[str, Input]:
    """Return the tensors of a batch."""
    return {name: item for name, item in make_batch_inputs(model, recipe).items() if isinstance(item, Input)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['type']}-{'x'.join(map(str, row['clip']))}")
def test_a_video_becomes_what_the_real_processor_made_of_it(row: dict[str, Any]) -> None:
    model, (width, height, frames) = model_of(row["type"]), row["clip"]
    model.config.processor_settings = {"video_processor": row["settings"]}
    recipe = dataclasses.replace(
        RECIPE, batch_size=1, seq_len=4096, videos=1, frames=frames, image_size=f"{width}x{height}"
    )
    media, batch = find_media(model, recipe), tensors_of(model, recipe)
    assert media is not None
    assert list(media.spans) == row["runs"][1::2]
    if text := row["runs"][2:-1:2]:
        # GLM's tokenizer keeps digits together, which the recorder's does not.
        gap = (min if row["type"].startswith("glm") else max)(text) + BLANKS.get(row["type"], 0)
        assert set(media.gaps[1:]) == {gap}
    made = {name: list(item.shape) for name, item in batch.items() if name in media.inputs}
    assert made == {name: shape for name, shape in row["shapes"].items() if name != "mm_token_type_ids"}
    assert {name: str(batch[name].dtype).removeprefix("torch.") for name in batch if name != "labels"} == row["dtypes"]
    for name, values in row["values"].items():
        assert batch[name].on("cpu").tolist() == values
    if row["kind"] is not None:
        assert int(batch["mm_token_type_ids"].on("cpu").max()) == row["kind"]


@pytest.mark.parametrize("name", VIDEO_MODELS)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.one_of(5)
def test_a_step_on_videos_allocates_and_frees_as_on_the_cpu(name: str) -> None:
    make = functools.partial(build, name=name)
    real, inside = real_step(make, adamw, VIDEO_MODELS[name].kernels + KERNELS)
    values = {key: item for key, item in make("cpu")[1].items() if not key.startswith("pixel_values")}
    assert_aligned(real, inside, meta_step(make, adamw, values))


def test_the_steps_of_a_videos_grid_stand_apart_with_their_times_between_them() -> None:
    batch = tensors_of(model_of("qwen3_vl"), OF_VIDEOS)
    ids, types, labels = (batch[name].on("cpu") for name in ("input_ids", "mm_token_type_ids", "labels"))
    assert ((ids == VIDEO_TOKEN) == (types == 2)).all()
    assert (labels[types == 2] == -100).all()
    runs = [(kind, len(list(group))) for kind, group in itertools.groupby(types[0].tolist())]
    # Two videos of three frames, the last one twice: two steps each, with "<0.5 seconds>" and two marks between them.
    assert [length for kind, length in runs if kind == 0][1:-1] == [8, 1, 8]


def report_on(name: str, **recipe: object) -> inspector.Report:
    """Return the report on a small model."""
    config = model_of(name).config
    config.processor_settings = None
    return inspector.inspect(config, recipe=recipe)


def test_the_report_says_how_many_tokens_a_video_takes_and_what_was_assumed() -> None:
    report = report_on("llava_onevision", videos=2, frames=3)
    assert report.training is not None
    # Four patches of each frame become one, and a new line ends the video.
    assert report.training.media == RowMedia(kind="videos", count=2, tokens=4)
    assert report.training.lower_bound is None
    codes = {notice.code: notice.message for notice in report.warnings}
    assert "no-image" not in codes
    assert "2 videos of 4 tokens each (3 frames of 640x480 pixels, seen as 16x16)" in codes["media-assumed"]
    assert "(`frames`)" not in codes["media-assumed"]


def test_the_frames_of_a_video_are_what_the_processor_takes_where_nobody_says_them() -> None:
    model = model_of("llava_onevision")
    for settings, frames in (
        ({"video_processor": {"num_frames": 5}, "num_frames": 7}, 5),
        ({"num_frames": 7}, 7),
        ({"video_sampling": {"max_frames": 9}}, 9),
        ({}, 16),
    ):
        model.config.processor_settings = settings
        batch = tensors_of(model, dataclasses.replace(RECIPE, videos=1, seq_len=64))
        assert batch["pixel_values_videos"].shape[1] == frames


def test_videos_are_refused_in_one_line_where_a_model_takes_none() -> None:
    recipe = dataclasses.replace(RECIPE, videos=1)
    for name, reason in (
        ("llama", "LlamaForCausalLM takes no videos among text: drop `videos`"),
        ("bert", "BertForMaskedLM takes no videos among text: drop `videos`"),
        ("llava", "how videos go into the batch of LlavaForConditionalGeneration is not known here: drop `videos`"),
    ):
        with pytest.raises(BatchError) as refused:
            find_media(build_plain("meta", name)[0], recipe)
        assert str(refused.value) == reason


def test_fewer_frames_than_a_step_of_the_grid_are_refused_as_the_processor_refuses_them() -> None:
    recipe = dataclasses.replace(OF_VIDEOS, frames=1)
    with pytest.raises(BatchError, match="2 frames or more: use `frames=2`"):
        find_media(model_of("qwen3_vl"), recipe)


def test_frames_alone_ask_how_many_videos_there_are() -> None:
    with pytest.raises(inspector.UsageError, match="say how many `videos` a sequence has"):
        report_on("qwen2_vl", frames=8)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"videos": 10**6}, "at most 64"),
        ({"videos": True}, "videos"),
        ({"videos": -1}, "videos"),
        ({"videos": 1, "images": 1}, "not traced in one sequence"),
    ],
)
def test_videos_out_of_their_range_are_refused_in_one_line(recipe: dict[str, object], message: str) -> None:
    with pytest.raises(inspector.UsageError, match=message) as refused:
        inspector.Recipe(**recipe)  # type: ignore[arg-type]  # values of any kind
    assert "\n" not in str(refused.value)


class Files:
    """Files of a repository by their names."""

    def __init__(self, **files: object) -> None:
        self.files = {f"{name}.json": json.dumps(value).encode() for name, value in files.items()}

    def read_whole(self, name: str, _most: int) -> bytes:
        """Return what a file holds."""
        return self.files[name]

    def find(self) -> Any:
        """Return what they say of the processor."""
        present = [StoredFile(name=name, bytes=len(held)) for name, held in self.files.items()]
        return find_processor(present, self)  # type: ignore[arg-type]  # reads whole files alone


def test_the_processor_of_videos_is_read_from_its_own_file_unless_the_newer_one_has_it() -> None:
    own, images = {"num_frames": 8}, {"size": {"height": 16}}
    found = Files(preprocessor_config=images, video_preprocessor_config=own).find()
    assert found == {**images, "video_processor": own}
    newer = {"video_processor": {"num_frames": 4}}
    assert Files(processor_config=newer, video_preprocessor_config=own).find() == newer
    assert Files(video_preprocessor_config=own).find() == {"video_processor": own}
    assert Files(preprocessor_config=images).find() == images
    assert Files().find() is None


def test_values_of_a_batch_of_videos_are_those_of_the_clock_and_the_grid() -> None:
    batch = tensors_of(model_of("qwen2_5_vl"), OF_VIDEOS)
    assert batch["second_per_grid_ts"].list_values().tolist() == [1.0] * 4
    assert batch["second_per_grid_ts"].dtype is torch.float32

"""Record what transformers' own processors make of videos: tensors, and where a video stands in its row.

    python -m tests.workloads.media.record_videos

Needs torchvision, pillow and num2words. A tokenizer of words, marks and single digits stands in for the real ones. The
cases stand in `CASES`, what came out in recorded_videos.json: test_videos.py holds the arithmetic against it.
"""

from __future__ import annotations

import importlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

RECORDED = Path(__file__).with_name("recorded_videos.json")
# Width, height and frames.
CLIPS = ((24, 16, 3), (64, 48, 4), (16, 90, 25))
_PATCHES = {"patch_size": 4, "merge_size": 2}
_SMALL = {"shortest_edge": 64, "longest_edge": 4096}
_SQUARE = {"size": {"height": 16, "width": 16}}
_CROP = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
# The type of a model, its processor, its image processor, its processor of videos with settings, and its own settings.
CASES: tuple[tuple[str, str, str, str, dict[str, Any], dict[str, Any]], ...] = (
    (
        "qwen2_vl",
        "Qwen2VLProcessor",
        "Qwen2VLImageProcessor",
        "Qwen2VLVideoProcessor",
        {**_PATCHES, "size": _SMALL},
        {},
    ),
    (
        "qwen2_vl",
        "Qwen2VLProcessor",
        "Qwen2VLImageProcessor",
        "Qwen2VLVideoProcessor",
        {**_PATCHES, "size": _SMALL, "cap_pixels_per_frame": True, "max_video_tokens": 40},
        {},
    ),
    (
        "qwen2_5_vl",
        "Qwen2_5_VLProcessor",
        "Qwen2VLImageProcessor",
        "Qwen2VLVideoProcessor",
        {**_PATCHES, "size": _SMALL},
        {},
    ),
    (
        "qwen3_vl",
        "Qwen3VLProcessor",
        "Qwen2VLImageProcessor",
        "Qwen3VLVideoProcessor",
        {**_PATCHES, "size": _SMALL},
        {},
    ),
    (
        "qwen3_vl",
        "Qwen3VLProcessor",
        "Qwen2VLImageProcessor",
        "Qwen3VLVideoProcessor",
        {**_PATCHES, "size": _SMALL, "cap_pixels_per_frame": True, "max_video_tokens": 4},
        {},
    ),
    ("glm4v", "Glm4vProcessor", "Glm4vImageProcessor", "Glm4vVideoProcessor", {**_PATCHES, "size": _SMALL}, {}),
    ("glm46v", "Glm46VProcessor", "Glm46VImageProcessor", "Glm46VVideoProcessor", {**_PATCHES, "size": _SMALL}, {}),
    (
        "llava_next_video",
        "LlavaNextVideoProcessor",
        "LlavaNextImageProcessor",
        "LlavaNextVideoVideoProcessor",
        _CROP,
        {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    (
        "llava_onevision",
        "LlavaOnevisionProcessor",
        "LlavaOnevisionImageProcessor",
        "LlavaOnevisionVideoProcessor",
        _SQUARE,
        {"num_image_tokens": 4, "vision_feature_select_strategy": "full"},
    ),
    (
        "video_llava",
        "VideoLlavaProcessor",
        "VideoLlavaImageProcessor",
        "VideoLlavaVideoProcessor",
        {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}},
        {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    (
        "internvl",
        "InternVLProcessor",
        "GotOcr2ImageProcessor",
        "InternVLVideoProcessor",
        _SQUARE,
        {"image_seq_length": 1},
    ),
    (
        "smolvlm",
        "SmolVLMProcessor",
        "SmolVLMImageProcessor",
        "SmolVLMVideoProcessor",
        {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 16}},
        {"image_seq_len": 1},
    ),
)
_MARKS = (
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<|image|>", "<|video|>"),
    *("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>", "<image>", "<video>"),
    *("<img>", "</img>", "<IMG_CONTEXT>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"),
)
_NAMED = {
    "qwen": {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
    "glm": {"image_token": "<|image|>", "video_token": "<|video|>"},
    "internvl": {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
}
_TEXT = {
    "qwen": "a <|vision_start|><|video_pad|><|vision_end|> a",
    "glm": "a <|begin_of_video|><|video|><|end_of_video|> a",
}


def main() -> None:
    """Run every processor on a video of every kind and write down what it returns."""
    rows = []
    for case, clip in itertools.product(CASES, CLIPS):
        rows.append(_record(case, clip))
    RECORDED.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def _record(case: tuple[str, str, str, str, dict[str, Any], dict[str, Any]], clip: tuple[int, int, int]) -> Any:
    """Return what a processor makes of one video."""
    model_type, name, images, videos, settings, own = case
    family = next((key for key in _TEXT if model_type.startswith(key)), model_type)
    tokenizer = _make_tokenizer(_NAMED.get(family, {}))
    processor = _find(name)(
        image_processor=_find(images)(), tokenizer=tokenizer, video_processor=_find(videos)(**settings), **own
    )
    width, height, frames = clip
    metadata = {"total_num_frames": frames, "fps": 2.0, "duration": frames / 2, "frames_indices": list(range(frames))}
    made = processor(
        text=[_TEXT.get(family, "a <video> a")],
        videos=[np.full((frames, height, width, 3), 128, dtype=np.uint8)],
        videos_kwargs={"do_sample_frames": False, "video_metadata": [metadata], "return_metadata": True},
        return_tensors="pt",
    )
    tensors = {key: value for key, value in made.items() if hasattr(value, "shape")}
    token = tokenizer.convert_tokens_to_ids(
        {"qwen": "<|video_pad|>", "glm": "<|image|>", "internvl": "<IMG_CONTEXT>", "smolvlm": "<image>"}.get(
            family, "<video>"
        )
    )
    return {
        "type": model_type,
        "settings": settings,
        "clip": clip,
        "shapes": {
            key: list(value.shape) for key, value in tensors.items() if key not in ("input_ids", "attention_mask")
        },
        "dtypes": {key: str(value.dtype).removeprefix("torch.") for key, value in tensors.items()},
        "values": {key: made[key].tolist() for key in ("video_grid_thw", "second_per_grid_ts") if key in made},
        "kind": int(made["mm_token_type_ids"].max()) if "mm_token_type_ids" in made else None,
        "runs": list(_list_runs(made["input_ids"][0].tolist(), token)),
    }


def _list_runs(ids: list[int], token: int) -> Iterator[int]:
    """Yield how many tokens of text and of placeholders follow each other, text first."""
    for is_placeholder, group in itertools.groupby(item == token for item in ids):
        del is_placeholder
        yield len(list(group))


def _find(name: str) -> Any:
    """Return a class of transformers."""
    return getattr(importlib.import_module("transformers"), name)


def _make_tokenizer(named: dict[str, str]) -> Any:
    """Return a tokenizer of words, marks and digits."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: place for place, token in enumerate(("<unk>", "a", *_MARKS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer.add_special_tokens(list(_MARKS))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<unk>", extra_special_tokens=named
    )


if __name__ == "__main__":
    main()

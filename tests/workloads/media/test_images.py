"""Images become the tensors that transformers' own processors make of them, and take as many tokens as these write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from inspector.compat.transformers import list_image_processors
from inspector.workloads.inputs import BatchError
from inspector.workloads.media import tiles  # noqa: F401  # it registers its processors
from inspector.workloads.media.images import Pictures, find_processor, make_images
from inspector.workloads.media.sizes import count_unpadded_features, fit_canvas, resize_native
from tests.workloads.media.record_processors import RECORDED

ROWS = json.loads(RECORDED.read_text())
VISION = {
    "image_size": 32,
    "patch_size": 4,
    "num_channels": 3,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "in_channels": 3,
    "max_num_tiles": 4,
    "pixel_shuffle_ratio": 0.5,
    "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
}


class Model:
    """A model of which the tower and the configuration are read alone."""

    def __init__(self, **vision: Any) -> None:
        vision_config = SimpleNamespace(**{**VISION, **vision})
        self.config = SimpleNamespace(
            model_type="none",
            vision_config=vision_config,
            perceiver_config=SimpleNamespace(resampler_n_latents=4),
            scale_factor=2,
            image_grid_pinpoints=[],
        )
        self.shapes: list[tuple[int, ...]] = []

    def get_image_features(self, images: Tensor) -> Tensor:
        """Return four features of each image."""
        self.shapes.append(tuple(images.shape))
        return torch.zeros(images.shape[0], 4, 8)

    def parameters(self) -> Iterator[Tensor]:
        """Yield a parameter."""
        yield torch.zeros(1)


def picture(row: dict[str, Any], **vision: Any) -> Pictures:
    """Return one image of a recorded row."""
    width, height = row["size"]
    return Pictures(model=Model(**vision), settings=row["settings"], rows=1, count=1, size=(height, width))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['processor']}-{'x'.join(map(str, row['size']))}")
def test_an_image_becomes_what_the_real_processor_made_of_it(row: dict[str, Any]) -> None:
    patch = row["settings"].get("patch_size", 4)
    made = make_images(row["processor"], picture(row, patch_size=patch["height"] if isinstance(patch, dict) else patch))
    shapes = {name: list(item.shape) for name, item in made.inputs.items()}
    assert {name: row["shapes"][name] for name in shapes} == shapes
    for name, values in row["values"].items():
        assert made.inputs[name].on("cpu").tolist() == values


def test_all_images_of_a_batch_are_in_its_tensors() -> None:
    row = next(item for item in ROWS if item["processor"] == "Qwen2VLImageProcessor")
    one = make_images(row["processor"], picture(row))
    pictures = Pictures(model=Model(), settings=row["settings"], rows=3, count=2, size=(row["size"][1], row["size"][0]))
    several = make_images(row["processor"], pictures)
    assert several.tokens == one.tokens
    assert several.inputs["image_grid_thw"].shape == (6, 3)
    assert several.inputs["pixel_values"].shape[0] == 6 * one.inputs["pixel_values"].shape[0]


def test_the_tokens_of_a_grid_are_its_squares() -> None:
    row = next(item for item in ROWS if item["processor"] == "Qwen2VLImageProcessor")
    made = make_images(row["processor"], picture(row))
    _, rows, columns = made.inputs["image_grid_thw"].on("cpu")[0].tolist()
    assert made.tokens == rows * columns // 4


def test_what_a_tower_makes_of_one_tile_counts_for_each() -> None:
    row = next(item for item in ROWS if item["processor"] == "GotOcr2ImageProcessor" and item["size"] == [64, 48])
    made = make_images(row["processor"], picture(row))
    assert made.tokens == 4 * made.parts
    assert made.parts == row["shapes"]["pixel_values"][0]


def test_the_backend_is_no_part_of_a_processors_name() -> None:
    model = Model()
    for name in ("Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast", "Qwen2VLImageProcessorPil"):
        assert find_processor(model, {"image_processor_type": name}) == "Qwen2VLImageProcessor"
    assert find_processor(model, {"image_processor_type": "AnotherImageProcessor"}) is None
    assert find_processor(model, {}) is None


def test_a_ribbon_is_refused_as_the_processor_refuses_it() -> None:
    with pytest.raises(BatchError, match="200 times as long as wide"):
        resize_native((10, 2010), 28, 3136, 10**6)


def test_more_tiles_than_any_processor_has_are_refused() -> None:
    settings = {"crop_to_patches": True, "max_patches": 10**9}
    pictures = Pictures(model=Model(), settings=settings, rows=1, count=1, size=(480, 640))
    with pytest.raises(BatchError, match="up to 1,000,000,000 tiles"):
        make_images("GotOcr2ImageProcessor", pictures)


def test_features_of_too_many_tiles_are_scaled_down() -> None:
    """As LlavaOnevisionProcessor._get_number_of_features, by hand: 6 x 6 tiles of 27 x 27 for 9 of them."""
    assert count_unpadded_features((2304, 2304), (27, 27), (6, 6)) == 162 * 162 + 162
    assert count_unpadded_features((2304, 2304), (27, 27), (6, 6), 9) == 81 * 81 + 81
    assert count_unpadded_features((768, 768), (27, 27), (2, 2), 9) == 54 * 54 + 54


def test_several_images_of_llava_onevision_are_not_cut() -> None:
    row = next(item for item in ROWS if item["processor"] == "LlavaOnevisionImageProcessor")
    pictures = Pictures(model=Model(), settings=row["settings"], rows=3, count=2, size=(48, 64))
    made = make_images(row["processor"], pictures)
    assert made.inputs["pixel_values"].shape == (6, 1, 3, 32, 32)
    assert made.inputs["batch_num_images"].on("cpu").tolist() == [2, 2, 2]
    assert made.tokens == 8 * 8 + 1


def test_a_small_image_gets_one_tile_of_a_canvas() -> None:
    assert fit_canvas((20, 20), 32, 4) == (1, 1)
    assert fit_canvas((20, 60), 32, 4) == (1, 2)


def test_the_tower_of_an_encoder_and_a_decoder_is_the_encoders() -> None:
    tower = SimpleNamespace(image_size=896, num_channels=3)
    model = Model()
    model.config = SimpleNamespace(model_type="t5gemma2", encoder=SimpleNamespace(vision_config=tower))
    made = make_images("Gemma3ImageProcessor", Pictures(model=model, settings={}, rows=1, count=1, size=(480, 640)))
    assert made.pixels == (896, 896)


def test_types_that_share_a_processor_share_what_makes_images_of_it() -> None:
    found = {name: list_image_processors(name)[:1] for name in ("qwen3_vl_moe", "glm4v_moe", "qwen2_5_omni_thinker")}
    assert [names[0].startswith(("Qwen2VL", "Glm4v")) for names in found.values()] == [True] * 3
    assert list_image_processors("llama") == []

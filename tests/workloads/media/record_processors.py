"""Record what transformers' own image processors make of images of several sizes; needs pillow and torchvision.

    python -m tests.workloads.media.record_processors

The cases stand in `CASES`, what came out in recorded_processors.json: test_images.py holds the arithmetic against it.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np

SIZES = ((64, 48), (48, 64), (300, 40), (33, 35), (640, 480), (96, 97))
# The class of a processor, its module, and its settings: small ones, since real pixels go through it.
CASES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("CLIPImageProcessor", "clip", {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}),
    ("SiglipImageProcessor", "siglip", {"size": {"height": 32, "width": 32}}),
    (
        "LlavaNextImageProcessor",
        "llava_next",
        {
            "size": {"shortest_edge": 32},
            "crop_size": {"height": 32, "width": 32},
            "image_grid_pinpoints": [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]],
        },
    ),
    (
        "GotOcr2ImageProcessor",
        "got_ocr2",
        {"size": {"height": 32, "width": 32}, "crop_to_patches": True, "max_patches": 12},
    ),
    ("Idefics3ImageProcessor", "idefics3", {"size": {"longest_edge": 128}, "max_image_size": {"longest_edge": 32}}),
    ("SmolVLMImageProcessor", "smolvlm", {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 32}}),
    ("MllamaImageProcessor", "mllama", {"size": {"height": 32, "width": 32}, "max_image_tiles": 4}),
    ("PixtralImageProcessor", "pixtral", {"size": {"longest_edge": 128}, "patch_size": {"height": 8, "width": 8}}),
    ("Qwen2VLImageProcessor", "qwen2_vl", {"min_pixels": 784, "max_pixels": 12_544, "patch_size": 4, "merge_size": 2}),
    (
        "Qwen2VLImageProcessor",
        "qwen2_vl",
        {"min_pixels": 50_000, "max_pixels": 90_000, "patch_size": 4, "merge_size": 2},
    ),
    (
        "Glm4vImageProcessor",
        "glm4v",
        {"size": {"shortest_edge": 784, "longest_edge": 40_000}, "patch_size": 4, "merge_size": 2},
    ),
    (
        "LlavaOnevisionImageProcessor",
        "llava_onevision",
        {
            "size": {"height": 32, "width": 32},
            "image_grid_pinpoints": [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]],
        },
    ),
    ("Llama4ImageProcessor", "llama4", {"size": {"height": 32, "width": 32}, "max_patches": 6}),
    ("Idefics2ImageProcessor", "idefics2", {"size": {"shortest_edge": 40, "longest_edge": 96}}),
    (
        "Idefics2ImageProcessor",
        "idefics2",
        {"size": {"shortest_edge": 40, "longest_edge": 96}, "do_image_splitting": True},
    ),
)
# Those that need torchvision.
WITHOUT_PIL = ("Llama4ImageProcessor",)
RECORDED = Path(__file__).with_name("recorded_processors.json")


def main() -> None:
    """Run every processor on an image of every size and write down what it returns."""
    from PIL import Image  # type: ignore[import-not-found]  # of no other use, so not in the environment of the tests

    rows = []
    for name, module, settings in CASES:
        pil = "" if name in WITHOUT_PIL else "pil_"
        path = f"transformers.models.{module}.image_processing_{pil}{module}"
        processor = getattr(importlib.import_module(path), f"{name}Pil" if pil else name)(**settings)
        for width, height in SIZES:
            image = Image.fromarray(np.full((height, width, 3), 128, dtype=np.uint8))
            nested = [[image]] if name.startswith(("Idefics", "SmolVLM", "Mllama")) else [image]
            made = processor(nested, return_tensors="pt")
            tensors = {key: list(value.shape) for key, value in made.items() if hasattr(value, "shape")}
            grids = {
                key: made[key].tolist() for key in ("image_sizes", "image_grid_thw", "aspect_ratio_mask") if key in made
            }
            rows.append(
                {"processor": name, "settings": settings, "size": [width, height], "shapes": tensors, "values": grids}
            )
    RECORDED.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


if __name__ == "__main__":
    main()

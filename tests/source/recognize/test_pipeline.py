"""The parts of a pipeline of diffusers are read from its files, on the Hub and in a folder."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

import inspector
from inspector.errors import ModelUnavailableError, UnsupportedModelError
from inspector.source.locate import locate
from tests.source.loopback_hub import LoopbackHub

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.30.0",
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
FILES: dict[str, bytes] = {
    "model_index.json": json.dumps(INDEX).encode(),
    "scheduler/scheduler_config.json": b'{"prediction_type": "v_prediction"}',
    "text_encoder/config.json": b'{"model_type": "clip_text_model"}',
    "text_encoder/pytorch_model.bin": b"1234567",
    "tokenizer/tokenizer_config.json": b"{}",
    "unet/config.json": b'{"_class_name": "UNet2DConditionModel", "sample_size": 8}',
    "unet/diffusion_pytorch_model-00001-of-00002.safetensors": b"123",
    "unet/diffusion_pytorch_model-00002-of-00002.safetensors": b"1234",
    "unet/diffusion_pytorch_model.fp16.safetensors": b"12",
    "unet/diffusion_pytorch_model.bin": b"123456789",
    "vae/config.json": b'{"_class_name": "AutoencoderKL"}',
}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files into a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def check(files: Any) -> None:
    """Hold what was read of the pipeline."""
    pipeline = files.pipeline
    assert pipeline.class_name == "StableDiffusionPipeline"
    assert pipeline.trained == "unet"
    assert pipeline.predicts_velocity
    assert files.config == json.loads(FILES["unet/config.json"])
    # Safetensors before pickles, all shards, no variant; what has no weights here has no bytes.
    assert {item.name: (item.library, item.class_name, item.bytes) for item in pipeline.components} == {
        "text_encoder": ("transformers", "CLIPTextModel", 7),
        "unet": ("diffusers", "UNet2DConditionModel", 7),
        "vae": ("diffusers", "AutoencoderKL", None),
    }


def test_a_folder_of_a_pipeline_gives_its_parts(tmp_path: Path) -> None:
    check(locate(str(write(tmp_path, FILES))))


def test_a_pipeline_on_the_hub_gives_its_parts_and_reads_configurations_alone(hub: LoopbackHub) -> None:
    hub.host("org/pipeline", FILES)
    check(locate("org/pipeline"))
    read = {request.rpartition("/main/")[2] for request in hub.requests if "/main/" in request}
    assert read == {name for name in FILES if name.endswith(("/config.json", "scheduler_config.json", "index.json"))}
    hub.requests.clear()
    check(locate("org/pipeline"))
    assert hub.requests == ["GET /api/models/org/pipeline"]
    cached = locate("org/pipeline", offline=True).pipeline
    assert cached is not None
    assert [item.name for item in cached.components] == ["text_encoder", "unet", "vae"]


def test_the_folder_of_one_part_is_a_pipeline_of_it(tmp_path: Path) -> None:
    config = {"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.30.0"}
    files = locate(str(write(tmp_path, {"unet/config.json": json.dumps(config).encode()}) / "unet"))
    assert files.pipeline is not None
    assert (files.pipeline.trained, files.pipeline.denoiser.class_name) == ("unet", "UNet2DConditionModel")


@pytest.mark.parametrize(
    "index", [{"unet": "UNet2DConditionModel"}, {"unet": [1, 2]}, {"unet": ["diffusers"]}, {"unet": None}, {}]
)
def test_an_index_that_names_no_denoiser_is_refused_in_one_line(index: dict[str, Any], tmp_path: Path) -> None:
    files = {**FILES, "model_index.json": json.dumps(index).encode()}
    with pytest.raises(ModelUnavailableError, match="name the folder of text_encoder, unet or vae") as refused:
        locate(str(write(tmp_path, files)))
    assert "\n" not in str(refused.value)


@pytest.mark.skipif(importlib.util.find_spec("diffusers") is not None, reason="diffusers is installed")
def test_a_pipeline_says_which_package_it_needs(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="run `pip install diffusers`") as refused:
        inspector.inspect(str(write(tmp_path, FILES)), count_only=True)
    assert "\n" not in str(refused.value)

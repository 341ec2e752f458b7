"""Models of a pipeline count what their published files hold, and a LoRA what diffusers' own attaches."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

import inspector

diffusers: Any = pytest.importorskip("diffusers", reason="diffusers is an extra")

# The configurations of Stable Diffusion 1.5, where they differ from the classes' defaults.
UNET = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
    "sample_size": 64,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.6.0",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}
TEXT = {
    "model_type": "clip_text_model",
    "architectures": ["CLIPTextModel"],
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
}
SMALL = {
    **UNET,
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 32,
    "norm_num_groups": 8,
}


def write(folder: Path, unet: dict[str, Any], **others: list[str]) -> str:
    """Write a pipeline without weights."""
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        **others,
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    for name, config in {"unet": unet, "vae": VAE, "text_encoder": TEXT, **{part: {} for part in others}}.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
    return str(folder)


inspect = functools.partial(inspector.inspect, recipe={"batch_size": 2})


def test_the_models_of_stable_diffusion_count_what_is_published(tmp_path: Path) -> None:
    report = inspect(write(tmp_path, UNET), count_only=True)
    assert report.parameters.base == 859_520_964
    assert report.components is not None
    counts = {item.name: (item.parameters, item.bytes) for item in report.components}
    assert counts == {
        "unet": (859_520_964, 4 * 859_520_964),
        "vae": (83_653_863, 4 * 83_653_863),
        "text_encoder": (123_060_480, 4 * 123_060_480),
    }
    assert report.model.model_class == "UNet2DConditionModel"
    said = next(notice.message for notice in report.warnings if notice.code == "pipeline-parts")
    assert "P is its unet; beside it text_encoder 123,060,480, vae 83,653,863, 1,066,235,307 in all" in said


def test_a_lora_is_on_the_layers_of_diffusers_scripts_unless_others_are_named(tmp_path: Path) -> None:
    model = write(tmp_path, SMALL)
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config(SMALL)
    unet.requires_grad_(False)
    unet.add_adapter(peft.LoraConfig(r=4, target_modules=["to_k", "to_q", "to_v", "to_out.0"]))
    trained = sum(item.numel() for item in unet.parameters() if item.requires_grad)
    assert inspect(model, peft=inspector.LoraOptions(r=4), count_only=True).parameters.trainable == trained
    by_name = inspect(model, peft={"peft_type": "LORA", "r": 4, "target_modules": ["to_q"]}, count_only=True)
    assert 0 < by_name.parameters.trainable < trained


def test_a_step_of_a_denoiser_is_traced_on_latents_and_says_what_is_beside_it(tmp_path: Path) -> None:
    report = inspect(write(tmp_path, SMALL), peft=inspector.LoraOptions(r=4))
    assert report.training is not None
    assert [(item.name, item.shape) for item in report.training.inputs or ()] == [
        ("latents", (2, 4, 8, 8)),
        ("encoder_hidden_states", (2, 77, 32)),
    ]
    assert report.training.recipe.loop == "plain"
    assert report.training.recipe.seq_len is None
    assert sum(report.training.peak.breakdown.values()) == report.training.peak_allocated_bytes
    assert "the pipeline's text_encoder and vae" in [item.what for item in report.training.not_accounted]


def test_a_part_that_no_library_has_is_named_and_the_rest_is_counted(tmp_path: Path) -> None:
    report = inspect(write(tmp_path, SMALL, controlnet=["its.own.code", "Net"]), count_only=True)
    assert report.components is not None
    reasons = {item.name: item.reason for item in report.components}
    assert reasons["unet"] is None
    assert reasons["controlnet"] is not None
    assert "which is not run" in reasons["controlnet"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_class": "CLIPTextModel"}, "`model_class` is for models of transformers"),
        ({"quantization": "nf4"}, "`quantization` is for models of transformers"),
    ],
)
def test_what_is_of_transformers_alone_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(inspector.UsageError, match=message):
        inspect(write(tmp_path, SMALL), count_only=True, **options)


def test_flux_has_a_lora_on_its_joint_attention_and_a_step_on_packed_latents(tmp_path: Path) -> None:
    sizes = {"num_layers": 2, "num_single_layers": 3, "attention_head_dim": 16, "num_attention_heads": 2}
    config = {"_class_name": "FluxTransformer2DModel", "_diffusers_version": "0.30.0", **sizes}
    config |= {"joint_attention_dim": 32, "pooled_projection_dim": 32, "in_channels": 4, "axes_dims_rope": [4, 4, 8]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    recipe = inspector.Recipe(image_size="128x64")
    report = inspector.inspect(str(tmp_path), peft=inspector.LoraOptions(r=4), recipe=recipe)
    with torch.device("meta"):
        real = diffusers.FluxTransformer2DModel.from_config(config)
    assert report.parameters.base == sum(item.numel() for item in real.parameters())
    assert report.adapter is not None
    assert report.adapter.targets is not None
    # Twelve layers of each double block, and four of each single one.
    assert report.adapter.targets.matched_count == 2 * 12 + 3 * 3
    assert report.training is not None
    assert [(item.name, item.shape) for item in report.training.inputs or ()][:2] == [
        ("latents", (1, 1, 8, 16)),
        ("encoder_hidden_states", (1, 512, 32)),
    ]
    odd = inspector.inspect(str(tmp_path), recipe=inspector.Recipe(image_size="72x64"))
    assert odd.training is None
    assert any("`image_size` in steps of 16" in item.message for item in odd.warnings)


def test_a_denoiser_whose_step_is_not_known_is_counted_and_says_so(tmp_path: Path) -> None:
    config = {"_class_name": "AuraFlowTransformer2DModel", "_diffusers_version": "0.30.0", "num_mmdit_layers": 1}
    config |= {"num_single_dit_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    report = inspector.inspect(str(tmp_path))
    with torch.device("meta"):
        real = diffusers.AuraFlowTransformer2DModel.from_config(config)
    assert report.parameters.base == sum(item.numel() for item in real.parameters())
    assert report.training is None
    assert any("AuraFlowTransformer2DModel of diffusers is not known here" in item.message for item in report.warnings)


def test_another_attention_is_refused(tmp_path: Path) -> None:
    with pytest.raises(inspector.UsageError, match="runs sdpa"):
        inspector.inspect(write(tmp_path, SMALL), recipe={"attention": "eager"})

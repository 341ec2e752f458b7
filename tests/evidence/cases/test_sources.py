"""Folders and configurations of public reports, written anew and small: what they are, with the right figures.

The reports: huggingface.js #2003 and mlx-lm #907 (a quantization inside text_config), compressed-tensors #163
(compression_config), hub-docs #2704 (MLX), transformers #34743 (dtype of the checkpoint), #25282 (timm), diffusers
#8833, model2vec #123, and GGUF repositories whose config.json has the family alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import inspector
from inspector.records.report import Report
from tests.cli.running import assert_refused, run
from tests.source.weight_files import weight_file

# 188,992 parameters: tables 2 · 320 · 64, four layers of attention 12,288 + MLP 24,576 + norms 128, a norm of 64.
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
PARAMETERS = 188_992
INT4_GROUPS = {
    "targets": ["Linear"],
    "weights": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32},
}
COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {"group_0": INT4_GROUPS},
}
MLX = {"group_size": 64, "bits": 4}


def list_tensors(dtype: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return name, dtype and shape of every tensor of the model."""
    hidden, inner, keys, words = 64, 128, 32, 320
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (words, hidden)}
    for layer in range(4):
        own = f"model.layers.{layer}."
        found |= {f"{own}{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
        found |= {f"{own}self_attn.{name}_proj.weight": (hidden, hidden) for name in "qo"}
        found |= {f"{own}self_attn.{name}_proj.weight": (keys, hidden) for name in "kv"}
        found |= {f"{own}mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")}
        found |= {f"{own}mlp.down_proj.weight": (hidden, inner)}
    found |= {"model.norm.weight": (hidden,), "lm_head.weight": (words, hidden)}
    return {name: (dtype, shape) for name, shape in found.items()}


def pack(tensors: dict[str, tuple[str, tuple[int, ...]]]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the tensors as MLX stores them in 4 bits: eight in each integer, scales and biases for groups of 64."""
    packed: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, (dtype, shape) in tensors.items():
        if not name.endswith("_proj.weight"):
            packed[name] = (dtype, shape)
            continue
        packed[name] = ("I32", (shape[0], shape[1] // 8))
        packed |= {name.replace("weight", part): (dtype, (shape[0], shape[1] // 64)) for part in ("scales", "biases")}
    return packed


def write_folder(folder: Path, config: dict[str, Any], tensors: dict[str, Any] | None = None) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if tensors is not None:
        (folder / "model.safetensors").write_bytes(weight_file(tensors))
    return str(folder)


def find_codes(report: Report) -> list[str]:
    return [notice.code for notice in report.warnings]


# --- quantization -----------------------------------------------------------------------------------------------------


def test_a_quantization_inside_text_config_is_that_of_the_model(tmp_path: Path) -> None:
    """Transformers reads it there too (`get_hf_quantizer`): 155,648 weights of 28 modules are packed into 4 bits."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    text = {"model_type": "gemma3_text", "vocab_size": 320, "num_key_value_heads": 2, "head_dim": 16, **sizes}
    vision = {"model_type": "siglip_vision_model", "image_size": 28, "patch_size": 14, **sizes}
    token_ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "torch_dtype": "bfloat16",
        "mm_tokens_per_image": 4,
        "image_token_index": 319,
        "text_config": {**text, **token_ids, "quantization_config": COMPRESSED},
        "vision_config": vision,
    }
    nested = inspector.inspect(write_folder(tmp_path / "nested", config), count_only=True)
    beside = {**config, "text_config": {**text, **token_ids}, "quantization_config": COMPRESSED}
    top = inspector.inspect(write_folder(tmp_path / "top", beside), count_only=True)
    assert nested.quantization is not None
    assert nested.quantization == top.quantization
    assert (nested.quantization.parameters, nested.quantization.modules_count) == (155_648, 28)
    assert nested.quantization.weight_bytes == 155_648 // 2
    assert "quantized-checkpoint" in find_codes(nested)


def test_a_compression_config_is_ignored_as_transformers_ignores_it_and_that_is_said(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", {**LLAMA, "compression_config": COMPRESSED})
    report = inspector.inspect(folder, count_only=True)
    assert (report.parameters.base, report.quantization) == (PARAMETERS, None)
    assert find_codes(report) == ["quantization-ignored"]


@pytest.mark.parametrize("declared", [{"quantization": MLX, "quantization_config": MLX}, {"quantization": MLX}])
def test_an_mlx_checkpoint_is_called_so_and_said_not_to_load(declared: dict[str, Any], tmp_path: Path) -> None:
    """Both forms: transformers finds no method in the new one, and other sizes in the old one."""
    folder = write_folder(tmp_path / "model", {**LLAMA, **declared}, pack(list_tensors("BF16")))
    report = inspector.inspect(folder, count_only=True)
    assert report.parameters.base == PARAMETERS
    assert report.quantization is not None
    assert report.quantization.method == "mlx"
    assert find_codes(report) == ["does-not-load", "checkpoint-not-compared"]
    assert "packed for MLX" in report.warnings[0].message
    # Bytes that depend on the format are not known, and none are made up.
    assert report.quantization.loaded_bytes is None


def test_an_mlx_checkpoint_is_not_quantized_again(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", {**LLAMA, "quantization": MLX})
    assert_refused(run(folder, "--quantization", "nf4", "--count-only"), 2, "quantized already (mlx)")


# --- the dtype --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "dtype"), [("BF16", torch.bfloat16), ("F16", torch.float16), ("F32", torch.float32)]
)
def test_a_folder_without_a_dtype_is_counted_in_that_of_its_weights(
    stored: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """As from_pretrained loads it, by default and with "auto"."""
    config = {key: value for key, value in LLAMA.items() if key != "torch_dtype"}
    folder = write_folder(tmp_path / "model", config, list_tensors(stored))
    report = inspector.inspect(folder)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert loaded.dtype == dtype
    assert f"torch.{report.model.dtype}" == str(dtype)
    assert sum(report.parameters.dtypes.values()) == PARAMETERS * dtype.itemsize
    assert "dtype-assumed" not in find_codes(report)


def test_the_first_weight_of_a_file_decides_as_in_transformers(tmp_path: Path) -> None:
    """The first by its name, of any dtype: a head in float32 makes a model of it, a norm does not."""
    config = {key: value for key, value in LLAMA.items() if key != "torch_dtype"}
    for name, dtype in (("lm_head.weight", torch.float32), ("model.norm.weight", torch.bfloat16)):
        tensors = list_tensors("BF16")
        first = {name: ("F32", tensors.pop(name)[1])}
        folder = write_folder(tmp_path / name, config, {**first, **tensors})
        assert transformers.AutoModelForCausalLM.from_pretrained(folder).dtype == dtype
        assert f"torch.{inspector.inspect(folder, count_only=True).model.dtype}" == str(dtype)


# --- files of others --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            {"model_type": "model2vec", "architectures": ["StaticModel"], "hidden_dim": 256},
            "static embeddings of model2vec, a table without a model",
        ),
    ],
)
def test_a_configuration_of_another_library_is_called_so(config: dict[str, Any], says: str, tmp_path: Path) -> None:
    ran = run(write_folder(tmp_path / "model", config))
    assert_refused(ran, 4, says)
    assert "did you mean" not in ran.err


def test_a_pipeline_of_diffusers_says_which_of_its_parts_is_a_model(tmp_path: Path) -> None:
    """Its text encoder is one, and works when it is named."""
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}', encoding="utf-8")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    encoder = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "vocab_size": 320, **sizes}
    part = write_folder(tmp_path / "text_encoder", encoder)
    assert_refused(run(str(tmp_path)), 3, "pipeline of diffusers (model_index.json)")
    assert "name the folder of text_encoder" in run(str(tmp_path)).err
    assert inspector.inspect(part, count_only=True).model.model_class == "CLIPTextModel"


def test_a_folder_in_mistrals_own_format_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text('{"dim": 64, "n_layers": 4, "vocab_size": 320}', encoding="utf-8")
    (tmp_path / "consolidated.safetensors").write_bytes(weight_file(list_tensors("BF16")))
    assert_refused(run(str(tmp_path)), 3, "in Mistral's own format")


def test_a_folder_of_gguf_files_says_to_name_the_original(tmp_path: Path) -> None:
    (tmp_path / "model-q4_k_m.gguf").write_bytes(b"GGUF")
    assert_refused(run(str(tmp_path)), 3, "name the repository of the original model")


# --- what was saved here ----------------------------------------------------------------------------------------------


def test_a_saved_report_given_as_a_model_says_what_it_is(tmp_path: Path) -> None:
    """So does a plan, a comparison or a measurement; the model of a report is named."""
    saved = tmp_path / "report.json"
    assert run("Qwen/Qwen2.5-0.5B", "--offline", "--count-only", "--output", str(saved)).code == 0
    ran = run(str(saved))
    assert_refused(ran, 2, "is a saved report (schema inspector/1), not a model; give it to inspect compare")
    assert "'Qwen/Qwen2.5-0.5B'" in ran.err
    saved.write_text(json.dumps({"schema": "inspector-plan/1", "model": "Qwen/Qwen2.5-7B", "rows": []}))
    assert_refused(run(str(saved)), 2, "is a saved plan (schema inspector-plan/1), not a model; read it")

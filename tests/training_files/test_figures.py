"""One QLoRA in the files of three frameworks: the peak of each is that of its framework and its version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import inspector
from inspector.planning.changes import apply_change
from inspector.planning.headroom import list_increases
from inspector.planning.ladder import list_groups
from inspector.records.request import AdapterDtype, LoraOptions, Request
from inspector.resolve import resolve_run
from inspector.training_files.merge import build_request

from .documents import write

MODEL = "Qwen/Qwen2.5-7B"
TRL: dict[str, Any] = {
    "model_name_or_path": MODEL,
    "dtype": "bfloat16",
    "use_peft": True,
    "load_in_4bit": True,
    "use_bnb_nested_quant": True,
    "lora_r": 16,
    "lora_dropout": 0.0,
    "lora_target_modules": "all-linear",
    "per_device_train_batch_size": 1,
    "max_length": 2048,
    "bf16": True,
    "gradient_checkpointing": True,
}
LLAMAFACTORY: dict[str, Any] = {
    "model_name_or_path": MODEL,
    "stage": "sft",
    "finetuning_type": "lora",
    "lora_rank": 16,
    "lora_target": "all",
    "quantization_bit": 4,
    "cutoff_len": 2048,
    "per_device_train_batch_size": 1,
    "bf16": True,
}
AXOLOTL: dict[str, Any] = {
    "base_model": MODEL,
    "adapter": "qlora",
    "load_in_4bit": True,
    "lora_r": 16,
    "lora_alpha": 16,
    "lora_target_linear": True,
    "sequence_len": 2048,
    "micro_batch_size": 1,
    "gradient_checkpointing": True,
}


@pytest.mark.parametrize(
    ("fields", "framework", "peak"),
    [
        (TRL, "trl==1.16", 6_893_551_104),
        (TRL, "trl==1.6", 9_998_080_512),
        (TRL, "trl==0.25", 13_929_559_552),
        (LLAMAFACTORY, "llamafactory==0.9.5", 10_244_831_744),
        (AXOLOTL, "axolotl==0.21", 10_247_121_408),
        (AXOLOTL | {"lora_mlp_kernel": False}, "axolotl==0.21", 10_245_257_728),
    ],
    ids=["TRL 1.16", "TRL 1.6", "TRL 0.25", "LLaMA-Factory 0.9.5", "axolotl 0.21", "axolotl without its kernels"],
)
def test_a_qlora_takes_what_its_framework_makes_of_it(
    fields: dict[str, Any], framework: str, peak: int, tmp_path: Path
) -> None:
    path = write(tmp_path, fields)
    report = inspector.inspect(path, framework=framework, offline=True, advice=False)
    assert report.memory is not None
    assert report.memory.peak_allocated_bytes == peak


def request_of(tmp_path: Path, fields: dict[str, Any], framework: str) -> Request:
    """Return the request of a file."""
    path = write(tmp_path, fields)
    return build_request({"model": path}, frozenset(), framework=framework)


def test_an_adapter_of_trl_follows_the_weights_that_a_change_packs_or_unpacks(tmp_path: Path) -> None:
    packed = request_of(tmp_path, TRL, "trl==1.16")
    unpacked = apply_change(packed, {"quantization": None, "double_quant": None})
    assert (packed.adapter_dtype, unpacked.adapter_dtype) == (AdapterDtype.BFLOAT16, AdapterDtype.AUTO)
    assert apply_change(unpacked, {"quantization": "nf4"}).adapter_dtype == AdapterDtype.BFLOAT16


@pytest.mark.parametrize(
    ("fields", "framework"),
    [(TRL | {"load_in_4bit": False, "use_bnb_nested_quant": False}, "trl==1.16"), (AXOLOTL, "axolotl==0.21")],
    ids=["trl", "axolotl"],
)
def test_nothing_is_offered_that_no_field_of_the_file_says(
    fields: dict[str, Any], framework: str, tmp_path: Path
) -> None:
    request = request_of(tmp_path, fields, framework)
    run = resolve_run(request, None, {})
    rungs = [rung for group in list_groups(run, accumulates=True) for rung in group.rungs]
    changed = [*(apply_change(request, rung.change) for rung in rungs), *(to for _, to in list_increases(run))]
    assert changed
    assert all(other.autocast_adapter_dtype for other in changed)


def test_the_kernels_of_axolotl_follow_the_adapter_that_a_change_adds_or_packs(tmp_path: Path) -> None:
    packed = request_of(tmp_path, AXOLOTL, "axolotl==0.21")
    assert packed.recipe.lora_kernels == ("mlp", "qkv", "o")
    assert apply_change(packed, {"quantization": "int8", "double_quant": None}).recipe.lora_kernels is None
    full = request_of(tmp_path, {"base_model": MODEL}, "axolotl==0.21")
    assert full.recipe.lora_kernels is None
    assert apply_change(full, {"peft": LoraOptions(r=16)}).recipe.lora_kernels == ("mlp", "qkv", "o")
    named = request_of(tmp_path, AXOLOTL | {"lora_qkv_kernel": True}, "axolotl==0.21")
    assert apply_change(named, {"peft": LoraOptions(r=8)}).recipe.lora_kernels == ("qkv",)

"""What trainers do to a quantized base and its adapter; the peaks are held by tests/training_files/test_figures.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import inspector
from inspector.errors import InspectorError
from inspector.hardware.platform import Platform
from inspector.model.build import build_whole, count_model
from inspector.records.recipe import Recipe
from inspector.records.request import Request
from inspector.records.source import ServedFrom, SourceFiles
from inspector.records.tape import EventKind, Phase
from inspector.resolve import resolve_run
from inspector.source import catalogue
from inspector.workloads.base import base_model
from inspector.workloads.batch import Input, make_batch_inputs
from inspector.workloads.registry import TRAINING, load_workload
from inspector.workloads.run import trace_run

QWEN = "Qwen/Qwen2.5-7B"
TRL: dict[str, Any] = {"preparation": "none", "adapter_dtype": "bfloat16"}
LLAMAFACTORY: dict[str, Any] = {"preparation": "none", "adapter_dtype": "float32"}
AXOLOTL: dict[str, Any] = {"preparation": "axolotl"}


def small(**settings: Any) -> tuple[Request, SourceFiles]:
    """Return a request for a small model with packed weights and LoRA, and its files."""
    files = catalogue.load_model(QWEN)
    assert files is not None
    config = {**files.config, "num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 128}
    config |= {"vocab_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "max_window_layers": 1}
    lora = {"peft_type": "LORA", "target_modules": "all-linear", "use_dora": True, "modules_to_save": ["lm_head"]}
    settings = {"quantization": "nf4", "peft": lora, **settings}
    return Request(model="small", **settings), SourceFiles(id="small", served_from=ServedFrom.LOCAL, config=config)


def dtypes(part: str, **settings: Any) -> set[torch.dtype]:
    """Return the dtypes of the parameters whose names hold a part."""
    model = build_whole(*small(**settings)).model
    found = {parameter.dtype for name, parameter in model.named_parameters() if part in name}
    assert found
    return found


@pytest.mark.parametrize(
    ("settings", "norm", "embedding", "bias", "adapter", "copy"),
    [
        ({}, *[torch.float32] * 5),
        (TRL, *[torch.bfloat16] * 5),
        (LLAMAFACTORY, *[torch.bfloat16] * 3, *[torch.float32] * 2),
        ({"preparation": "none"}, *[torch.bfloat16] * 3, torch.float32, torch.bfloat16),
        (AXOLOTL, *[torch.bfloat16] * 2, torch.float32, torch.float32, torch.bfloat16),
    ],
    ids=["peft", "trl", "llamafactory", "none", "axolotl"],
)
def test_each_preparation_leaves_norms_embeddings_biases_and_what_trains_in_its_dtypes(
    settings: dict[str, Any],
    norm: torch.dtype,
    embedding: torch.dtype,
    bias: torch.dtype,
    adapter: torch.dtype,
    copy: torch.dtype,
) -> None:
    assert dtypes("norm.weight", **settings) == {norm}
    assert dtypes("embed_tokens", **settings) == {embedding}
    assert dtypes("q_proj.base_layer.bias", **settings) == {bias}
    assert dtypes("lora_A", **settings) == {adapter}
    assert dtypes("lm_head.modules_to_save", **settings) == {copy}
    assert dtypes("lora_magnitude_vector", **settings) == {torch.float32}


def test_the_cache_is_emptied_where_a_preparation_empties_it() -> None:
    emptied = {}
    for name, settings in (("peft", {}), ("none", TRL), ("axolotl", AXOLOTL)):
        built = build_whole(*small(**settings))
        workload = load_workload(TRAINING)
        recipe = workload.resolve(built.model, Recipe(seq_len=8))
        tape = trace_run(workload, built, recipe, Platform(torch_version=(2, 13)), until=Phase.FORWARD)
        emptied[name] = sum(event.kind is EventKind.EMPTY_CACHE for event in tape)
    # Trainer empties it once more before its first step.
    assert emptied == {"peft": 1 + 1, "none": 0 + 1, "axolotl": 2 + 1}


def test_axolotl_lets_inputs_require_gradients_without_checkpointing_too() -> None:
    for settings, asks in ((TRL, False), (AXOLOTL, True)):
        model: Any = build_whole(*small(**settings)).model
        ids = torch.zeros((1, 4), dtype=torch.int64, device="meta")
        assert model.get_base_model().get_input_embeddings()(ids).requires_grad is asks


def test_packed_weights_that_peft_does_not_prepare_are_not_checkpointed_by_themselves() -> None:
    for settings, is_on in (({}, True), (TRL, False), (AXOLOTL, False)):
        request = small(**settings)[0]
        assert resolve_run(request, None, {}).recipe.gradient_checkpointing is is_on


def test_a_report_says_what_happens_to_packed_weights_and_to_the_adapter() -> None:
    request, files = small(**TRL)
    counted, _ = count_model(request, files)
    assert counted.quantization is not None
    assert counted.adapter is not None
    assert (counted.quantization.preparation, counted.adapter.dtype) == ("none", "bfloat16")


@pytest.mark.parametrize("settings", [{"adapter_dtype": "bfloat16"}, {"preparation": "none"}])
def test_what_is_about_an_adapter_is_refused_without_one(settings: dict[str, Any]) -> None:
    with pytest.raises(InspectorError, match="is about an adapter, and there is none"):
        inspector.inspect("Qwen/Qwen2.5-0.5B", offline=True, count_only=True, **settings)


def test_a_batch_may_have_a_mask_although_nothing_is_padded() -> None:
    model = base_model(build_whole(*small()).model)
    masks = [
        make_batch_inputs(model, Recipe(seq_len=8, padding=padding, attention_mask=mask)).get("attention_mask")
        for padding, mask in ((False, None), (False, True), (True, None), (True, True))
    ]
    assert masks[0] is None
    assert [item.last for item in masks[1:] if isinstance(item, Input)] == [None, 0, 0]

"""The size of the adapter file on meta equals that of the file which PEFT really writes, for every method of PEFT."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

import inspector
from tests.model.tiny import llama

# What a method needs beside its defaults to attach to the tiny model.
FIELDS: dict[str, dict[str, Any]] = {
    "ADALORA": {"total_step": 10},
    "ADAPTION_PROMPT": {"adapter_len": 2, "adapter_layers": 2},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 4},
    "CPT": {"cpt_token_ids": [0, 1], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 1]},
    "CARTRIDGE": {"num_virtual_tokens": 3},
    "FOURIERFT": {"n_frequency": 8},
    "LILY": {"r": 2},
    "LOKR": {"r": 2},
    "MISS": {"r": 4},
    "MULTITASK_PROMPT_TUNING": {"num_virtual_tokens": 3},
    "OFT": {"oft_block_size": 4},
    "PREFIX_TUNING": {"num_virtual_tokens": 3},
    "PROMPT_TUNING": {"num_virtual_tokens": 3},
    "P_TUNING": {"num_virtual_tokens": 3},
    "PSOFT": {"r": 4},
    "RANDLORA": {"r": 4},
    "ROAD": {"group_size": 4},
    "SHIRA": {"r": 2},
    "TRAINABLE_TOKENS": {"token_indices": [1, 5]},
    "VBLORA": {"vector_length": 4, "num_vectors": 8, "topk": 2, "r": 2},
    "WAVEFT": {"n_frequency": 8},
}
# ADAMSS needs scikit-learn, XLORA adapters that exist.
NOT_BY_SHAPE = {"ADAMSS", "XLORA"}
METHODS = sorted({method.value for method in PEFT_TYPE_TO_CONFIG_MAPPING} - NOT_BY_SHAPE)


def attach_for_real(fields: dict[str, Any], *, autocast: bool = True, **changes: Any) -> peft.PeftModel:
    """Attach an adapter to a tiny model with real weights, the way a user does."""
    config = llama(**changes)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft_config = peft.PeftConfig.from_peft_type(**{"task_type": "CAUSAL_LM", **fields})
        attached = peft.get_peft_model(model, peft_config, autocast_adapter_dtype=autocast)
    assert isinstance(attached, peft.PeftModel)
    return attached


def assert_same_as_real(fields: dict[str, Any], folder: Path, *, autocast: bool = True, **changes: Any) -> None:
    """Compare every count of an adapter on meta with the adapter attached to real weights and saved to disk."""
    real = attach_for_real(fields, autocast=autocast, **changes)
    report = inspector.inspect(llama(**changes), peft=fields, autocast_adapter_dtype=autocast, count_only=True)
    assert (report.parameters.trainable, report.parameters.total) == real.get_nb_trainable_parameters()
    sizes: dict[str, int] = {}
    for parameter in filter(lambda each: each.requires_grad, real.parameters()):
        name = str(parameter.dtype).removeprefix("torch.")
        sizes[name] = sizes.get(name, 0) + parameter.numel() * parameter.element_size()
    assert report.parameters.trainable_dtypes == sizes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        real.save_pretrained(str(folder))
    assert report.adapter is not None
    assert report.adapter.file_bytes == (folder / "adapter_model.safetensors").stat().st_size


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.one_of(2)
def test_every_method_of_peft_is_counted_and_sized_as_peft_does_it_with_real_weights(
    method: str, tmp_path: Path
) -> None:
    assert_same_as_real({"peft_type": method, **FIELDS.get(method, {})}, tmp_path)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.one_of(3)
def test_every_method_is_sized_in_the_dtype_of_its_base_without_autocast_of_the_adapter_dtype(
    method: str, tmp_path: Path
) -> None:
    """`autocast_adapter_dtype=False` of `get_peft_model`."""
    assert_same_as_real({"peft_type": method, **FIELDS.get(method, {})}, tmp_path, autocast=False)


@pytest.mark.parametrize(
    "fields",
    [
        {"use_dora": True},
        {"target_modules": ["embed_tokens", "q_proj"], "modules_to_save": ["lm_head"]},
        {"bias": "all", "target_modules": "all-linear"},
        {"target_modules": ["q_proj"], "trainable_token_indices": [1, 2]},
    ],
    ids=lambda fields: " ".join(fields),
)
def test_variants_of_lora_are_sized_in_the_dtype_of_their_base(fields: dict[str, Any], tmp_path: Path) -> None:
    assert_same_as_real({"peft_type": "LORA", "r": 4, **fields}, tmp_path, autocast=False)


@pytest.mark.parametrize(
    "fields",
    [
        {"use_dora": True},
        {"use_rslora": True},
        {"bias": "all", "target_modules": "all-linear"},
        {"bias": "lora_only"},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
        {"target_modules": r"model\.layers\.[01]\.mlp\..*_proj"},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["q_proj"], "layers_to_transform": [1]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [1, 2]},
        {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"q_proj": 5}},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "orthogonal"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "pissa"},
        {"target_modules": ["q_proj"], "layer_replication": [[0, 2], [1, 3]]},
        {"target_modules": ["q_proj"], "modules_to_save": ["mlp", "gate_proj"]},
    ],
    ids=lambda fields: " ".join(f"{name}={value}" for name, value in fields.items()),
)
def test_variants_of_lora_are_counted_and_sized_as_with_real_weights(fields: dict[str, Any], tmp_path: Path) -> None:
    assert_same_as_real({"peft_type": "LORA", "r": 4, **fields}, tmp_path)


@pytest.mark.parametrize("tying", [False, True], ids=["apart", "together"])
@pytest.mark.parametrize("saved", [["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head"]], ids="+".join)
def test_saving_a_tied_embedding_is_counted_and_sized_as_with_real_weights(
    saved: list[str], tying: bool, tmp_path: Path
) -> None:
    fields = {"peft_type": "LORA", "target_modules": ["q_proj"], "modules_to_save": saved, "ensure_weight_tying": tying}
    assert_same_as_real(fields, tmp_path, tie_word_embeddings=True)


def test_sizing_the_file_asks_the_hub_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config.json that was saved from a Hub model names it, and PEFT would ask for its vocabulary."""
    asked: list[object] = []
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda *names: asked.append(names))
    fields = {**llama().to_dict(), "_name_or_path": "org/base"}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    peft = {"peft_type": "LORA", "target_modules": ["q_proj"]}
    report = inspector.inspect(tmp_path, peft=peft, count_only=True, offline=True)
    assert report.adapter is not None
    assert report.adapter.file_bytes
    assert asked == []


def test_an_adapter_made_without_a_task_saves_no_classifier() -> None:
    config = llama(architectures=["LlamaForSequenceClassification"])
    fields = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}
    # r * (in + out) of q in 3 layers; the classifier has 2 labels of 16
    without = inspector.inspect(config, peft={**fields, "task_type": None}, count_only=True)
    assert without.parameters.trainable == 3 * 4 * 32
    assert inspector.inspect(config, peft=fields, count_only=True).parameters.trainable == 3 * 4 * 32 + 2 * 16


def test_clusters_of_rows_are_counted_where_their_ranks_are_one_and_their_file_is_not_guessed() -> None:
    fields = {"peft_type": "ADAMSS", "target_modules": ["q_proj"], "num_subspaces": 5, "r": 8}
    report = inspector.inspect(llama(), peft=fields)
    # 5 clusters of a 16 x 16 weight: a [1, 8] each, and a column for each of 16 rows, in 3 layers
    assert report.parameters.trainable == 3 * (5 * 8 + 16)
    assert report.adapter is not None
    assert "file_bytes" not in report.to_dict()["adapter"]
    assert "even-clusters" in {notice.code for notice in report.warnings}
    assert report.training is not None


def test_clusters_whose_ranks_follow_values_are_refused_with_their_range() -> None:
    # as above at least; at most each cluster has 2 rows of [8] and each of 16 rows 2 columns
    fields = {"peft_type": "ADAMSS", "target_modules": ["q_proj"], "num_subspaces": 5, "r": 8, "subspace_rank": 2}
    with pytest.raises(inspector.UnsupportedModelError, match="between 168 and 336 parameters") as refused:
        inspector.inspect(llama(), peft=fields)
    assert "subspace_rank = 1" in str(refused.value)


def test_counting_leaves_the_random_state_of_the_process_alone() -> None:
    before = torch.get_rng_state()
    inspector.inspect(llama(), peft={"peft_type": "MULTITASK_PROMPT_TUNING", "num_virtual_tokens": 3})
    assert torch.equal(before, torch.get_rng_state())

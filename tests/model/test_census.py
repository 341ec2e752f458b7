"""Counts of tiny models against arithmetic, and the laws that hold for every census."""

from __future__ import annotations

import copy
import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
import transformers

import inspector
from inspector.model.skeleton import build_skeleton
from inspector.records.model import Census, Role
from inspector.records.source import ServedFrom
from tests.model.tiny import LLAMA_LAYER, LLAMA_TIED, LLAMA_UNTIED, llama, mixtral

LORA = {"peft_type": "LORA", "r": 4, "target_modules": "all-linear"}
# r * (in + out): q 32, k and v 24 each, o 32, gate, up and down 48 each.
LORA_LAYER = 4 * (32 + 24 + 24 + 32 + 3 * 48)


def count(model: Any, **settings: Any) -> inspector.Report:
    """Return what is counted of a model, without a step of it."""
    return inspector.inspect(model, count_only=True, **settings)


def test_an_untied_model_counts_embedding_and_head() -> None:
    census = count(llama()).parameters
    assert census.base == LLAMA_UNTIED
    assert census.groups == {
        Role.EMBEDDING: 1_024,
        Role.ATTENTION: 3 * 768,
        Role.MLP: 3 * 1_536,
        Role.NORM: 3 * 32 + 16,
        Role.LM_HEAD: 1_024,
    }
    assert census.tied == ()


def test_a_tied_model_counts_the_shared_weight_once_and_names_both() -> None:
    census = count(llama(tie_word_embeddings=True)).parameters
    assert census.base == LLAMA_TIED
    assert Role.LM_HEAD not in census.groups
    assert census.tied == (("model.embed_tokens.weight", "lm_head.weight"),)


def test_without_an_adapter_everything_trains() -> None:
    census = count(llama()).parameters
    assert census.trainable == census.total == census.base
    assert census.frozen == 0
    assert census.trainable_dtypes == census.dtypes == {"bfloat16": 2 * LLAMA_UNTIED}


def test_a_lora_adapter_adds_r_times_the_sum_of_both_sides_in_float32() -> None:
    census = count(llama(), peft=LORA).parameters
    assert census.base == LLAMA_UNTIED
    assert census.trainable == 3 * LORA_LAYER
    assert census.total == LLAMA_UNTIED + 3 * LORA_LAYER
    assert census.groups[Role.ADAPTER] == 3 * LORA_LAYER
    assert census.dtypes == {"bfloat16": 2 * LLAMA_UNTIED, "float32": 4 * 3 * LORA_LAYER}


def test_a_saved_module_is_a_copy_beside_the_frozen_original() -> None:
    census = count(llama(), peft={**LORA, "modules_to_save": ["lm_head"]}).parameters
    assert census.groups[Role.SAVED_COPIES] == 1_024
    assert census.groups[Role.LM_HEAD] == 1_024
    assert census.trainable == 3 * LORA_LAYER + 1_024


def test_one_token_of_an_expert_model_uses_k_of_e_experts() -> None:
    census = count(mixtral()).parameters
    experts = 2 * 4 * (64 * 16 + 16 * 32)
    assert census.groups[Role.EXPERTS] == experts
    assert census.active == census.base - experts // 2


def test_slices_for_experts_that_compute_nothing_are_not_active() -> None:
    # LongCat fuses gate and up for 4 experts and 2 that compute nothing, [6, 32, 16], and down for the 4, [4, 16, 16]:
    # a token's 2 experts are 2 * (32*16 + 16*16)
    config = transformers.LongcatFlashConfig(
        architectures=["LongcatFlashForCausalLM"],
        hidden_size=16,
        num_layers=1,
        num_attention_heads=4,
        ffn_hidden_size=32,
        expert_ffn_hidden_size=16,
        vocab_size=64,
        n_routed_experts=4,
        zero_expert_num=2,
        moe_topk=2,
        q_lora_rank=8,
        kv_lora_rank=8,
        dtype="bfloat16",
    )
    census = count(config).parameters
    assert census.groups[Role.EXPERTS] == 6 * 32 * 16 + 4 * 16 * 16
    assert census.active == census.base - census.groups[Role.EXPERTS] + 2 * (32 * 16 + 16 * 16)


def test_the_output_projection_of_a_state_space_mixer_is_no_attention() -> None:
    config = transformers.MambaConfig(
        architectures=["MambaForCausalLM"], hidden_size=16, num_hidden_layers=2, vocab_size=64, dtype="bfloat16"
    )
    groups = count(config).parameters.groups
    assert set(groups) == {Role.EMBEDDING, Role.NORM, Role.OTHER}


def test_a_dense_model_has_no_active_count() -> None:
    assert "active" not in count(llama()).to_dict()["parameters"]


def test_dtypes_asked_for_replace_those_of_the_checkpoint() -> None:
    assert count(llama(), dtype="float32").parameters.dtypes == {"float32": 4 * LLAMA_UNTIED}


def test_parts_that_the_class_keeps_in_float32_are_counted_in_float32() -> None:
    # T5 keeps the output projection of each feed-forward block in float32 under float16: d_ff * d_model elements each.
    config = transformers.T5Config(
        architectures=["T5ForConditionalGeneration"],
        d_model=8,
        d_kv=4,
        d_ff=16,
        num_layers=2,
        num_heads=2,
        vocab_size=32,
    )
    census = count(config, dtype="float16").parameters
    assert census.dtypes["float32"] == 4 * (2 + 2) * 16 * 8
    assert set(count(config, dtype="bfloat16").parameters.dtypes) == {"bfloat16"}


def test_a_live_model_on_meta_is_counted_and_left_as_it_was() -> None:
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(llama())
    names = [name for name, _ in model.named_modules()]
    report = inspector.inspect(model, peft=peft.LoraConfig(r=4, target_modules="all-linear"))
    assert report.parameters.trainable == 3 * LORA_LAYER
    assert report.model.source is ServedFrom.LOCAL
    assert [name for name, _ in model.named_modules()] == names
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_live_peft_model_is_counted_with_its_base() -> None:
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(llama(tie_word_embeddings=True))
        attached = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj"]))
    report = inspector.inspect(attached)
    assert report.parameters.base == LLAMA_TIED
    assert report.parameters.trainable == 3 * 4 * 32
    assert report.adapter is not None
    assert report.adapter.type == "LORA"
    assert isinstance(
        attached.get_submodule("base_model.model.model.layers.0.self_attn.q_proj"), peft.tuners.lora.Linear
    )


@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"]),
        peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]),
        peft.AdaptionPromptConfig(adapter_len=2, adapter_layers=2),
        peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    ],
    ids=["one saved", "both saved", "adaption prompt", "prompt"],
)
def test_a_live_peft_model_has_the_counts_of_its_base_and_its_adapter(config: peft.PeftConfig) -> None:
    base = llama(tie_word_embeddings=True)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.LlamaForCausalLM._from_config(base)
        attached = peft.get_peft_model(model, copy.deepcopy(config), adapter_name="mine")
    modules = [name for name, _ in attached.named_modules()]
    live, parts = count(attached), count(base, peft=config)
    assert live.parameters.base == LLAMA_TIED
    assert live.parameters.groups == parts.parameters.groups
    assert live.parameters.trainable == parts.parameters.trainable
    assert live.adapter is not None
    assert parts.adapter is not None
    assert live.adapter.file_bytes == parts.adapter.file_bytes
    assert [notice.code for notice in live.warnings if notice.code != "not-traced"] == [
        notice.code for notice in parts.warnings
    ]
    assert [name for name, _ in attached.named_modules()] == modules


def test_a_notice_names_a_base_that_was_left_unfrozen() -> None:
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(llama())
        attached = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj"]))
    attached.get_parameter("base_model.model.lm_head.weight").requires_grad_(True)
    report = inspector.inspect(attached)
    assert [notice.code for notice in report.warnings] == ["base-unfrozen", "not-traced"]
    assert "1,024 parameters" in report.warnings[0].message


def test_full_fine_tuning_has_no_buffers_of_an_adapter() -> None:
    vera = inspector.inspect(llama(), peft={"peft_type": "VERA", "r": 2, "target_modules": ["q_proj"]})
    without = inspector.inspect(llama())
    assert vera.static is not None
    assert without.static is not None
    assert vera.static.full == without.static.full
    assert vera.static.adapter is not None
    # the shared projections, in float32: 2*16 and 16*2
    assert vera.static.adapter.buffers_bytes == without.static.full.buffers_bytes + 4 * 2 * 2 * 16


def test_a_dtype_that_is_none_is_a_usage_error() -> None:
    with pytest.raises(inspector.UsageError, match="`dtype` 'float' is not known; did you mean float32"):
        inspector.inspect(llama(), dtype="float")


def test_inspections_in_threads_leave_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each puts settings of the process back: one that came in between would keep what the other had set."""
    inside: list[int] = []
    met: list[int] = []

    def build_slowly(*arguments: Any) -> transformers.PreTrainedModel:
        inside.append(1)
        met.append(len(inside))
        time.sleep(0.1)
        inside.pop()
        return build_skeleton(*arguments)

    monkeypatch.setattr("inspector.model.build.build_skeleton", build_slowly)
    before = (sys.stdout, sys.stderr, logging.getLogger("transformers").level, torch.get_default_dtype())
    threads = [threading.Thread(target=inspector.inspect, args=(llama(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert met == [1] * 4
    assert (sys.stdout, sys.stderr, logging.getLogger("transformers").level, torch.get_default_dtype()) == before


def test_a_model_with_data_is_refused() -> None:
    with pytest.raises(inspector.UsageError, match="holds tensors on cpu"):
        inspector.inspect(transformers.LlamaForCausalLM(llama()))


def test_the_callers_configuration_objects_stay_as_they_were() -> None:
    config, adapter = llama(), peft.LoraConfig(r=4, target_modules="all-linear")
    before = (config.to_dict(), adapter.to_dict())
    inspector.inspect(config, peft=adapter)
    assert (config.to_dict(), adapter.to_dict()) == before


def assert_laws(census: Census) -> None:
    """Assert what must hold for every census: parts add up by every route."""
    assert sum(census.groups.values()) == census.total
    assert census.frozen + census.trainable == census.total
    assert census.tree[0].count == census.total
    assert census.tree[0].trainable == census.trainable
    assert census.tree[0].bytes == census.bytes == sum(census.dtypes.values())
    deepest = [
        row
        for row, after in zip(census.tree, (*census.tree[1:], None), strict=True)
        if after is None or after.depth <= row.depth
    ]
    assert sum(row.count for row in deepest) <= census.total


@pytest.mark.parametrize("make", [llama, mixtral], ids=["dense", "experts"])
@pytest.mark.parametrize(
    "fields",
    [
        None,
        LORA,
        {**LORA, "modules_to_save": ["lm_head"]},
        {"peft_type": "IA3"},
        {"peft_type": "LN_TUNING", "target_modules": ["input_layernorm"]},
        {"peft_type": "VERA", "r": 2, "target_modules": ["q_proj"]},
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3},
    ],
    ids=lambda fields: fields["peft_type"] if fields else "full",
)
def test_the_parts_of_every_census_add_up(
    make: Callable[..., transformers.PretrainedConfig], fields: dict[str, object] | None
) -> None:
    assert_laws(count(make(tie_word_embeddings=True), peft=fields, depth=9).parameters)


def test_the_tree_folds_equal_layers_and_children_of_a_row_add_up_to_the_row() -> None:
    tree = count(llama(), peft=LORA, depth=5).parameters.tree
    rows = {row.name: row for row in tree}
    layers = rows["model.layers.0-2"]
    assert layers.repeat == 3
    assert layers.count == 3 * (LLAMA_LAYER + LORA_LAYER)
    children = [row for row in tree if row.depth == 3 and row.name.startswith("model.layers.0-2.")]
    assert sum(row.count for row in children) == layers.count
    assert rows["model.layers.0-2.self_attn.q_proj"].type == "lora.Linear"
    assert rows["model.layers.0-2.self_attn.q_proj.lora_A.default"].trainable == 3 * 4 * 16


def test_layers_that_differ_are_not_folded_together() -> None:
    fields = {**LORA, "layers_to_transform": [1], "target_modules": ["q_proj"]}
    tree = count(llama(), peft=fields, depth=2).parameters.tree
    assert [row.name for row in tree if ".layers." in row.name] == ["model.layers.0,2", "model.layers.1"]


@pytest.mark.parametrize(
    "fields",
    [
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3},
        {"peft_type": "ADAPTION_PROMPT", "adapter_len": 2, "adapter_layers": 2},
        LORA,
    ],
    ids=lambda fields: fields["peft_type"],
)
def test_the_tree_names_modules_as_the_base_model_does(fields: dict[str, object]) -> None:
    tree = count(llama(tie_word_embeddings=True), peft=fields, depth=2).parameters.tree
    rows = {row.name: row for row in tree}
    assert {"model.embed_tokens", "model.norm"} <= set(rows)
    assert rows["lm_head"].shared_with == "model.embed_tokens.weight"


def test_a_tied_weight_counts_at_its_first_owner_and_the_second_owner_names_the_first() -> None:
    tree = count(llama(tie_word_embeddings=True), depth=1).parameters.tree
    head = next(row for row in tree if row.name == "lm_head")
    assert (head.count, head.shared_with) == (0, "model.embed_tokens.weight")


def test_what_the_class_itself_freezes_does_not_train() -> None:
    # Whisper's encoder does not train its sinusoidal positions: 1,500 of 16.
    config = transformers.WhisperConfig(
        architectures=["WhisperForConditionalGeneration"],
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        vocab_size=64,
        pad_token_id=0,
    )
    report = inspector.inspect(config)
    assert report.parameters.frozen == 1_500 * 16
    assert report.static is not None
    assert report.static.full.frozen_bytes == 4 * 1_500 * 16


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (transformers.WhisperConfig(), "WhisperForConditionalGeneration"),
        (transformers.BartConfig(), "BartForConditionalGeneration"),
        (transformers.CLIPConfig(), "CLIPModel"),
        (transformers.BertConfig(), "BertForMaskedLM"),
        (transformers.GPT2Config(), "GPT2LMHeadModel"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_config_that_names_no_class_builds_the_whole_model(config: transformers.PretrainedConfig, name: str) -> None:
    assert inspector.inspect(config, count_only=True).model.model_class == name

"""Adapters from public reports of other projects: counts that PEFT has on real weights, and what is said of them.

Each test is a kind of report; the source stands beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

import inspector
from inspector.compat.peft import converted_expert_names

from .real_peft import TINY_LLAMA, attach_for_real, inspect_adapter, tiny_llama, write_folder

# Sizes by the names that configurations of expert models have for them; each takes those that it knows.
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "num_experts": 4,
    "n_routed_experts": 4,
    "num_local_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "moe_topk": 2,
    "n_shared_experts": 1,
    "shared_expert_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "num_dense_layers": 1,
    "moe_layer_start_index": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Those of PEFT's mapping that are models of text alone, and have experts at these sizes.
CONVERTED = (
    *("afmoe", "cohere2_moe", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1", "ernie4_5_moe", "exaone_moe"),
    *("flex_olmo", "glm4_moe", "glm4_moe_lite", "glm_moe_dsa", "hunyuan_v1_moe", "longcat_flash", "mellum", "minimax"),
    *("minimax_m2", "mixtral", "olmoe", "qwen3_moe", "qwen3_next", "solar_open"),
)


def experts_model(model_type: str) -> transformers.PretrainedConfig:
    """Return a small configuration of a model with experts."""
    kind: Any = type(AutoConfig.for_model(model_type))
    known = kind()
    config = kind(**{name: value for name, value in SIZES.items() if hasattr(known, name)}, dtype="float32")
    found: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(kind, None) or MODEL_MAPPING.get(kind, None)
    config.architectures = [found.__name__]
    small: transformers.PretrainedConfig = config
    return small


@pytest.mark.parametrize("model_type", CONVERTED)
def test_names_of_experts_from_transformers_4_are_reported_as_the_parameters_that_peft_makes_of_them(
    model_type: str, tmp_path: Path
) -> None:
    """PEFT #3229, #3232, #3345; vllm #9008; every list of all seven projections on a Qwen3-MoE."""
    names = converted_expert_names(model_type)
    experts = [name for name, parameter in names.items() if parameter.endswith("_proj")]
    fields = {"peft_type": "LORA", "r": 4, "target_modules": experts}
    config = experts_model(model_type)
    real = attach_for_real(config, fields, tmp_path)
    counted, said = inspect_adapter(config, fields)
    assert counted == real
    assert "target-unmatched" not in said
    (message,) = said["target-converted"]
    assert "the parameter gate_up_proj with rank 8" in message
    assert all(f"'{name}'" in message for name in experts)


@pytest.mark.parametrize(
    ("targets", "trained"),
    [
        # q_proj and v_proj, 2 layers: 4 * (16 + 16) + 4 * (16 + 8); the router, 2 layers: 4 * (16 + 4)
        (["q_proj", "v_proj", "gate"], 448 + 160),
        # 4 experts, 2 layers: gate_up_proj with rank 8, 8 * (16 + 64); down_proj with rank 4, 4 * (32 + 16)
        (["w1", "w2", "w3"], 2 * 4 * (640 + 192)),
    ],
)
def test_a_public_mixtral_adapter_finds_its_router_and_its_experts(
    targets: list[str], trained: int, tmp_path: Path
) -> None:
    """A public adapter with w1, w2, w3 and gate: none of them is a typo of itself."""
    config = experts_model("mixtral")
    config.hidden_size, config.num_key_value_heads, config.head_dim = 16, 2, 4
    fields = {"peft_type": "LORA", "r": 4, "target_modules": targets}
    counted, said = inspect_adapter(config, fields)
    assert counted == attach_for_real(config, fields, tmp_path)
    assert counted.trained == trained
    assert not any("Did you mean" in message for messages in said.values() for message in messages)


def test_layers_that_lose_their_adapter_to_experts_of_the_same_name_are_named(tmp_path: Path) -> None:
    """DeepSeek-V3's dense layers and shared experts: PEFT takes their names for the routed experts alone."""
    fields = {"peft_type": "LORA", "r": 4, "target_modules": ["o_proj", "gate_proj", "up_proj", "down_proj"]}
    config = experts_model("deepseek_v3")
    counted, said = inspect_adapter(config, fields)
    assert counted == attach_for_real(config, fields, tmp_path)
    (message,) = said["converted-left-out"]
    assert "model.layers.0.mlp.gate_proj" in message
    assert "model.layers.1.mlp.shared_experts.down_proj (6 modules)" in message
    reached = {**fields, "target_parameters": ["layers.0.mlp.gate_proj.weight", "shared_experts.gate_proj.weight"]}
    assert "gate_proj," not in inspect_adapter(config, reached)[1]["converted-left-out"][0].partition(" get no")[0]
    everything = inspect_adapter(config, {**fields, "target_modules": "all-linear"})[1]
    assert "reaches them, as 'model.layers.0.mlp.gate_proj.weight'" in everything["linear-left-out"][0]


def test_a_name_of_experts_in_a_model_without_any_is_no_typo_of_itself() -> None:
    """Beam has none at these sizes, and PEFT takes the names of its linear layers for them all the same."""
    config = experts_model("beam")
    fields = {"peft_type": "LORA", "r": 4, "target_modules": ["o_proj", "gate_proj", "up_proj"]}
    _, said = inspect_adapter(config, fields)
    assert all("Did you mean" not in message for messages in said.values() for message in messages)
    assert "for the parameter gate_up_proj of experts, which this model does not have" in said["target-unmatched"][0]


def test_a_pattern_that_peft_takes_for_names_says_what_else_it_reaches(tmp_path: Path) -> None:
    """PEFT 0.21 takes a pattern for the last parts of names in a model with experts: one layer becomes all."""
    fields = {"peft_type": "LORA", "r": 4, "target_modules": r".*layers\.0\..*q_proj"}
    config = experts_model("mixtral")
    counted, said = inspect_adapter(config, fields)
    assert counted == attach_for_real(config, fields, tmp_path)
    assert "model.layers.1.self_attn.q_proj (1 of what it adapts) do not match" in said["pattern-widened"][0]
    everywhere = {**fields, "target_modules": r".*\.(q_proj|w1|w3)"}
    assert "pattern-widened" not in inspect_adapter(config, everywhere)[1]


def test_boft_is_counted_with_the_butterfly_factors_that_were_asked_for() -> None:
    """Butterfly-oft #2: DeBERTa-v3-base, blocks of 8 with 2 factors; 1,410,048 by hand, and a head of 1,538."""
    kind: Any = transformers.DebertaV2Config
    config = kind(
        architectures=["DebertaV2ForSequenceClassification"],
        vocab_size=128_100,
        hidden_size=768,
        intermediate_size=3_072,
        num_hidden_layers=12,
        num_attention_heads=12,
        relative_attention=True,
        position_buckets=256,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
        dtype="float32",
    )
    fields = {
        "peft_type": "BOFT",
        "task_type": "SEQ_CLS",
        "boft_dropout": 0.1,
        "target_modules": ["query_proj", "key_proj", "value_proj", "output.dense", "intermediate.dense"],
    }
    two, said = inspect_adapter(config, {**fields, "boft_block_size": 8, "boft_n_butterfly_factor": 2})
    assert two.trained == 1_410_048 + 1_538
    assert "trains 748,034 parameters" in said["butterfly-extension"][0]
    one, said = inspect_adapter(config, {**fields, "boft_block_size": 16, "boft_n_butterfly_factor": 1})
    assert one.trained == 1_410_048 + 1_538
    assert "butterfly-extension" not in said


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        # peft #3582, #3588
        ({"rank_pattern": {"q_prj": 64}}, ["'q_prj' in rank_pattern hits no target: its value is not used. Did you"]),
        ({"alpha_pattern": {"^v_proj": 32}}, ["'^v_proj' in alpha_pattern hits no target"]),
        ({"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"layers.0.self_attn.v_proj": 1}}, []),
        # oumi #2492
        ({"exclude_modules": [".*vision_tower.*"]}, ["entries of a list are ends of paths, not patterns"]),
        ({"exclude_modules": ["self_attn"]}, ['write the string ".*self_attn.*".']),
        ({"exclude_modules": ["q_prj"]}, ["no module has that name. Did you mean 'q_proj'?"]),
        ({"exclude_modules": "vision_tower"}, ["no module has that name."]),
        ({"exclude_modules": ["lm_head"]}, []),
        ({"layers_to_transform": [0, 1, 2, 3]}, []),
        ({"layers_to_transform": [0, 1, 2, 3, 40]}, ["has 40, where no target is: targets are in the layers 0-3."]),
        ({"layers_to_transform": [0, 1, 2, 3, -1]}, ["layers_to_transform has -1, where no target is"]),
        (
            {"layers_to_transform": [0, 1, 2, 3], "layers_pattern": ["layers", "blocks"]},
            ["'blocks' in layers_pattern is the name of no list of layers."],
        ),
        ({"alora_invocation_tokens": [5, 320]}, ["has 320, and the vocabulary ends at 319"]),
    ],
    ids=json.dumps,
)
def test_an_entry_that_matches_nothing_is_named_and_changes_nothing(
    fields: dict[str, Any], says: list[str], tmp_path: Path
) -> None:
    plain = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj", "v_proj"]}
    counted, said = inspect_adapter(tiny_llama(), {**plain, **fields})
    assert counted == attach_for_real(tiny_llama(), {**plain, **fields}, tmp_path)
    assert counted.trained == 7_168  # 4 layers of 8 * (64 + 64) + 8 * (64 + 32)
    messages = said.pop("peft-field-unused", [])
    assert len(messages) == len(says)
    assert all(expected in message for expected, message in zip(says, messages, strict=True))
    assert said == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"peft_type": "LOHA", "rank_pattern": {"q_prj": 4}},
        {"peft_type": "LOKR", "alpha_pattern": {"q_prj": 4}},
        {"peft_type": "C3A", "block_size": 16, "block_size_pattern": {"q_prj": 8}},
        {"peft_type": "FOURIERFT", "n_frequency": 10, "n_frequency_pattern": {"q_prj": 8}},
        {"peft_type": "OSF", "rank_pattern": {"q_prj": 8}},
        {"peft_type": "IA3", "target_modules": ["k_proj"], "feedforward_modules": ".*k_prj"},
    ],
    ids=lambda fields: fields["peft_type"],
)
def test_fields_of_other_methods_that_match_nothing_are_named_too(fields: dict[str, Any]) -> None:
    _, said = inspect_adapter(tiny_llama(), {"target_modules": ["q_proj"], **fields})
    assert len(said["peft-field-unused"]) == 1
    matched = json.loads(json.dumps(fields).replace("prj", "proj"))
    assert "peft-field-unused" not in inspect_adapter(tiny_llama(), {"target_modules": ["q_proj"], **matched})[1]


def test_loftq_needs_nothing_installed_to_be_counted(tmp_path: Path) -> None:
    """Recipes of Olive and ludwig, peft #1150: the word sets first values, the sizes are those without it."""
    plain = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj", "v_proj"]}
    loftq = {**plain, "init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4, "loftq_iter": 1}}
    counted, said = inspect_adapter(tiny_llama(), loftq)
    assert counted == attach_for_real(tiny_llama(), plain, tmp_path)
    assert said == {}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_an_embedding_that_the_adapter_file_holds_is_named_with_its_bytes(tied: bool, tmp_path: Path) -> None:
    """Unsloth #1093, trl #1287, LC-Rec #19, peft #1024: a file of a gigabyte for a few million parameters."""
    fields = {"peft_type": "LORA", "r": 8, "target_modules": ["embed_tokens", "lm_head"]}
    counted, said = inspect_adapter(tiny_llama(tie_word_embeddings=tied), fields)
    assert counted == attach_for_real(tiny_llama(tie_word_embeddings=tied), fields, tmp_path)
    (message,) = said["embeddings-in-file"]
    assert "81,920 of its" in message  # 2 tables of 320 * 64 in bfloat16
    only_layers = {**fields, "target_modules": ["q_proj"]}
    assert "embeddings-in-file" not in inspect_adapter(tiny_llama(), only_layers)[1]


def test_fields_of_the_first_peft_are_not_taken_for_those_of_a_newer_one() -> None:
    """PEFT #282, lmdeploy #1151: enable_lora and merge_weights."""
    fields = {"peft_type": "LORA", "r": 16, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
    old = {**fields, "enable_lora": None, "merge_weights": False, "inference_mode": True}
    counted, said = inspect_adapter(tiny_llama(), old)
    assert counted.trained == 4 * 16 * (2 * (64 + 64) + 2 * (64 + 32))
    assert said["peft-unknown-fields"][0].endswith("They are of PEFT 0.1 and change nothing.")
    parts = inspect_adapter(tiny_llama(), {**old, "enable_lora": [True, False, True]})[1]
    assert "its file may hold less" in parts["peft-unknown-fields"][0]
    newer = inspect_adapter(tiny_llama(), {**fields, "field_of_tomorrow": 1, "peft_version": "99.0"})[1]
    assert "PEFT 99.0 wrote it" in newer["peft-unknown-fields"][0]


@pytest.mark.parametrize("base", ["some-org/other-model", None])
def test_a_folder_with_a_model_and_an_adapter_is_that_model_with_the_adapter(base: str | None, tmp_path: Path) -> None:
    """Transformers #43746, #43781; unsloth #1448; hqq #151: as from_pretrained loads it."""
    adapter = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "target_modules": ["q_proj", "v_proj"]}
    named = {**adapter, "base_model_name_or_path": base}
    folder = write_folder(tmp_path, config=TINY_LLAMA, adapter_config=named)
    report = inspector.inspect(folder, count_only=True, offline=True)
    assert (report.parameters.base, report.parameters.trainable) == (188_992, 7_168)
    assert report.model.adapter_id == folder
    transformers.LlamaForCausalLM(tiny_llama()).save_pretrained(tmp_path)
    attach_for_real(tiny_llama(), adapter, tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter_model.safetensors")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert sum(parameter.numel() for parameter in loaded.parameters()) == 188_992 + 7_168

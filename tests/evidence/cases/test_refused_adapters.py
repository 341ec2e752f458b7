"""Adapters from public reports that PEFT refuses: the one line names the field to blame and what to write instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

import inspector
from inspector.cli.option_names import name_options
from tests.model.tiny import mixtral

from .real_peft import attach_for_real, inspect_adapter, tiny_llama, write_folder

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def refuse(model: Any, fields: dict[str, Any], folder: Path) -> str:
    """Return the refusal of an adapter that PEFT refuses too."""
    fields = {"peft_type": "LORA", **fields}
    with pytest.raises((ValueError, IndexError, TypeError)):
        attach_for_real(model, fields, folder)
    with pytest.raises(inspector.UsageError) as caught:
        inspector.inspect(model, peft=fields, count_only=True)
    message = str(caught.value)
    assert message.isprintable()
    return message


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        # Firefly #23, #219; petals #508; AutoGPTQ #667: scripts that found no linear layer
        ({"target_modules": []}, "target_modules is empty, which names nothing to adapt: leave it out for PEFT's own"),
        ({"target_modules": []}, "(q_proj, v_proj)"),
        ({"target_modules": ""}, "target_modules is empty"),
        (
            {"peft_type": "IA3", "target_modules": [], "feedforward_modules": []},
            "PEFT's own (k_proj, v_proj, down_proj)",
        ),
        # ms-swift #6516
        (
            {"target_modules": "q_proj,v_proj"},
            'Write the list ["q_proj", "v_proj"], or the pattern .*\\.(q_proj|v_proj)',
        ),
        ({"target_modules": "q_proj"}, 'Write the list ["q_proj"], or the pattern .*\\.q_proj.'),
        ({"target_modules": "['q_proj', 'v_proj']"}, 'Write the list ["q_proj", "v_proj"]'),
        ({"target_modules": "q_prj v_proj"}, 'Write the list ["q_proj", "v_proj"]'),
        # peft #1206, #2964; axolotl #3554
        (
            {"target_modules": [r".*\.1\..*q_proj"]},
            "ends of paths, not patterns: write target_modules='.*\\.1\\..*q_proj'",
        ),
        (
            {"target_modules": ["q_proj.weight"]},
            'It is a parameter: write target_parameters=["self_attn.q_proj.weight"]',
        ),
        ({"target_modules": [], "target_parameters": ["q_proj.wieght"]}, "Did you mean 'q_proj.weight'?"),
        # peft #2155
        (
            {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": ["blocks"]},
            'layers_pattern ["blocks"] is the name of no list of layers in LlamaForCausalLM',
        ),
        (
            {"layers_to_transform": [0], "layers_pattern": "blocks"},
            "leaves nothing of PEFT's default targets: write layers",
        ),
        (
            {"target_modules": ["q_proj"], "layers_to_transform": [9]},
            "layers_to_transform [9] leaves nothing of target",
        ),
        ({"target_modules": ["q_proj"], "layers_to_transform": [9]}, "in the layers 0-3"),
        ({"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]}, 'exclude_modules ["q_proj"] leaves nothing of'),
        (
            {"target_modules": ["lm_head"], "modules_to_save": ["lm_head"]},
            "a module is trained whole or adapted, not both",
        ),
        # LLaMA-Factory #6749, fms-hf-tuning #625, peft #2376: the vocabulary has 320 rows
        (
            {"target_modules": ["q_proj"], "trainable_token_indices": [320]},
            "has 320, and model.embed_tokens has 320 rows",
        ),
        ({"target_modules": ["q_proj"], "trainable_token_indices": [-321]}, "has -321, and model.embed_tokens"),
        ({"target_modules": ["q_proj"], "trainable_token_indices": {"lm_head": [1, 999]}}, "has 999, and lm_head has"),
        ({"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokns": [1]}}, "Did you mean embed_tokens?"),
        ({"trainable_token_indices": {"00": [1]}}, "name the module of a token table"),
        ({"peft_type": "TRAINABLE_TOKENS", "token_indices": [0, 320]}, "token_indices has 320"),
        ({"peft_type": "CPT", "task_type": "CAUSAL_LM", "cpt_token_ids": [-1]}, "cpt_token_ids has -1"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_refusal_names_the_field_to_blame_and_what_to_write(
    fields: dict[str, Any], says: str, tmp_path: Path
) -> None:
    assert says in refuse(tiny_llama(), fields, tmp_path)


@pytest.mark.parametrize("indices", [[319], [-320, -1], [5, 5]], ids=str)
def test_token_indices_within_the_table_are_counted_as_peft_does(indices: list[int], tmp_path: Path) -> None:
    """Negative ones and duplicates are taken by PEFT as well."""
    fields = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"], "trainable_token_indices": indices}
    assert inspect_adapter(tiny_llama(), fields)[0] == attach_for_real(tiny_llama(), fields, tmp_path)


def test_the_fused_parameter_of_experts_is_no_module(tmp_path: Path) -> None:
    """PEFT #2964; axolotl #3554: gate_up_proj as target module."""
    message = refuse(mixtral(), {"target_modules": ["gate_up_proj"]}, tmp_path)
    assert 'write target_parameters=["mlp.experts.gate_up_proj"]' in message


def test_a_layer_that_the_method_cannot_adapt_is_named_with_what_leaves_it_out(tmp_path: Path) -> None:
    """FAI-RL #50, oumi #2492: Gemma 4's seven names reach layers of the vision tower that are no linear ones."""
    text = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "global_head_dim": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "vocab_size_per_layer_input": 64,
        "hidden_size_per_layer_input": 0,
        "num_kv_shared_layers": 0,
    }
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.Gemma4Config(
        text_config=text,
        vision_config={**vision, "num_key_value_heads": 4, "head_dim": 8},
        audio_config=None,
        architectures=["Gemma4ForConditionalGeneration"],
        dtype="bfloat16",
    )
    message = refuse(config, {"r": 8, "target_modules": SEVEN}, tmp_path)
    assert "model.vision_tower.encoder.layers.0.self_attn.q_proj and 13 more" in message
    assert "of type Gemma4ClippableLinear, which PEFT's LORA cannot adapt" in message
    assert 'exclude_modules=".*vision_tower.*"' in message
    fields = {"peft_type": "LORA", "r": 8, "target_modules": SEVEN, "exclude_modules": ".*vision_tower.*"}
    assert inspect_adapter(config, fields)[0] == attach_for_real(config, fields, tmp_path)


def test_linear_layers_are_offered_where_nothing_leaves_out_what_cannot_be_adapted(tmp_path: Path) -> None:
    """Those that were wrapped already are among them."""
    message = refuse(tiny_llama(), {"target_modules": ["q_proj", "input_layernorm"]}, tmp_path)
    assert "matches model.layers.0.input_layernorm and 3 more of LlamaForCausalLM, of type LlamaRMSNorm" in message
    assert message.endswith("down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj.")


@pytest.mark.parametrize("base", [None, "", "/data/models/llama", "C:\\models\\llama", "decapoda-research/llama-7b-hf"])
def test_an_adapter_without_its_base_says_how_to_name_another(base: str | None, tmp_path: Path) -> None:
    """Transformers #25215, TGI #1893, LLaMA-Factory #4273, lmdeploy #1151; and what it says works."""
    adapter = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": base}
    folder = write_folder(tmp_path, adapter_config=adapter)
    with pytest.raises(inspector.InspectorError) as caught:
        inspector.inspect(folder, count_only=True, offline=True)
    assert f"inspect BASE --peft {folder}." in name_options(str(caught.value))
    assert inspect_adapter(tiny_llama(), adapter)[0].trained == 7_168

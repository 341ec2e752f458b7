"""The traced step of the report: laws that hold for every model and recipe, and what is refused."""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

import pytest
import torch
import transformers

import inspector
from inspector.records.memory import RunMemory
from inspector.records.tape import Category
from tests.model.tiny import llama, mixtral

LORA = {"peft_type": "LORA", "r": 4, "target_modules": "all-linear"}
ENCODER: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
RECIPES = {
    "default": inspector.Recipe(),
    "plain loop": inspector.Recipe(loop="plain"),
    "checkpointing": inspector.Recipe(gradient_checkpointing=True),
    "accumulation": inspector.Recipe(gradient_accumulation=3),
    "padded": inspector.Recipe(batch_size=2),
    "unpadded": inspector.Recipe(batch_size=2, padding=False),
    "eager": inspector.Recipe(attention="eager"),
    "bf16": inspector.Recipe(mixed_precision="bf16"),
    "math": inspector.Recipe(sdpa_backend="math"),
    "reentrant": inspector.Recipe(gradient_checkpointing=True, use_reentrant=True),
    "cache": inspector.Recipe(use_cache=True),
    "cache in a plain loop": inspector.Recipe(use_cache=True, loop="plain"),
    "sgd without clipping": inspector.Recipe(optimizer="sgd", max_grad_norm=0),
}

# The Trainer keeps the sum of losses, the last loss, the last norm of gradients and the count of labels: a block each.
SCALARS_BYTES = 4 * 512


def traced(config: Any, recipe: inspector.Recipe, peft: Any = None) -> RunMemory:
    """Return the training section of a small model."""
    report = inspector.inspect(config, peft=peft, recipe=recipe, gpu="a100-80gb", advice=False)
    assert report.training is not None, report.warnings
    return report.training


@pytest.mark.parametrize("peft", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.one_of(3)
def test_a_step_ends_with_what_is_kept_and_its_peak_is_the_sum_of_its_parts(
    recipe: inspector.Recipe, peft: dict[str, Any] | None
) -> None:
    config = llama(max_position_embeddings=2048)
    training = traced(config, recipe, peft)
    assert sum(training.peak.breakdown.values()) == training.peak_allocated_bytes
    assert sum(module.bytes for module in training.top_modules) == training.peak_allocated_bytes
    assert max(phase.peak_allocated_bytes for phase in training.phases) <= training.peak_allocated_bytes
    assert training.peak_allocated_bytes <= training.peak_reserved_bytes
    kept = sum(
        training.peak.breakdown[category]
        for category in (Category.WEIGHTS, Category.ADAPTER, Category.BUFFERS, Category.INPUTS, Category.OTHER)
    )
    # Weights, buffers, batch and workspaces stay; beside them only the optimizer's state does.
    assert training.end_of_step_allocated_bytes >= kept
    if recipe.optimizer == "sgd":
        assert training.end_of_step_allocated_bytes == kept + SCALARS_BYTES


def test_the_state_of_adamw_is_two_moments_of_every_trained_weight() -> None:
    training = traced(llama(), inspector.Recipe(optimizer="adamw_torch"), LORA)
    kept = (Category.WEIGHTS, Category.ADAPTER, Category.BUFFERS, Category.INPUTS, Category.OTHER)
    state = training.end_of_step_allocated_bytes - sum(training.peak.breakdown[category] for category in kept)
    # Each moment of each of 2 * 7 * 3 matrices is float32 and takes a block of its own, rounded to 512 bytes.
    sizes = [
        4 * 4 * side for sides in ((16, 16), (16, 8), (16, 8), (16, 16), (16, 32), (16, 32), (32, 16)) for side in sides
    ]
    assert state == 2 * 3 * sum(512 * -(-size // 512) for size in sizes) + SCALARS_BYTES


def test_two_traces_of_one_step_are_equal_with_and_without_garbage_collection() -> None:
    gc.disable()
    try:
        first = traced(llama(), inspector.Recipe(gradient_checkpointing=True), LORA)
    finally:
        gc.enable()
    assert traced(llama(), inspector.Recipe(gradient_checkpointing=True), LORA) == first


def test_a_reentrant_checkpoint_without_an_input_that_requires_gradients_is_refused() -> None:
    """Embeddings of tokens are let require gradients by transformers, those of images are not."""
    config = transformers.ViTConfig(
        architectures=["ViTForImageClassification"],
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    recipe = inspector.Recipe(gradient_checkpointing=True, use_reentrant=True)
    in_blocks = {**LORA, "target_modules": ["q_proj", "v_proj"]}
    with pytest.raises(inspector.UsageError, match="drop `use_reentrant`"):
        inspector.inspect(config, peft=in_blocks, recipe=recipe)
    # The way out that the line names.
    traced(config, inspector.Recipe(gradient_checkpointing=True), in_blocks)


def test_a_plain_loop_that_fills_a_cache_holds_keys_and_values_of_all_layers_to_the_end() -> None:
    config = llama(num_hidden_layers=4, max_position_embeddings=2048)
    held = [
        traced(config, inspector.Recipe(loop="plain", use_cache=cache)).phases[2].end_allocated_bytes
        for cache in (False, True)
    ]
    # Of each of 4 layers keys and values of 1,024 tokens, 8 wide (two heads of 4), in bfloat16.
    assert held[1] - held[0] == 4 * 2 * 1024 * 8 * 2


def test_checkpointing_keeps_fewer_activations() -> None:
    config = llama(num_hidden_layers=8, max_position_embeddings=2048)
    kept = [
        traced(config, inspector.Recipe(gradient_checkpointing=on)).peak.breakdown[Category.ACTIVATIONS]
        for on in (False, True)
    ]
    assert kept[1] < kept[0] / 2


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("peft", [None, LORA], ids=["full", "lora"])
def test_a_model_of_experts_is_traced_in_every_dtype(peft: dict[str, Any] | None, dtype: str) -> None:
    report = inspector.inspect(mixtral(), peft=peft, dtype=dtype, gpu="a100-80gb", advice=False)
    assert report.training is not None, report.warnings
    # All experts' rows are multiplied at once: the routing does not matter, and nothing is assumed of it.
    assert "balanced-experts" not in {notice.code for notice in report.warnings}


def test_a_notice_says_that_experts_in_a_loop_are_assumed_to_be_balanced() -> None:
    attention: dict[str, Any] = {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8}
    experts: dict[str, Any] = {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2}
    sizes: dict[str, Any] = {"d_model": 64, "n_heads": 4, "n_layers": 2, "vocab_size": 160, "max_seq_len": 64}
    config = transformers.DbrxConfig(
        architectures=["DbrxForCausalLM"], attn_config=attention, ffn_config=experts, **sizes
    )
    report = inspector.inspect(config, recipe=inspector.Recipe(seq_len=64))
    assert report.training is not None, report.warnings
    assert "balanced-experts" in {notice.code for notice in report.warnings}


def test_the_traced_process_is_left_as_it_was() -> None:
    inspector.inspect(llama())
    probe = torch.zeros(2, 3, device="meta")
    assert torch.nn.functional.dropout(probe, 0.5).shape == (2, 3)
    assert torch._C._len_torch_dispatch_stack() == 0


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (transformers.BartConfig(architectures=["BartModel"]), "`model_class=BartForConditionalGeneration`"),
        (llama(architectures=["LlamaModel"]), "`model_class=LlamaForCausalLM`"),
        (
            transformers.WhisperConfig(architectures=["WhisperForConditionalGeneration"], dtype="float16"),
            "`dtype=float32`",
        ),
    ],
    ids=["encoder-decoder", "decoder", "float32 input"],
)
def test_a_report_of_a_step_that_cannot_be_traced_has_the_reason_and_the_counts(config: Any, reason: str) -> None:
    report = inspector.inspect(config)
    assert report.training is None
    assert report.parameters.base > 0
    assert [notice.message for notice in report.warnings if notice.code == "not-traced" and reason in notice.message]


def test_a_head_may_be_named_for_an_encoder_without_a_loss() -> None:
    config = transformers.BertConfig(architectures=["BertModel"], **ENCODER)
    assert inspector.inspect(config, model_class="BertForMaskedLM").training is not None


def test_the_default_sequence_is_cut_to_learned_positions_with_a_notice_and_a_longer_one_is_refused() -> None:
    sizes: dict[str, Any] = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 48}
    config = transformers.GPT2Config(architectures=["GPT2LMHeadModel"], **sizes)
    with pytest.raises(inspector.UsageError, match="`seq_len` is 49, and the model has learned positions for 48 tok"):
        inspector.inspect(config, recipe=inspector.Recipe(seq_len=49))
    report = inspector.inspect(config)
    assert report.training is not None
    assert report.to_dict()["training"]["recipe"]["seq_len"] == 48
    assert [tuple(item.shape) for item in report.training.inputs or ()] == [(1, 48), (1, 48)]
    codes = {notice.code for notice in report.warnings}
    assert "seq-len-clamped" in codes
    message = next(notice.message for notice in report.warnings if notice.code == "seq-len-clamped")
    assert message == "The default sequence length of 1,024 is cut to the model's 48."
    assert "beyond-positions" not in codes
    exact = inspector.inspect(config, recipe=inspector.Recipe(seq_len=48))
    assert exact.training is not None
    assert dataclasses.replace(exact.training, defaults=report.training.defaults) == report.training
    assert "seq-len-clamped" not in {notice.code for notice in exact.warnings}


def test_images_have_no_sequence_length_and_no_padding() -> None:
    config = transformers.ViTConfig(architectures=["ViTForImageClassification"], image_size=32, **ENCODER)
    training = inspector.inspect(config, recipe=inspector.Recipe(batch_size=3)).to_dict()["training"]
    assert "seq_len" not in training["recipe"]
    assert training["recipe"]["padding"] is False
    assert training["inputs"] == [
        {"name": "pixel_values", "shape": [3, 3, 32, 32], "dtype": "float32"},
        {"name": "labels", "shape": [3], "dtype": "int64"},
    ]


def test_a_model_whose_processor_is_not_known_is_traced_with_text_and_a_notice() -> None:
    config = transformers.LlavaConfig(
        architectures=["LlavaForConditionalGeneration"],
        text_config=llama(),
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=16,
            patch_size=8,
        ),
        image_token_index=-1,
    )
    report = inspector.inspect(config, peft=LORA)
    assert report.training is not None
    assert report.training.lower_bound is not None
    assert "no-image" in {notice.code for notice in report.warnings}
    assert "no-image" not in {notice.code for notice in inspector.inspect(llama()).warnings}


def test_a_notice_names_sequences_longer_than_the_models_positions() -> None:
    report = inspector.inspect(llama(max_position_embeddings=512), recipe=inspector.Recipe(seq_len=513))
    assert "beyond-positions" in {notice.code for notice in report.warnings}


def test_counting_alone_traces_nothing() -> None:
    assert inspector.inspect(llama(), count_only=True).training is None


def test_a_model_that_loops_over_a_set_of_layer_kinds_is_noted_as_depending_on_the_hash_seed() -> None:
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "head_dim": 16}
    kinds = ["sliding_attention", "full_attention"]
    config = transformers.Gemma3TextConfig(
        architectures=["Gemma3ForCausalLM"], num_hidden_layers=2, layer_types=kinds, vocab_size=64, **sizes
    )
    codes = {notice.code for notice in inspector.inspect(config, recipe=inspector.Recipe(seq_len=16)).warnings}
    assert "hash-seed" in codes
    assert "hash-seed" not in {notice.code for notice in inspector.inspect(llama()).warnings}

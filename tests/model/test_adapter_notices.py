"""What PEFT passes over in silence and the inspector says."""

from __future__ import annotations

from typing import Any

import pytest
import transformers

import inspector
from inspector.records.notice import Notice
from inspector.records.request import LoraOptions
from tests.model.tiny import llama, mixtral


def notices(config: Any, **fields: Any) -> dict[str, str]:
    """Return the notices of a LoRA adapter by code."""
    report = inspector.inspect(config, peft={"peft_type": "LORA", "r": 4, **fields}, count_only=True)
    assert all(isinstance(notice, Notice) for notice in report.warnings)
    return {notice.code: notice.message for notice in report.warnings}


def test_a_plain_adapter_needs_no_notice() -> None:
    assert notices(llama(), target_modules="all-linear") == {}


def test_a_target_that_hit_nothing_is_named_with_what_was_probably_meant() -> None:
    message = notices(llama(), target_modules=["q_proj", "up_prj"])["target-unmatched"]
    assert "'up_prj'" in message
    assert "Did you mean 'up_proj'?" in message


def test_a_saved_module_that_hit_nothing_is_named_with_what_was_probably_meant() -> None:
    message = notices(llama(), target_modules=["q_proj"], modules_to_save=["embed_token"])["modules-to-save-unmatched"]
    assert "'embed_token'" in message
    assert "Did you mean 'embed_tokens'?" in message


def test_a_notice_names_a_module_saved_whole_with_its_size() -> None:
    message = notices(llama(), target_modules=["q_proj"], modules_to_save=["lm_head"])["saved-whole"]
    # 1,024 beside 3 layers of 4 * (16 + 16)
    assert message == "lm_head is trained and saved whole: 1,024 parameters, 72.7 % of what is trained."


def test_a_notice_warns_of_saving_one_side_of_a_tied_weight() -> None:
    found = notices(llama(tie_word_embeddings=True), target_modules=["q_proj"], modules_to_save=["lm_head"])
    assert found["saved-untied"].startswith("lm_head shares its weight with model.embed_tokens")


def test_a_notice_warns_of_saving_both_sides_of_a_tied_weight_unless_the_copies_are_tied() -> None:
    fields = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}
    found = notices(llama(tie_word_embeddings=True), **fields)
    assert found["saved-untied"].startswith("lm_head and model.embed_tokens share their weight, their saved copies do")
    assert "saved-untied" not in notices(llama(tie_word_embeddings=True), **fields, ensure_weight_tying=True)
    assert "saved-untied" not in notices(llama(), **fields)


def test_one_notice_names_all_equal_modules_saved_whole() -> None:
    fields = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "modules_to_save": ["input_layernorm"]}
    (notice,) = inspector.inspect(llama(), peft=fields, count_only=True).warnings
    # 3 norms of 16 beside 3 layers of 4 * (16 + 16)
    assert notice.message == (
        "model.layers.0-2.input_layernorm (3 modules) are trained and saved whole: 48 parameters, "
        "11.1 % of what is trained."
    )


def test_a_notice_warns_of_adapting_one_side_of_a_tied_weight() -> None:
    found = notices(llama(tie_word_embeddings=True), target_modules=["q_proj", "lm_head"])
    assert found["target-tied"].startswith("lm_head shares its weight with model.embed_tokens")


def test_a_notice_names_targets_that_hit_part_of_the_layers() -> None:
    message = notices(llama(), target_modules=["q_proj"], layers_to_transform=[1])["targets-partial"]
    assert message == "Target 'q_proj' hits 1 of the 3 layers in model.layers: 1."


def test_a_notice_names_fused_experts_that_no_target_reaches() -> None:
    message = notices(mixtral(), target_modules=["q_proj"])["experts-not-reached"]
    # 2 layers of 4 experts of 64*16 + 16*32
    assert message.startswith("12,288 parameters of routed experts")


@pytest.mark.parametrize("config", [mixtral(), llama()], ids=["experts", "dense"])
def test_the_adapters_own_matrices_are_no_layers_left_out(config: Any) -> None:
    assert "linear-left-out" not in notices(config, target_modules="all-linear")


def test_the_parts_of_one_layer_are_no_stack_of_layers() -> None:
    # T5 keeps attention and feed-forward of a block in one list, of which the default targets hit the attention alone.
    config = transformers.T5Config(
        architectures=["T5ForConditionalGeneration"],
        d_model=8,
        d_kv=4,
        d_ff=16,
        num_layers=2,
        num_heads=2,
        vocab_size=9,
    )
    assert "targets-partial" not in notices(config)


def test_a_notice_names_an_adapter_that_trains_nothing() -> None:
    report = inspector.inspect(llama(), peft={"peft_type": "TRAINABLE_TOKENS"}, count_only=True)
    assert "nothing-trains" in {notice.code for notice in report.warnings}


def test_experts_that_are_saved_whole_get_no_notice() -> None:
    assert "experts-not-reached" not in notices(mixtral(), target_modules=["q_proj"], modules_to_save=["experts"])


def test_a_prompt_method_gets_no_notice_about_experts() -> None:
    peft = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 2}
    report = inspector.inspect(mixtral(), peft=peft, count_only=True)
    assert "experts-not-reached" not in {notice.code for notice in report.warnings}


def test_a_notice_names_the_rest_of_experts_that_are_reached_in_part() -> None:
    message = notices(mixtral(), target_parameters=["mlp.experts.down_proj"])["experts-not-reached"]
    # the gate_up projections are left: 2 layers of 4 experts of 64*16
    assert message.startswith("8,192 parameters of routed experts")


def test_experts_that_peft_reaches_are_listed_as_targets_by_parameter() -> None:
    peft = {"peft_type": "LORA", "r": 4, "target_modules": "all-linear"}
    report = inspector.inspect(mixtral(), peft=peft, count_only=True)
    assert report.adapter is not None
    assert report.adapter.targets is not None
    matched = set(report.adapter.targets.matched)
    assert {"model.layers.0-1.mlp.experts.gate_up_proj", "model.layers.0-1.mlp.experts.down_proj"} <= matched
    assert "experts-not-reached" not in {notice.code for notice in report.warnings}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_modules": ["q_projj"]}, "Did you mean 'q_proj'"),
        ({"target_modules": "nothing.*"}, "matches the whole path"),
        ({"target_modules": ["q_proj"], "layers_to_transform": [9]}, "leaves nothing of target"),
        ({"r": 0}, "rank r must be an integer of at least 1"),
        ({"r": "8"}, "rank r must be an integer of at least 1"),
        ({"lora_alpha": "x"}, "PEFT refuses LORA"),
        ({"bias": "sometimes"}, "PEFT refuses LORA"),
        ({"task_type": "NOPE"}, "Invalid task type"),
        ({"peft_type": "LORRA"}, "Did you mean LORA?"),
        ({"peft_type": None}, "no peft_type"),
    ],
    ids=str,
)
def test_a_bad_adapter_is_a_usage_error_of_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(inspector.UsageError, match=message.replace("?", r"\?")) as caught:
        inspector.inspect(llama(), peft={"peft_type": "LORA", **fields})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("asked", ["lora", 3, [1]], ids=str)
def test_an_adapter_of_no_known_form_is_a_usage_error(asked: object) -> None:
    with pytest.raises(inspector.UsageError, match="a mapping of PEFT fields"):
        inspector.inspect(llama(), peft=asked)


def test_fields_of_a_newer_peft_are_dropped_with_a_notice() -> None:
    found = notices(llama(), target_modules=["q_proj"], field_of_tomorrow=1)
    assert "field_of_tomorrow" in found["peft-unknown-fields"]


def test_a_model_type_without_default_targets_says_what_to_add() -> None:
    with pytest.raises(
        inspector.UsageError, match="no default targets for model type 'mixtral': add `target_modules=\"all-linear\"`"
    ):
        inspector.inspect(mixtral(), peft={"peft_type": "LN_TUNING"})


def test_all_linear_by_name_reaches_the_layers_that_there_are_and_no_experts() -> None:
    """So axolotl and LLaMA-Factory list them; PEFT means the layers of transformers 4, experts too."""

    def count(config: Any, *, by_name: bool) -> int:
        peft = LoraOptions(r=4, targets="all-linear", by_name=by_name)
        return inspector.inspect(config, peft=peft, count_only=True).parameters.trainable

    of_attention = 2 * 4 * (2 * (16 + 16) + 2 * (16 + 8))  # layers, rank, queries and outputs, keys and values
    assert count(mixtral(), by_name=True) == of_attention < count(mixtral(), by_name=False)
    assert count(llama(), by_name=True) == count(llama(), by_name=False)

"""What two shallow models say of a deep one, beside what the deep one says itself: to the last number and letter."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import transformers

from inspector.model.build import count_depths, count_model
from inspector.records.model import Counted
from inspector.records.recipe import Recipe
from inspector.records.request import Request
from inspector.source import catalogue
from inspector.source.locate import locate
from tests.model.test_adapter_file import FIELDS, METHODS
from tests.model.tiny import llama, mixtral

LORA = {"peft_type": "LORA", "r": 4, "target_modules": "all-linear"}
DEEP = 18


def order(counted: Counted) -> list[list[Any]]:
    """Return the keys of all mappings in their order, which equality passes over."""
    census = counted.census
    mappings = (census.dtypes, census.trainable_dtypes, census.groups, counted.base_dtypes, counted.base_frozen_dtypes)
    return [list(mapping) for mapping in (*mappings, counted.base_tensors, counted.trained_tensors)]


def check(request: Request, *, is_shallow: bool | None = True) -> Counted:
    """Hold counts against those of the whole model; `is_shallow` says of which models they have to be."""
    files = locate(request.model, revision=None, offline=True) if isinstance(request.model, str) else None
    counted, depths = count_depths(request, files)
    whole, _ = count_model(request, files)
    assert counted == whole
    assert order(counted) == order(whole)
    assert depths is not None
    if is_shallow is not None:
        assert (None not in depths.models) is is_shallow
    return counted


def deepseek() -> transformers.DeepseekV2Config:
    """Return a configuration whose first layers have no experts."""
    return transformers.DeepseekV2Config(
        **mixtral(num_hidden_layers=DEEP).to_dict()
        | {"architectures": ["DeepseekV2ForCausalLM"], "n_routed_experts": 4, "moe_intermediate_size": 8}
        | {"first_k_dense_replace": 3, "kv_lora_rank": 8, "q_lora_rank": None, "num_key_value_heads": 4}
        | {"n_group": 1, "topk_group": 1, "n_shared_experts": 1}
    )


@pytest.mark.parametrize("model", catalogue.list_ids())
@pytest.mark.one_of(45)
def test_the_counts_of_two_shallow_models_are_those_of_the_whole_one(model: str) -> None:
    """Of every architecture of the catalogue, bare and with LoRA on all linear layers."""
    check(Request(model=model, offline=True), is_shallow=None)
    if model != "state-spaces/mamba-130m-hf":  # where PEFT refuses it
        check(Request(model=model, offline=True, peft=LORA), is_shallow=None)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.one_of(12)
def test_the_counts_of_any_adapter_on_two_shallow_models_are_those_on_the_whole_one(method: str) -> None:
    """The size of its file, too, which grows with the digits of names and offsets."""
    fields = {"peft_type": method, "task_type": "CAUSAL_LM", **FIELDS.get(method, {})}
    check(Request(model=llama(num_hidden_layers=DEEP), peft=fields), is_shallow=None)


def test_a_deep_model_is_counted_by_two_shallow_ones() -> None:
    """With a file whose header names ten times as many layers with two digits as with one."""
    counted = check(Request(model=llama(num_hidden_layers=DEEP), peft=LORA))
    assert counted.adapter is not None
    assert counted.adapter.targets is not None
    assert counted.adapter.targets.matched[0] == f"model.layers.0-{DEEP - 1}.self_attn.q_proj"
    assert counted.adapter.targets.matched_count == 7 * DEEP


def test_packed_weights_of_a_deep_model_are_counted_by_two_shallow_ones() -> None:
    """What they weigh as they are loaded, and in float."""
    check(Request(model=llama(num_hidden_layers=DEEP), peft=LORA, quantization="nf4"))
    check(Request(model=llama(num_hidden_layers=DEEP), quantization="int8"))


def test_the_numbers_in_the_notices_of_experts_are_those_of_the_whole_model() -> None:
    """Fused experts are no linear layers, a router has few sides, and shared experts are taken for routed ones."""
    counted = check(Request(model=mixtral(num_hidden_layers=DEEP), peft={**LORA, "target_modules": ["q_proj"]}))
    assert [item.code for item in counted.notices if "experts" in item.code] == ["experts-not-reached"]
    counted = check(Request(model=mixtral(num_hidden_layers=DEEP), peft={**LORA, "r": 6}, quantization="nf4"))
    assert {"experts-in-float", "rank-beyond-layer"} <= {item.code for item in counted.notices}
    counted = check(Request(model=deepseek(), peft=LORA))
    assert "linear-left-out" in {item.code for item in counted.notices}


@pytest.mark.parametrize(
    ("fields", "is_shallow"),
    [
        ({"modules_to_save": ["lm_head", "embed_tokens"]}, True),
        ({"modules_to_save": ["input_layernorm", "norm"]}, True),
        ({"target_modules": ["embed_tokens", "q_proj"]}, False),  # a notice says how large the file is
        ({"rank_pattern": {"q_proj": 4}}, True),
        ({"rank_pattern": {r"layers\.3\..*q_proj": 4}}, False),
        ({"layers_to_transform": [3, 7]}, False),
        ({"layers_pattern": "layers", "layers_to_transform": [1]}, False),
        ({"target_modules": r".*\.1\d\.mlp\.up_proj"}, False),
        ({"exclude_modules": ["down_proj"]}, True),
        ({"r": 20}, True),  # beyond the smaller side, of so many layers
    ],
)
def test_what_a_field_of_an_adapter_says_of_layers_is_counted_as_on_the_whole_model(
    fields: dict[str, Any], is_shallow: bool
) -> None:
    """The whole model is counted where layers are told apart, or a message says what does not grow with them."""
    adapter = {**LORA, "target_modules": ["q_proj", "up_proj"], **fields}
    check(Request(model=llama(num_hidden_layers=DEEP), peft=adapter), is_shallow=is_shallow)


@pytest.mark.parametrize("is_tied", [False, True])
def test_the_share_of_what_is_saved_whole_is_that_of_the_whole_model(is_tied: bool) -> None:
    """With tables beside which few layers are nothing: their share reads alike in both shallow models."""
    config = llama(num_hidden_layers=DEEP, vocab_size=100_000, tie_word_embeddings=is_tied)
    counted = check(Request(model=config, peft={**LORA, "modules_to_save": ["lm_head", "embed_tokens"]}))
    shares = [item.message.rpartition(" parameters, ")[2] for item in counted.notices if item.code == "saved-whole"]
    assert shares == ["49.7 % of what is trained."] * 2


def test_layers_that_differ_are_counted_as_they_are() -> None:
    """Kinds that alternate, some that come first, tied tables, layers behind those that repeat, a part that trains."""
    gemma = transformers.Gemma2Config(
        **llama(num_hidden_layers=DEEP).to_dict() | {"architectures": ["Gemma2ForCausalLM"], "head_dim": 8}
    )
    for config in (gemma, deepseek(), llama(num_hidden_layers=DEEP, tie_word_embeddings=True)):
        check(Request(model=config, peft={**LORA, "target_modules": ["q_proj", "o_proj"]}))
        check(Request(model=config))
    last = Recipe(train_only=["last=2", "norm"])
    check(Request(model=llama(num_hidden_layers=DEEP), recipe=last))


def test_an_adapter_that_peft_refuses_is_refused_as_on_the_whole_model() -> None:
    """The message says what the whole model has."""
    request = Request(model=llama(num_hidden_layers=DEEP), peft={**LORA, "target_modules": ["no_such"]})
    messages = []
    for count in (count_depths, count_model):
        with pytest.raises(Exception, match="no_such") as caught:
            count(request, None)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_the_whole_model_is_counted_where_it_is_asked_for_or_runs_itself() -> None:
    """Without extrapolation; for a generation, whose cache the whole model makes."""
    config = llama(num_hidden_layers=DEEP)
    for changes in ({"extrapolate": False}, {"workload": "generate", "recipe": Recipe(new_tokens=2)}):
        request = dataclasses.replace(Request(model=config), **changes)
        assert set(count_depths(request, None)[1].models) == {None}  # type: ignore[union-attr]

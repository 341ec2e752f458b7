"""The attention that a model is said to have is the one that its forward pass runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import nn
from torch.overrides import TorchFunctionMode

from inspector.model.attention import describe_attention, find_attention, find_attention_by_part
from tests.model.tiny import llama

SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = {**SMALL, "num_key_value_heads": 1, "vocab_size": 64}


def bloom() -> Any:
    config = transformers.BloomConfig(vocab_size=64, hidden_size=16, n_layer=2, n_head=2)
    return transformers.BloomForCausalLM._from_config(config)


def gpt_oss() -> Any:
    config = transformers.GptOssConfig(**TEXT, head_dim=8, num_local_experts=2, num_experts_per_tok=1)
    return transformers.GptOssForCausalLM._from_config(config)


def llama_model(**choice: str) -> Any:
    return transformers.LlamaForCausalLM._from_config(llama(), dtype=torch.float32, **choice)


def llava() -> Any:
    vision = transformers.CLIPVisionConfig(**SMALL, image_size=16, patch_size=8)
    config = transformers.LlavaConfig(vision_config=vision, text_config=transformers.LlamaConfig(**TEXT))
    return transformers.LlavaForConditionalGeneration._from_config(config)


class Watching(TorchFunctionMode):
    """Counts the calls of torch's fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func is nn.functional.scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("build", "attention"),
    [
        (bloom, "eager"),
        (gpt_oss, "eager"),
        (llama_model, "sdpa"),
        (lambda: llama_model(attn_implementation="eager"), "eager"),
        (llava, "sdpa"),
    ],
    ids=["bloom", "gpt-oss", "llama", "llama asked for eager", "llava"],
)
def test_a_model_has_the_attention_that_its_forward_pass_runs(build: Callable[[], Any], attention: str) -> None:
    model = build().eval()
    assert find_attention(model) == describe_attention(model) == attention
    with Watching() as watching, torch.no_grad():
        model(input_ids=torch.tensor([[5, 6, 7]]))
    assert bool(watching.calls) == (attention == "sdpa")


def test_the_attention_of_a_model_with_an_adapter_is_that_of_its_base() -> None:
    adapter = peft.LoraConfig(target_modules=["query_key_value"])
    assert find_attention(peft.get_peft_model(bloom(), adapter)) == "eager"


def test_parts_of_a_model_may_have_different_attention() -> None:
    model = llava()
    assert find_attention_by_part(model) == {"model.vision_tower": "sdpa", "model.language_model": "sdpa"}
    model.set_attn_implementation({"vision_config": "eager"})
    assert find_attention(model) == "sdpa"
    assert describe_attention(model) == "sdpa (model.vision_tower eager)"


def test_transformers_refuses_sdpa_where_it_is_asked_for_and_not_supported() -> None:
    """What a class falls back to by default it does not fall back to when sdpa was named; Bloom cannot change later."""
    for model in (bloom(), gpt_oss()):
        with pytest.raises(ValueError, match="does not support an attention implementation through torch"):
            type(model)._from_config(type(model.config)(**TEXT), attn_implementation="sdpa")
    unchanged = bloom()
    unchanged.set_attn_implementation("sdpa")
    assert find_attention(unchanged) == "eager"

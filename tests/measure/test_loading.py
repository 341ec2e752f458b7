"""A model on meta is put onto a device as it is: the same tensors tied, the same ones trained, buffers with values."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

from inspector.measure.loading import load_model
from inspector.model.adapter.attach import attach_adapter
from inspector.model.adapter.config import read_peft_config
from inspector.model.skeleton import build_skeleton
from tests.trace.small_models import SMALL, build
from tests.workloads.tracing import built

CPU = torch.device("cpu")


def buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the buffers by name."""
    return dict(model.named_buffers())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.filterwarnings("ignore")
def test_buffers_have_the_values_that_the_class_gives_them(name: str) -> None:
    """Positions and rotary frequencies above all: with garbage in them a GPU stops, or computes NaN."""
    real = buffers(build("cpu", name)[0])
    model = build("meta", name)[0]
    load_model(built(model), CPU)
    made = buffers(model)
    assert made.keys() == real.keys()
    for key, value in real.items():
        assert torch.equal(made[key], value), key


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.filterwarnings("ignore")
def test_materialized_parameters_keep_shape_dtype_and_sharing(name: str) -> None:
    before = build("meta", name)[0]
    expected = {key: (item.shape, item.dtype, item.requires_grad) for key, item in before.named_parameters()}
    shared = [[key for key, other in named if other is item] for named in [all_parameters(before)] for _, item in named]
    load_model(built(before), CPU)
    after = all_parameters(before)
    assert {key: (item.shape, item.dtype, item.requires_grad) for key, item in before.named_parameters()} == expected
    assert [[key for key, other in after if other is item] for _, item in after] == shared
    assert {tensor.device.type for tensor in (*before.parameters(), *before.buffers())} == {"cpu"}
    assert all(torch.isfinite(item).all() for _, item in after)


def all_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return every parameter under each of its names."""
    return list(model.named_parameters(remove_duplicate=False))


ADAPTERS: dict[str, dict[str, object]] = {
    "lora": {"peft_type": "LORA", "target_modules": ["q_proj"], "use_dora": True},
    "saved": {"peft_type": "LORA", "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "vera": {"peft_type": "VERA", "target_modules": ["q_proj"], "r": 4},
    "ia3": {"peft_type": "IA3", "target_modules": ["k_proj"], "feedforward_modules": []},
    "prompt": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4, "task_type": "CAUSAL_LM"},
    "prefix": {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4, "task_type": "CAUSAL_LM"},
}


@pytest.mark.parametrize("fields", ADAPTERS.values(), ids=ADAPTERS)
@pytest.mark.filterwarnings("ignore")
def test_a_model_with_an_adapter_runs_forward_and_backward(fields: dict[str, object]) -> None:
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        tie_word_embeddings=True,
    )
    adapter, _ = read_peft_config(fields, "LlamaForCausalLM")
    model, _ = attach_adapter(
        lambda: build_skeleton(config, transformers.LlamaForCausalLM, torch.float32, "tiny"), adapter
    )
    trained = {name for name, item in model.named_parameters() if item.requires_grad}
    load_model(built(model), CPU)
    model.train()
    ids = torch.ones(2, 8, dtype=torch.int64)
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert {name for name, item in model.named_parameters() if item.grad is not None} == trained

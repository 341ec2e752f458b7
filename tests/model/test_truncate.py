"""Which layers are left out of a model: those that others of their kind stand for."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers

from inspector.model.truncate import shorten_model
from tests.model.tiny import llama


def built(config: Any) -> Any:
    """Return a model on meta."""
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


def test_a_truncated_model_keeps_two_of_twelve_equal_layers() -> None:
    """Ten are missing; one more on request. The configuration says so."""
    model = built(llama(num_hidden_layers=12))
    shallow, deeper = copy.deepcopy(model), copy.deepcopy(model)
    assert (shorten_model(shallow), shorten_model(deeper, extra_periods=1)) == (10, 10)
    assert (len(shallow.model.layers), len(deeper.model.layers)) == (2, 3)
    assert shallow.config.num_hidden_layers == 2
    assert [layer.self_attn.layer_idx for layer in deeper.model.layers] == [0, 1, 2]


def test_layers_of_alternating_kinds_go_by_the_period() -> None:
    """Of sliding, full, sliding, full ... two pairs stay, and with them what the configuration says of each layer."""
    kinds = ["sliding_attention", "full_attention"] * 8
    config = transformers.Gemma2Config(
        hidden_size=16,
        intermediate_size=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        vocab_size=32,
        num_hidden_layers=16,
        layer_types=kinds,
    )
    model = built(config)
    assert shorten_model(model) == 6
    assert len(model.model.layers) == 4
    assert model.config.layer_types == kinds[:4]


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_model_of_few_layers_stays_whole(layers: int) -> None:
    """Two shallow models would cost as much."""
    assert shorten_model(built(llama(num_hidden_layers=layers))) == 0


def test_layers_that_share_parameters_stay() -> None:
    """What belongs to two layers is loaded once."""
    model = built(llama(num_hidden_layers=12))
    model.model.layers[7].mlp = model.model.layers[3].mlp
    assert shorten_model(model) == 0


def test_truncation_takes_a_layer_that_differs_in_one_setting_as_another_kind() -> None:
    """The longest run of equal ones is what is shortened: layers 5 to 11, of which two stay."""
    model = built(llama(num_hidden_layers=12))
    model.model.layers[4].self_attn.attention_dropout = 0.5
    assert shorten_model(model) == 0  # 7 - 2 = 5 of 12 is too few to gain from
    model = built(llama(num_hidden_layers=24))
    model.model.layers[4].self_attn.attention_dropout = 0.5
    assert shorten_model(model) == 17
    assert [layer.self_attn.attention_dropout for layer in model.model.layers] == [0.0] * 4 + [0.5] + [0.0] * 2

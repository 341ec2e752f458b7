"""The copy of a model that a trace changes: what deepcopy gives, with the memory that tensors share."""

from __future__ import annotations

import copy
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import nn

from inspector.model.copying import copy_model
from tests.model.tiny import llama

TABLES = (dict, list, set)


def build(adapter: str | None) -> Any:
    with torch.device("meta"):
        model: Any = transformers.AutoModelForCausalLM.from_config(llama(tie_word_embeddings=True))
        if adapter is not None:
            config: dict[str, Any] = {"peft_type": adapter, "target_modules": ["q_proj"]}
            if adapter == "OFT":
                config["oft_block_size"] = 4
            model = peft.get_peft_model(model, peft.get_peft_config(config))
    return model


def list_shared(model: nn.Module) -> set[int]:
    """Return what of a model may be changed in place: its modules, tensors and tables."""
    tables = (value for module in model.modules() for value in vars(module).values() if isinstance(value, TABLES))
    return {id(item) for item in (*model.modules(), *model.parameters(), *model.buffers(), *tables)}


@pytest.mark.parametrize("adapter", [None, "LORA", "OFT"])
def test_a_copy_has_every_attribute_and_shares_nothing_that_a_trace_changes(adapter: str | None) -> None:
    """Attribute by attribute what deepcopy has, tied weights tied, and one configuration where there was one."""
    model = build(adapter)
    copied, expected = copy_model(model), copy.deepcopy(model)
    assert list_shared(model).isdisjoint(list_shared(copied))
    for found, wanted in zip(copied.modules(), expected.modules(), strict=True):
        assert type(found) is type(wanted)
        assert list(vars(found)) == list(vars(wanted))
        for name, value in vars(wanted).items():
            assert type(vars(found)[name]) is type(value), name
    assert [name for name, _ in copied.named_parameters()] == [name for name, _ in model.named_parameters()]
    base = copied if adapter is None else copied.get_base_model()
    assert base.lm_head.weight is base.model.embed_tokens.weight
    assert base.config is base.model.config
    assert base.config is not (model if adapter is None else model.get_base_model()).config


def test_a_module_that_says_how_it_is_copied_is_asked() -> None:
    """As packed layers do, and those that bring state of their own."""

    class Counted(nn.Linear):
        copies = 0

        def __deepcopy__(self, memo: dict[int, Any]) -> Counted:
            type(self).copies += 1
            return Counted(self.in_features, self.out_features, device="meta")

    assert type(copy_model(nn.Sequential(Counted(2, 3, device="meta")))[0]) is Counted
    assert Counted.copies == 1

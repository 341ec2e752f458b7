"""Two routes to every byte of a loaded model: what the tape holds when loading ends, and the census."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from torch import nn

from inspector.errors import UsageError
from inspector.hardware.platform import Platform, find_installed_torch
from inspector.model.build import BuiltModel, count_model
from inspector.records.model import Role
from inspector.records.request import Request
from inspector.records.tape import Category, EventKind
from inspector.source import catalogue
from inspector.source.locate import locate
from inspector.trace.tracer import Tracer
from inspector.workloads.loading import list_in_load_order
from tests.evidence.truth.sample import IS_ALL
from tests.model.test_adapter_file import FIELDS, METHODS
from tests.model.tiny import llama

# Each takes about a second: CI holds all of them, every other run one in six.
NAMES = catalogue.list_ids() if IS_ALL else catalogue.list_ids()[::6]
LORA = {"peft_type": "LORA", "r": 8, "target_modules": "all-linear"}


def load(built: BuiltModel) -> dict[Category, int]:
    """Return the bytes of every category that live when the model is loaded, as they were asked for."""
    tracer = Tracer(Platform(torch_version=find_installed_torch()))
    for _, tensor, category in list_in_load_order(built):
        tracer.hold([tensor], category)
    sizes: Counter[Category] = Counter()
    for event in tracer.tape():
        assert event.kind is EventKind.ALLOCATE
        sizes[event.category] += event.bytes
    return dict(sizes)


def count(built: BuiltModel) -> dict[Category, int]:
    """Return the same by the census: each parameter once, by its role, and each buffer once."""
    model: nn.Module = built.model
    sizes: Counter[Category] = Counter()
    storages: set[int] = set()
    for name, parameter in model.named_parameters():
        storages.add(parameter.untyped_storage()._cdata)
        category = Category.ADAPTER if built.roles[name] is Role.ADAPTER else Category.WEIGHTS
        sizes[category] += parameter.untyped_storage().nbytes()
    for buffer in model.buffers():
        key = buffer.untyped_storage()._cdata
        if key not in storages:  # some buffers are views of others
            storages.add(key)
            sizes[Category.BUFFERS] += buffer.untyped_storage().nbytes()
    return {category: size for category, size in sizes.items() if size}


def assert_routes_agree(request: Request, files: Any = None) -> dict[Category, int]:
    """Hold what is loaded against the census, by category and by dtype."""
    counted, built = count_model(request, files)
    assert built is not None
    loaded = {category: size for category, size in load(built).items() if size}
    assert loaded == count(built)
    weights = loaded[Category.WEIGHTS] + loaded.get(Category.ADAPTER, 0)
    storages = {item.untyped_storage()._cdata: item.untyped_storage().nbytes() for item in built.model.parameters()}
    own = sum(item.numel() * item.element_size() for item in built.model.parameters())
    # What a parameter's memory holds beyond it (OFT's views) is in the tape and not in the census.
    assert weights - (sum(storages.values()) - own) == counted.census.bytes
    return loaded


@pytest.mark.parametrize("peft", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.one_of(3)
def test_the_breakdown_of_a_loaded_catalogue_entry_is_its_census(name: str, peft: dict[str, Any] | None) -> None:
    files = locate(name, revision=None, offline=True)
    assert files is not None
    try:
        assert_routes_agree(Request(model=name, offline=True, peft=peft), files)
    except UsageError as error:
        if peft is None or "Mamba" not in str(error):
            raise
        pytest.skip("PEFT refuses all-linear on Mamba's projections")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.one_of(3)
def test_the_breakdown_of_every_peft_method_is_its_census(method: str) -> None:
    peft = {"peft_type": method, "task_type": "CAUSAL_LM", **FIELDS.get(method, {})}
    loaded = assert_routes_agree(Request(model=llama(), peft=peft))
    assert loaded[Category.WEIGHTS] > 0


def test_a_module_that_is_saved_whole_counts_as_weights_and_not_as_adapter() -> None:
    peft = {**LORA, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}
    with_copy = assert_routes_agree(Request(model=llama(), peft=peft))
    without = assert_routes_agree(Request(model=llama(), peft={**peft, "modules_to_save": None}))
    assert with_copy[Category.ADAPTER] == without[Category.ADAPTER]
    assert with_copy[Category.WEIGHTS] > without[Category.WEIGHTS]


def test_the_parameters_of_adaption_prompt_count_as_adapter() -> None:
    peft = {"peft_type": "ADAPTION_PROMPT", "task_type": "CAUSAL_LM", "adapter_len": 2, "adapter_layers": 2}
    assert assert_routes_agree(Request(model=llama(), peft=peft))[Category.ADAPTER] > 0

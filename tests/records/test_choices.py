"""Closed choices are enums, and records check what they are given when they are made."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.training_args import OptimizerNames

from inspector.checks import Choice
from inspector.errors import UsageError
from inspector.records.fit import Quantity
from inspector.records.recipe import Attention, Loop, Precision, Recipe, SdpaBackend
from inspector.records.report import to_plain
from inspector.records.request import LoraBias, LoraOptions, Quantization, Request, WeightDtype
from inspector.records.steps.optimizers import FAMILIES, OPTIMIZERS, OptimizerName

CHOICES: dict[type[Any], dict[str, type[Choice]]] = {
    Recipe: {
        "mixed_precision": Precision,
        "optimizer": OptimizerName,
        "loop": Loop,
        "attention": Attention,
        "sdpa_backend": SdpaBackend,
    },
    Request: {"dtype": WeightDtype, "quantization": Quantization, "fit": Quantity},
    LoraOptions: {"bias": LoraBias},
}
EVERY_CHOICE = [(record, name, kind) for record, kinds in CHOICES.items() for name, kind in kinds.items()]
NEEDED: dict[type[Any], dict[str, Any]] = {Recipe: {}, Request: {"model": "x"}, LoraOptions: {}}


@pytest.mark.parametrize(("record", "name", "kind"), EVERY_CHOICE)
def test_every_member_of_a_choice_is_taken_by_its_text_and_kept_as_the_member(
    record: type[Any], name: str, kind: type[Choice]
) -> None:
    for member in kind:
        for given_value in (member, member.value):
            assert getattr(record(**NEEDED[record], **{name: given_value}), name) is member


@pytest.mark.parametrize(("record", "name", "kind"), EVERY_CHOICE)
def test_text_that_is_no_member_of_a_choice_is_refused_with_the_nearest_one(
    record: type[Any], name: str, kind: type[Choice]
) -> None:
    """The case of letters is no other choice either: `Recipe(loop="Trainer")` once ran the plain loop."""
    for member in kind:
        with pytest.raises(UsageError, match=rf"^`{name}` .* did you mean {member}\?.* use one of ") as caught:
            record(**NEEDED[record], **{name: member.value.capitalize()})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("record", "name", "kind"), EVERY_CHOICE)
@pytest.mark.parametrize("value", [3, 2.5, True, b"auto", ["auto"], object()], ids=lambda value: type(value).__name__)
def test_a_value_that_is_not_text_is_refused_as_a_choice(
    record: type[Any], name: str, kind: type[Choice], value: object
) -> None:
    with pytest.raises(UsageError, match=f"^`{name}` is .*; use one of "):
        record(**NEEDED[record], **{name: value})


@pytest.mark.parametrize("kind", [kind for _, _, kind in EVERY_CHOICE])
def test_a_member_of_a_choice_prints_compares_hashes_and_pickles_as_its_text(kind: type[Choice]) -> None:
    for member in kind:
        text = member.value
        assert (f"{member}", str(member), json.loads(json.dumps(member)), to_plain(member)) == (text,) * 4
        assert member == text
        assert {text: 1}[member] == 1
        assert pickle.loads(pickle.dumps(member)) is copy.deepcopy(member) is member


@pytest.mark.parametrize("kind", [kind for _, _, kind in EVERY_CHOICE])
def test_the_docstring_of_a_choice_explains_its_members(kind: type[Choice]) -> None:
    text = kind.__doc__ or ""
    if kind is OptimizerName:  # those of bitsandbytes are explained as a family
        assert all(name.upper() in text for name in (*FAMILIES["torch"], *FAMILIES["transformers"]))
    else:
        assert [name for name in kind.__members__ if name not in text] == []


def test_the_names_of_transformers_own_enum_are_taken() -> None:
    """`TrainingArguments.optim` is one of them."""
    assert Recipe(optimizer=OptimizerNames.ADAFACTOR).optimizer is OptimizerName.ADAFACTOR
    with pytest.raises(UsageError, match="`optimizer` galore_adafactor is of the package galore_torch"):
        Recipe(optimizer=OptimizerNames.GALORE_ADAFACTOR)


def test_every_optimizer_is_of_one_family() -> None:
    assert sorted(name for names in FAMILIES.values() for name in names) == sorted(OPTIMIZERS)


COUNTS = [(Recipe, "batch_size"), (Recipe, "seq_len"), (Recipe, "gradient_accumulation"), (LoraOptions, "r")]


@pytest.mark.parametrize(("record", "name"), COUNTS)
@pytest.mark.parametrize("value", [0, -1, 2.5, 1.0, "128", True, pytest.param(10**6000, id="huge"), [1]], ids=str)
def test_a_count_is_an_integer_of_at_least_one(record: type[Any], name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"^`{name}` is .*; give an integer of at "):
        record(**{name: value})


@pytest.mark.parametrize(("record", "name"), COUNTS)
def test_a_count_of_numpy_is_taken_as_pythons(record: type[Any], name: str) -> None:
    value = getattr(record(**{name: np.int64(4)}), name)
    assert (type(value), value) == (int, 4)


@pytest.mark.parametrize(
    "value", [-1, float("nan"), float("inf"), "1", True, None, pytest.param(10**6000, id="huge")], ids=repr
)
def test_the_norm_is_a_finite_number(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^`max_grad_norm` is .*; give a finite number of at least 0"):
        Recipe(max_grad_norm=value)


@pytest.mark.parametrize(
    ("record", "name"),
    [
        *((Recipe, name) for name in ("gradient_checkpointing", "use_reentrant", "padding", "use_cache")),
        *((Request, name) for name in ("trust_remote_code", "offline", "double_quant", "autocast_adapter_dtype")),
        *((Request, name) for name in ("assume_defaults",)),
        *((Request, name) for name in ("advice", "count_only")),
        *((LoraOptions, name) for name in ("dora", "rslora")),
    ],
)
@pytest.mark.parametrize("value", ["no", 1, 0.0, []], ids=repr)
def test_a_switch_is_on_or_off(record: type[Any], name: str, value: object) -> None:
    """`offline="no"` would be on, and quietly."""
    with pytest.raises(UsageError, match=f"^`{name}` is .*; give True or False"):
        record(**NEEDED[record], **{name: value})


@pytest.mark.parametrize(
    ("record", "name"),
    [(Recipe, "optim_args"), (Recipe, "alloc_conf"), (Request, "revision"), (Request, "model_class")],
)
@pytest.mark.parametrize("value", [5, b"x", ["x"]], ids=repr)
def test_a_text_field_refuses_values_that_are_not_text(record: type[Any], name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"^`{name}` is .*; give text, as in "):
        record(**NEEDED[record], **{name: value})


@pytest.mark.parametrize("name", ["targets", "modules_to_save"])
@pytest.mark.parametrize("value", [5, ["q_proj", 5], {"q_proj": 1}], ids=repr)
def test_names_of_modules_are_a_list_of_text(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"^`{name}` is "):
        LoraOptions(**{name: value})


@pytest.mark.parametrize("value", [1.0, -0.1, float("nan")])
def test_dropout_is_a_probability_below_one(value: float) -> None:
    with pytest.raises(UsageError, match=r"^`dropout` is "):
        LoraOptions(dropout=value)


@pytest.mark.parametrize(("record", "name", "kind"), EVERY_CHOICE)
def test_a_changed_record_is_checked_again(record: type[Any], name: str, kind: type[Choice]) -> None:
    with pytest.raises(UsageError, match=f"^`{name}` 'x' is not known"):
        dataclasses.replace(record(**NEEDED[record]), **{name: "x"})


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.lists(st.integers(), max_size=2)
)


@given(name=st.sampled_from([item.name for item in dataclasses.fields(Recipe)]), value=ANYTHING)
def test_a_recipe_of_anything_is_a_recipe_or_one_printable_line(name: str, value: Any) -> None:
    message = ""
    try:
        recipe = Recipe(**{name: value})
    except UsageError as error:
        message = str(error)
    else:
        assert dataclasses.replace(recipe) == recipe
    assert message.isprintable()
    assert (f"`{name}`" in message) is (message != "")

"""How records of two shallow models become that of a deep one, by hand-written values."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from inspector.model.depth.records import NotPeriodicError, Periods, extrapolate_record
from inspector.model.depth.worded import drop_facts, word
from inspector.records.notice import Notice


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A record with a field of each kind."""

    count: int = 0
    name: str = ""
    names: tuple[str, ...] = ()
    dtypes: dict[str, int] = field(default_factory=dict)
    share: float = 0.5


# One layer before those that repeat by two, of which two pairs are left, and one behind them.
PAIRS = Periods(path="model.layers", end=5, period=2)


def test_a_number_grows_by_as_much_with_each_period() -> None:
    assert extrapolate_record(Record(count=10), Record(count=13), PAIRS, 10).count == 40
    assert extrapolate_record(Record(count=10), Record(count=10), PAIRS, 10).count == 10


@pytest.mark.parametrize(
    ("shallow", "deeper", "whole"),
    [
        ("model.layers.0-5.mlp", "model.layers.0-7.mlp", "model.layers.0-25.mlp"),
        ("model.layers.0.mlp", "model.layers.0.mlp", "model.layers.0.mlp"),
        ("model.layers.5.mlp", "model.layers.7.mlp", "model.layers.25.mlp"),
        ("model.layers.1,3", "model.layers.1-5:2", "model.layers.1-23:2"),
        ("model.layers.0-1,3,5.mlp", "model.layers.0-1,3,5,7.mlp", "model.layers.0-1,3,5,…,25.mlp"),
        ("base_model.model.model.layers.5.mlp", "base_model.model.model.layers.7.mlp", None),
        ("model.embed", "model.embed", "model.embed"),
    ],
)
def test_a_name_has_the_layers_that_periods_add(shallow: str, deeper: str, whole: str | None) -> None:
    found = extrapolate_record(Record(name=shallow), Record(name=deeper), PAIRS, 10).name
    assert found == (whole or "base_model.model.model.layers.25.mlp")


def test_bytes_by_dtype_are_in_the_order_of_their_size() -> None:
    shallow, deeper = Record(dtypes={"float32": 10, "uint8": 8}), Record(dtypes={"float32": 11, "uint8": 10})
    assert list(extrapolate_record(shallow, deeper, PAIRS, 3).dtypes.items()) == [("uint8", 14), ("float32", 13)]


@pytest.mark.parametrize(
    ("shallow", "deeper"),
    [
        (Record(name="model.layers.0-4"), Record(name="model.layers.0-5")),
        (Record(name="model.layers.0-1,3,…,9"), Record(name="model.layers.0-1,3,…,11")),
        (Record(name="12 layers"), Record(name="13 layers")),
        (Record(names=("a",)), Record(names=("a", "b"))),
        (Record(dtypes={"float32": 1}), Record(dtypes={"float32": 1, "uint8": 1})),
        (Record(dtypes={"float32": 10, "uint8": 8}), Record(dtypes={"float32": 11, "uint8": 10})),  # equal with two
        (Record(share=0.5), Record(share=0.25)),
    ],
)
def test_what_differs_otherwise_says_nothing_of_the_whole_model(shallow: Record, deeper: Record) -> None:
    with pytest.raises(NotPeriodicError):
        extrapolate_record(shallow, deeper, PAIRS, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Facts of a notice."""

    name: str
    part: int
    whole: int

    def word(self) -> Notice:
        """Return the notice."""
        return Notice(code="share", message=f"{self.name}: {self.part} of {self.whole}, {self.part / self.whole:.0%}")


def test_a_notice_is_worded_of_its_facts() -> None:
    """A share that reads alike in both is another one in the whole model."""
    shallow, deeper = (word(Share(name=f"model.layers.0-{last}", part=10_000, whole=10_000 + last)) for last in (4, 6))
    assert [item.message.rpartition(", ")[2] for item in (shallow, deeper)] == ["100%"] * 2
    found = extrapolate_record(shallow, deeper, PAIRS, 100)
    assert drop_facts([found]) == (Notice(code="share", message="model.layers.0-204: 10000 of 10204, 98%"),)

"""What several cards have to hold at least, by hand: the state in shares, and what stays whole on each."""

from __future__ import annotations

import dataclasses

import pytest

from inspector.planning.cards import count_least_cards, spread_over_cards
from inspector.records.fit import Fit, Verdict
from inspector.records.memory import StaticRecipe

# Weights 100, of which 20 train; gradients 20, two moments 40, buffers 5: 165.
STATE = StaticRecipe(frozen_bytes=80, trained_bytes=20, gradients_bytes=20, optimizer_bytes=40, buffers_bytes=5)
ALONE = Verdict(gpu="x", memory_bytes=110, overhead_bytes=10, usable_bytes=100, outcome=Fit.NO, headroom_bytes=-80)


@pytest.mark.parametrize(
    ("sharding", "usable", "least"),
    [
        (None, 85, 2),  # 160 in shares, 5 whole: 80 are left for shares
        ("fsdp", 84, 3),
        ("zero3", 165, 1),
        ("zero2", 125, 3),  # 60 in shares, 105 whole: 20 are left
        ("zero1", 125, None),  # 125 whole
        ("zero1", 126, 40),
    ],
)
def test_the_least_number_of_cards_holds_the_shares_of_the_state(
    sharding: str | None, usable: int, least: int | None
) -> None:
    assert count_least_cards(STATE, usable, sharding) == least


def test_a_no_of_one_card_is_not_known_of_several_that_hold_the_state() -> None:
    two = spread_over_cards(ALONE, 2, None, STATE)
    assert two.outcome is Fit.UNKNOWN
    assert two.cards is not None
    assert (two.cards.count, two.cards.state_bytes, two.cards.least_count) == (2, 165, 2)
    assert two.reason is not None


def test_a_no_of_one_card_stays_one_where_not_even_the_state_fits() -> None:
    one = spread_over_cards(ALONE, 1, "fsdp", STATE)
    assert (one.outcome, one.headroom_bytes) == (Fit.NO, -80)


def test_a_yes_of_one_card_stays_one() -> None:
    fits = dataclasses.replace(ALONE, outcome=Fit.YES, headroom_bytes=3)
    assert spread_over_cards(fits, 8, "zero3", STATE).outcome is Fit.YES

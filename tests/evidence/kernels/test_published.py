"""What Liger published of the memory of its ops, measured on an A100, is what the ops that stand in for them take."""

from __future__ import annotations

import pytest

from tests.evidence.kernels.page import PAGE, compare, page

pytestmark = pytest.mark.filterwarnings("ignore")


def test_every_published_row_is_equal_or_differs_by_what_has_a_cause() -> None:
    assert [(dict(each.row), each.as_modelled, each.as_released) for each in compare() if not each.holds] == []


def test_half_of_the_published_rows_are_equal_as_modelled_and_all_but_three_as_released() -> None:
    assert len(compare()) == 68
    assert sum(not each.as_modelled for each in compare()) == 34
    assert sum(bool(each.as_released) for each in compare()) == 3


def test_the_page_on_kernels_is_what_its_rows_make() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.evidence.kernels.page"

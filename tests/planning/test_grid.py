"""The values that a search looks at."""

from __future__ import annotations

import itertools

import pytest

from inspector.planning.grid import Grid


@pytest.mark.parametrize("unit", [None, 1, 64])
@pytest.mark.parametrize("most", [1, 63, 64, 65, 1_000, 16_383, 16_384, 50_000])
def test_values_of_a_search_grid_rise_to_the_end_of_the_range_and_each_has_a_number(
    unit: int | None, most: int
) -> None:
    """Each number has a value of its own; what lies between two of them has the number of the lower one."""
    grid = Grid(most, unit)
    values = [grid.value(number) for number in range(1, grid.last + 1)]
    assert values == sorted(set(values))
    assert (values[-1], grid.value(grid.last + 5)) == (most, most)
    for number, value in enumerate(values[:-1], 1):
        assert grid.number(value) == number
        assert grid.number(values[number] - 1) == number
    assert grid.number((unit or 1) - 1) == 0


def test_a_search_grid_without_a_unit_has_every_value() -> None:
    """1 to 300."""
    grid = Grid(300)
    assert [grid.value(number) for number in range(1, grid.last + 1)] == list(range(1, 301))


def test_neighbours_in_a_search_grid_lie_less_than_one_percent_or_one_unit_apart() -> None:
    """Up to 256 units each counts: 16,320, 16,384, and from there 16,512; from 512 on each fourth: 32,768, 33,024."""
    grid = Grid(2**20, 64)
    assert [grid.value(number) for number in (255, 256, 257, 384, 385)] == [16_320, 16_384, 16_512, 32_768, 33_024]
    values = [grid.value(number) for number in range(1, grid.last + 1)]
    pairs = list(itertools.pairwise(values))
    assert all(after - before == 64 or after - before <= before / 128 for before, after in pairs)
    assert len(values) == 256 + 6 * 128

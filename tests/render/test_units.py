"""Integers as text: boundaries, signs, sizes beyond any machine, and an order that rounding does not turn around."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector.units import format_bytes, format_count, format_share, format_short_count

HUGE = 10**40
UNIT_BYTES = {"B": 1, **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGTPE", start=1)}}
UNIT_COUNTS = {"": 1, **{prefix: 1000**power for power, prefix in enumerate("KMBTQ", start=1)}}


def hundredths(text: str, units: dict[str, int]) -> int:
    """Read a printed figure back, in hundredths."""
    figure, _, unit = text.partition(" ")
    whole, _, decimals = figure.partition(".")
    value = 100 * abs(int(whole)) + int(decimals or 0)
    return (-value if text.startswith("-") else value) * units[unit]


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (-1024, "-1.00 KiB"),
        # 1023.995 KiB = 1,048,570.88 bytes: the next byte would read 1024.00 KiB.
        (1_048_570, "1023.99 KiB"),
        (1_048_571, "1.00 MiB"),
        (2**20, "1.00 MiB"),
        (536_870_912, "512.00 MiB"),
        (65_527_752_704, "61.03 GiB"),
        (2**60, "1.00 EiB"),
        (2**80, "1048576.00 EiB"),
    ],
)
def test_a_size_never_reads_1024_of_a_unit_that_has_a_larger_one(size_bytes: int, text: str) -> None:
    """A figure never reads 1024 of a unit that has a larger one."""
    assert format_bytes(size_bytes) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1_000, "1.00 K"),
        (999_994, "999.99 K"),
        (999_995, "1.00 M"),
        (-134_217_728, "-134.22 M"),
        (32_763_876_352, "32.76 B"),
        (671_026_404_352, "671.03 B"),
        (10**15, "1.00 Q"),
        (10**20, "100000.00 Q"),
    ],
)
def test_short_counts_at_the_boundaries(count: int, text: str) -> None:
    """Counts use powers of 1000."""
    assert format_short_count(count) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 0, "–"),
        (5, 0, "–"),
        (0, 7, "0.0 %"),
        (7, 7, "100.0 %"),
        (9_999, 10_000, ">99.9 %"),
        (1, 3, "33.3 %"),
        (1, 100, "1.0 %"),
        (9_960, 1_000_000, "1.0 %"),
        (9_940, 1_000_000, "0.99 %"),
        (134_217_728, 32_898_094_080, "0.41 %"),
        (660_480, 33_676_661_760, "0.002 %"),
        (1, 10**9, "<0.0001 %"),
        (-1, 10**9, ">-0.0001 %"),
        (-1, 3, "-33.3 %"),
    ],
)
def test_small_shares_keep_two_significant_digits(part: int, whole: int, text: str) -> None:
    """Small shares keep two significant digits, and nearly all is not all."""
    assert format_share(part, whole) == text


@pytest.mark.parametrize(("number", "text"), [(512, "+512"), (0, "0"), (-1_234, "-1,234")])
def test_a_signed_figure_has_a_plus_where_it_is_positive(number: int, text: str) -> None:
    """A signed figure has a plus unless it is zero or negative."""
    assert format_count(number, signed=True) == text
    assert format_bytes(number, signed=True)[0] == text[0]


@given(st.integers(-HUGE, HUGE))
def test_the_exact_form_of_a_count_reads_back_as_the_number(count: int) -> None:
    """The exact form reads back as the number."""
    assert int(format_count(count).replace(",", "")) == count
    assert int(format_count(count, signed=True).replace(",", "")) == count


@given(st.integers(-HUGE, HUGE), st.integers(-HUGE, HUGE))
def test_a_larger_number_never_reads_smaller(one: int, other: int) -> None:
    """Rounding keeps the order, across units too."""
    smaller, larger = sorted((one, other))
    assert hundredths(format_bytes(smaller), UNIT_BYTES) <= hundredths(format_bytes(larger), UNIT_BYTES)
    assert hundredths(format_short_count(smaller), UNIT_COUNTS) <= hundredths(format_short_count(larger), UNIT_COUNTS)


@given(st.integers(0, 2**70), st.integers(0, 1_024))
def test_close_sizes_keep_their_order_when_they_are_rounded(size: int, step: int) -> None:
    """Close sizes too, where rounding could turn them around."""
    assert hundredths(format_bytes(size), UNIT_BYTES) <= hundredths(format_bytes(size + step), UNIT_BYTES)


@given(st.integers(0, 2**69))
def test_bytes_are_right_to_half_a_hundredth(size: int) -> None:
    """The figure is the nearest that two decimals allow, and between 1 and 1024 of its unit."""
    text = format_bytes(size)
    unit = UNIT_BYTES[text.partition(" ")[2]]
    assert 200 * abs(hundredths(text, UNIT_BYTES) - 100 * size) <= 100 * unit
    assert size < 1024 or 1 <= float(text.split()[0]) < 1024


@given(st.integers(-HUGE, HUGE))
def test_a_negative_reads_as_the_positive_with_a_minus(size: int) -> None:
    """Sign and figure are independent."""
    if size > 0:
        assert format_bytes(-size) == f"-{format_bytes(size)}"
        assert format_short_count(-size) == f"-{format_short_count(size)}"


@given(st.integers(0, HUGE), st.integers(1, HUGE))
def test_any_two_counts_have_a_share_in_percent(part: int, whole: int) -> None:
    """Any two counts have a share, however far apart they are."""
    assert format_share(part, whole).endswith(" %")

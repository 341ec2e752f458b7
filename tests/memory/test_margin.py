"""What is not known of a card, item by item, from the spread of what was seen."""

from __future__ import annotations

import pytest

from inspector.hardware.catalogue import catalogue, find_gpu
from inspector.hardware.memory_size import build_stated_gpu
from inspector.memory.margin import DESKTOP_BYTES, list_uncertainties
from inspector.memory.verdict import find_overhead
from inspector.records.hardware import Gpu

MIB = 2**20


def list_in_mib(gpu: Gpu) -> dict[str, float]:
    """Return what is not known of a card, in MiB."""
    return {item.what: item.bytes / MIB for item in list_uncertainties(gpu, find_overhead(gpu))}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Its context was measured after a step; torch saw 14,912 to 15,109 MiB of it.
        ("t4", {"driver": 197}),
        # Its context is taken to be the 426 MiB of an RTX 6000 Ada, and 665 is the largest known one.
        ("4090", {"CUDA context": 239, "driver": 136, "desktop": 512}),
        # 665 MiB are taken off already: the largest known context.
        ("a100-80gb", {"driver": 213}),
        # Of an RTX 2070 the driver's total alone is known, of which the most that was seen is taken off.
        ("2070", {"CUDA context": 524.125, "desktop": 512}),
    ],
)
def test_each_item_is_the_spread_of_what_was_seen(name: str, expected: dict[str, float]) -> None:
    assert list_in_mib(find_gpu(name).gpu) == expected


def test_a_context_that_was_measured_before_any_kernel_ran_grows_as_a_t4s_did() -> None:
    """426 MiB grow by 36,000 / 104,875 of themselves: 146.23 MiB."""
    assert list_in_mib(find_gpu("rtx 6000 ada").gpu)["CUDA context"] == pytest.approx(426 * 36_000 / 104_875)


def test_a_card_of_which_one_total_was_seen_has_the_largest_spread_of_any() -> None:
    alone = next(gpu for gpu in catalogue() if gpu.memory_figure == "torch" and gpu.memory_spread_bytes is None)
    assert list_in_mib(alone)["driver"] == 329


def test_a_stated_size_may_be_the_nominal_one() -> None:
    assert list_in_mib(build_stated_gpu("24GiB")) == {"driver": 652}


def test_cards_without_a_display_have_no_desktop() -> None:
    shown = {gpu.name for gpu in catalogue() if gpu.has_display}
    assert {"RTX 4090", "RTX A6000"} <= shown
    assert not {"H100 SXM", "T4", "L40S", "A100 80GB", "MI300X"} & shown
    assert DESKTOP_BYTES == 512 * MIB

"""The GPU catalogue: what it holds, and how the names that people write find their card."""

from __future__ import annotations

import re

import pytest

from inspector.errors import UsageError
from inspector.hardware.catalogue import catalogue, find_gpu, list_common_gpus
from inspector.hardware.selection import select
from inspector.memory.verdict import DRIVER_RESERVE_BYTES, judge_untraced
from inspector.records.hardware import MemoryFigure

MIB = 2**20
BY_NAME = {gpu.name: gpu for gpu in catalogue()}


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("a100 80gb", "A100 80GB"),
        ("A100-80GB", "A100 80GB"),
        ("A100-80G", "A100 80GB"),
        ("a100_80gib", "A100 80GB"),
        ("a100-80", "A100 80GB"),
        ("rtx 4090", "RTX 4090"),
        ("RTX4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("h100-sxm", "H100 SXM"),
        ("H100 pcie", "H100 PCIe"),
        ("3090ti", "RTX 3090 Ti"),
        ("a6000", "RTX A6000"),
        ("6000 ada", "RTX 6000 Ada"),
        ("MI300X", "MI300X"),
        ("m3 max 64gb", "Apple 64GB"),
        ("Mac 192GB", "Apple 192GB"),
        ("4060 8gb", "RTX 4060"),
        ("RTX4060Ti 8GB", "RTX 4060 Ti 8GB"),
        ("1080 ti", "GTX 1080 Ti"),
        ("4090 mobile", "RTX 4090 Laptop"),
        ("NVIDIA GeForce RTX 4070 Laptop GPU", "RTX 4070 Laptop"),
        # as torch.cuda.get_device_name() and nvidia-smi spell them
        ("Tesla T4", "T4"),
        ("Tesla V100-SXM2-32GB", "V100 32GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA GeForce RTX 2080 Ti", "RTX 2080 Ti"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000"),
    ],
)
def test_a_name_is_found_as_people_write_it(written: str, name: str) -> None:
    """Case, blanks, hyphens and what stands in front do not matter, and nothing else is meant."""
    found = find_gpu(written)
    assert (found.gpu.name, found.others) == (name, ())


@pytest.mark.parametrize(
    ("written", "name", "others"),
    [
        ("a100", "A100 40GB", ("A100 80GB",)),
        ("v100", "V100 16GB", ("V100 32GB",)),
        ("h100", "H100 SXM", ("H100 PCIe", "H100 NVL")),
        ("rtx 6000", "Quadro RTX 6000", ("RTX 6000 Ada",)),
    ],
)
def test_a_name_of_several_cards_is_the_smallest_of_them(written: str, name: str, others: tuple[str, ...]) -> None:
    """What fits the one with the least memory fits the others, and a notice names them."""
    found = find_gpu(written)
    assert (found.gpu.name, found.others) == (name, others)
    (notice,) = select([written], []).notices
    assert notice.code == "gpu-ambiguous"
    assert all(other in notice.message for other in (written, name, *others))


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("4900", "did you mean RTX 4090"),
        ("l40x", "did you mean L40"),
        ("a100-60gb", "did you mean A100"),
        ("24gb", 'did you mean `gpu_memory="24GiB"`?'),
        ("24", 'did you mean `gpu_memory="24GiB"`?'),
        ("40 gb", 'did you mean `gpu_memory="40GiB"`?'),
        ("192", 'did you mean `gpu_memory="192GiB"`?'),
        ("3090,4090", "give each by itself, `gpu=3090` and `gpu=4090`"),
        ("abacus", "see `inspect gpus`"),
        ("", "see `inspect gpus`"),
        ("nvidia", "see `inspect gpus`"),
    ],
)
def test_a_name_that_nothing_has_gets_a_suggestion(written: str, says: str) -> None:
    """A typo is answered with what was probably meant, anything else with where to look."""
    with pytest.raises(UsageError, match=r"is not in the catalogue|is empty|names several") as caught:
        find_gpu(written)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("409", ["RTX 4090", "RTX 4090 Laptop"]),
        ("4900", ["RTX 4090"]),
        ("4091", ["RTX 4090"]),
        ("4080ti", ["RTX 4080", "RTX 4080 SUPER", "RTX 4080 Laptop"]),
        ("RTX 4090 16GB", ["RTX 4090 Laptop"]),
        ("a100 60", ["A100 40GB", "A10", "A10G"]),
        # Cards that there are, and the catalogue does not have: their numbers are no misspellings.
        ("1060", []),
        ("a4500 20gb", []),
        ("rx 7800 xt", []),
    ],
)
def test_a_near_card_has_the_number_that_was_written_and_no_more_memory(written: str, names: list[str]) -> None:
    """Each is given with its memory; where none is near, the size that was written is what to give."""
    with pytest.raises(UsageError) as caught:
        find_gpu(written)
    proposed = re.findall(r"(?:mean|or) ([^()]+) \(\d+\.\d\d GiB\)", str(caught.value))
    size = re.search(r" (\d\d)(?:gb)?$", written, re.IGNORECASE)
    assert proposed == names
    assert f'`gpu_memory="{size[1] if size else 24}GiB"`' in str(caught.value)
    assert size is None or all(BY_NAME[name].memory_bytes <= int(size[1]) * 2**30 for name in names)


@pytest.mark.parametrize("gpu", catalogue(), ids=lambda gpu: gpu.name)
def test_every_entry_says_where_its_figures_come_from(gpu: object) -> None:
    """A figure without a source would be a guess."""
    card = BY_NAME[gpu.name]  # type: ignore[attr-defined]
    assert card.memory_source
    assert 2**32 <= card.memory_bytes < 2**39
    assert (card.multiprocessors is None) == (card.multiprocessors_source is None)
    assert (card.context_bytes is None) == (card.context_source is None)
    assert (card.compute_capability is None) == (card.threads_per_multiprocessor is None)
    assert card.compute_capability or card.approximates, "where CUDA is only assumed, the verdict says so"
    assert card.name in {find_gpu(card.name).gpu.name, *find_gpu(card.name).others}


def test_a_nominal_size_is_whole_and_part_of_it_is_out_of_reach_of_torch() -> None:
    """The verdict leaves to the driver the most that one was seen to keep, and says so."""
    nominal = [gpu for gpu in catalogue() if gpu.memory_figure is MemoryFigure.NOMINAL]
    assert all(gpu.memory_bytes % 2**30 == 0 and "data sheet" in gpu.memory_source for gpu in nominal)
    verdict = judge_untraced(BY_NAME["RTX 4060"], "not traced")
    assert verdict.usable_bytes == 8 * 2**30 - DRIVER_RESERVE_BYTES - verdict.overhead_bytes
    assert any("what it is sold with" in assumption for assumption in verdict.assumptions)


def test_names_of_gpus_are_unique() -> None:
    """A name is what JSON identifies a card by."""
    assert len(BY_NAME) == len(catalogue())


def test_figures_of_cards_that_were_measured() -> None:
    """T4: the lowest total of torch, 14,912 MiB, and the context of every measured row, 140.875 MiB."""
    t4 = BY_NAME["T4"]
    assert (t4.memory_bytes, t4.memory_figure) == (14_912 * MIB, MemoryFigure.TORCH)
    assert t4.context_bytes == 140.875 * MIB
    assert (t4.compute_capability, t4.multiprocessors, t4.threads_per_multiprocessor) == ((7, 5), 40, 1024)
    a100 = BY_NAME["A100 80GB"]
    assert (a100.compute_capability, a100.multiprocessors, a100.threads_per_multiprocessor) == ((8, 0), 108, 2048)
    assert a100.context_bytes is None


def test_the_list_of_common_cards_is_short_and_sorted() -> None:
    """It is what a report shows where nobody named a GPU."""
    sizes = [gpu.memory_bytes for gpu in list_common_gpus()]
    assert sizes == sorted(sizes)
    assert 5 <= len(sizes) <= 10


def test_without_a_name_the_common_cards_are_chosen_and_figures_are_of_none() -> None:
    selection = select([], [])
    assert (selection.gpus, selection.named, selection.first, selection.notices) == (
        list_common_gpus(),
        False,
        None,
        (),
    )


def test_the_figures_are_those_of_the_first_name() -> None:
    selection = select(["a100-80gb", "t4", "a30", "l4", "A100 80GB"], ["24GiB"])
    assert [gpu.name for gpu in selection.gpus] == ["A100 80GB", "T4", "A30", "L4", "24 GiB"]
    assert selection.first is selection.gpus[0]
    assert selection.notices == ()

"""Boolean masks as indices: `nonzero` inside of the op takes memory that no dispatch mode sees."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from inspector.hardware.platform import Platform
from inspector.records.tape import Category, EventKind
from inspector.trace.kernels.sorting import reduction_bytes, select_bytes
from inspector.trace.shadow import Shadows
from inspector.trace.tracer import Tracer

ROWS, SIZE = 6, 16
HOLDS = torch.tensor([True, False, True, True, False, False])
# What counting and selecting few elements takes: the number, and CUB's own room.
COUNTED = [("aten.nonzero.default", 4), ("aten.nonzero.default", 1)]
SELECTED = ("aten.nonzero.default", 1023)
# (elements, what counting takes, what selecting takes) on torch 2.13's CUDA code over tests/evidence/stand_in, by card.
RECORDED = {
    Platform(torch_version=(2, 13)): ((4096, 1, 1023), (4097, 17663, 1023), (300_000, 17663, 2047)),
    Platform(compute_capability=(8, 9), multiprocessors=142, threads_per_multiprocessor=1536, torch_version=(2, 13)): (
        (30_000, 17407, 1279),
        (3_000_000, 17407, 38399),
    ),
    Platform(compute_capability=(9, 0), multiprocessors=132, threads_per_multiprocessor=2048, torch_version=(2, 13)): (
        (100_000, 21503, 1023),
        (40_000_000, 21503, 76543),
    ),
    Platform(compute_capability=(7, 5), multiprocessors=40, threads_per_multiprocessor=1024, torch_version=(2, 13)): (
        (4097, 3583, 1023),
        (1_000_000, 3583, 13311),
    ),
}


def allocations(run: Callable[[Tensor, Tensor], object]) -> list[tuple[str, int]]:
    """Return the ops and sizes of what runs on values and on a mask of which half holds."""
    values, mask = torch.empty(ROWS, SIZE, device="meta"), torch.empty(ROWS, dtype=torch.bool, device="meta")
    tracer = Tracer(Platform(torch_version=(2, 13)))
    tracer.hold([values, mask], Category.WEIGHTS)
    tracer.shadows.set(mask, HOLDS)
    with tracer:
        result = run(values, mask)
    made = [
        (event.op, event.bytes) for event in tracer.tape() if event.kind is EventKind.ALLOCATE and event.op != "load"
    ]
    del result
    return made


def test_reading_where_a_mask_holds_takes_the_places_and_the_rows() -> None:
    assert allocations(lambda values, mask: values[mask]) == [
        *COUNTED,
        ("aten.nonzero.default", 3 * 8),
        SELECTED,
        ("aten.index.Tensor", 3 * SIZE * 4),
    ]


def test_selecting_by_a_mask_that_is_broadcast_reads_the_places_of_every_dimension() -> None:
    assert allocations(lambda values, mask: values.masked_select(mask.unsqueeze(1))) == [
        ("aten.nonzero.default", ROWS * SIZE),  # the mask, written out
        *COUNTED,
        ("aten.nonzero.default", 3 * SIZE * 2 * 8),
        SELECTED,
        ("aten.index.Tensor", 3 * SIZE * 4),
    ]


def test_writing_where_a_mask_holds_takes_the_places() -> None:
    def write(values: Tensor, mask: Tensor) -> None:
        values[mask] = torch.zeros(3, SIZE, device="meta")

    assert ("aten.nonzero.default", 3 * 8) in allocations(write)


def test_filling_one_value_in_where_a_mask_holds_takes_no_places() -> None:
    def fill(values: Tensor, mask: Tensor) -> None:
        values[mask] = 0.0

    assert all(op != "aten.nonzero.default" for op, _ in allocations(fill))


def test_the_places_of_a_mask_die_with_the_op() -> None:
    values, mask = torch.empty(ROWS, SIZE, device="meta"), torch.empty(ROWS, dtype=torch.bool, device="meta")
    tracer = Tracer(Platform(torch_version=(2, 13)))
    tracer.hold([values, mask], Category.WEIGHTS)
    tracer.shadows.set(mask, HOLDS)
    with tracer:
        read = values[mask]
    assert read.shape == (3, SIZE)
    assert [event.bytes for event in tracer.tape() if event.kind is EventKind.FREE] == [1, 1023, 4, 3 * 8]


def test_scattering_by_a_mask_scans_it() -> None:
    made = allocations(lambda values, mask: values.masked_scatter(mask.unsqueeze(1), torch.empty(48, device="meta")))
    by_the_kernel = [size for op, size in made if op == "aten.masked_scatter.default"]
    assert by_the_kernel[:3] == [ROWS * SIZE * 4, ROWS * SIZE * 8, ROWS * SIZE]  # output, sums, the mask written out
    assert len(by_the_kernel) == 4  # and what CUB takes for the scan


def test_a_mask_without_a_value_says_that_it_has_none() -> None:
    values, mask = torch.empty(ROWS, device="meta"), torch.empty(ROWS, dtype=torch.bool, device="meta")
    with pytest.raises(NotImplementedError, match="nonzero"), Tracer(Platform(torch_version=(2, 13))):
        values[mask]


def test_a_mask_of_tokens_counts_for_each_of_their_features_once_it_is_written_out() -> None:
    """As nonzero does with what is not contiguous (native/cuda/Nonzero.cu)."""

    def select(values: Tensor, mask: Tensor) -> Tensor:
        return values[mask.unsqueeze(-1).expand_as(values)]

    assert allocations(select) == [
        ("aten.nonzero.default", ROWS * SIZE),
        *COUNTED,
        ("aten.nonzero.default", 3 * SIZE * 2 * 8),
        SELECTED,
        ("aten.index.Tensor", 3 * SIZE * 4),
    ]


def test_numbers_and_shapes_follow_from_values_that_are_known() -> None:
    lengths = torch.empty(2, dtype=torch.int64, device="meta")
    tracer = Tracer(Platform(torch_version=(2, 13)))
    tracer.hold([lengths], Category.INPUTS)
    tracer.shadows.set(lengths, torch.tensor([3, 1]))
    with tracer:
        assert lengths.tolist() == [3, 1]
        assert torch.repeat_interleave(lengths, lengths).shape == (4,)
        assert torch.unique_consecutive(torch.repeat_interleave(lengths, lengths)).tolist() == [3, 1]


def test_indices_on_the_cpu_are_copied_for_the_time_of_the_op() -> None:
    """As the windows of Qwen2.5-VL's tower are."""
    places = torch.tensor([5, 0, 3])
    assert allocations(lambda values, _mask: values[places]) == [
        ("aten.index.Tensor", 3 * 8),
        ("aten.index.Tensor", 3 * SIZE * 4),
    ]


@pytest.mark.parametrize("platform", RECORDED, ids=lambda platform: str(platform.compute_capability))
def test_looking_for_places_takes_what_torchs_cuda_code_asks_cub_for(platform: Platform) -> None:
    for elements, counting, selecting in RECORDED[platform]:
        assert (reduction_bytes(platform, elements), select_bytes(platform, elements)) == (counting, selecting)


def test_the_gradient_of_what_was_scattered_is_selected_by_the_mask() -> None:
    def scatter(values: Tensor, mask: Tensor) -> None:
        source = torch.empty(3, device="meta", requires_grad=True)
        torch.zeros(ROWS, device="meta").masked_scatter(mask, source).sum().backward()

    assert allocations(scatter)[-5:] == [
        *COUNTED,
        ("aten.nonzero.default", 3 * 8),
        SELECTED,
        ("aten.index.Tensor", 3 * 4),
    ]


def test_the_pixels_of_many_images_keep_their_values_where_they_are_cut_into_patches() -> None:
    """As Idefics 3 does with 13 images of 364 x 364; masks of queries and keys as large have none."""
    shadows = Shadows()
    pixels = torch.empty(9, 350, 350, dtype=torch.bool, device="meta")
    shadows.set(pixels, torch.ones(pixels.shape, dtype=torch.bool))
    rows = shadows.derive(pixels, lambda item: item.unfold(1, 14, 14))
    value = shadows.run(torch.ops.aten.unfold.default, (rows, 2, 14, 14), {})
    shadows.keep(cut := rows.unfold(2, 14, 14), value)
    counted = shadows.run(torch.ops.aten.sum.dim_IntList, (cut, [-1, -2]), {})
    assert counted.shape == (9, 25, 25)
    assert bool((counted == 14 * 14).all())
    scores = torch.empty(1, 1, 1100, 1000, dtype=torch.bool, device="meta")
    shadows.keep(scores, torch.ones(scores.shape, dtype=torch.bool))
    assert shadows.find(scores) is None

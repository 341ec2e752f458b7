"""Boolean masks as indices: `nonzero` inside of the op takes memory that no dispatch mode sees."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from inspector.hardware.platform import Platform
from inspector.records.tape import Category, EventKind
from inspector.trace.tracer import Tracer

ROWS, SIZE = 6, 16
HOLDS = torch.tensor([True, False, True, True, False, False])


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
        ("aten.nonzero.default", 3 * 8),
        ("aten.index.Tensor", 3 * SIZE * 4),
    ]


def test_selecting_by_a_mask_that_is_broadcast_reads_the_places_of_every_dimension() -> None:
    assert allocations(lambda values, mask: values.masked_select(mask.unsqueeze(1))) == [
        ("aten.nonzero.default", 3 * SIZE * 2 * 8),
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
    assert [event.bytes for event in tracer.tape() if event.kind is EventKind.FREE] == [3 * 8]


def test_scattering_by_a_mask_scans_it() -> None:
    made = allocations(lambda values, mask: values.masked_scatter(mask.unsqueeze(1), torch.empty(48, device="meta")))
    by_the_kernel = [size for op, size in made if op == "aten.masked_scatter.default"]
    assert by_the_kernel[:3] == [ROWS * SIZE * 4, ROWS * SIZE * 8, ROWS * SIZE]  # output, sums, the mask written out
    assert len(by_the_kernel) == 4  # and what CUB takes for the scan


def test_a_mask_without_a_value_says_that_it_has_none() -> None:
    values, mask = torch.empty(ROWS, device="meta"), torch.empty(ROWS, dtype=torch.bool, device="meta")
    with pytest.raises(NotImplementedError, match="nonzero"), Tracer(Platform(torch_version=(2, 13))):
        values[mask]


def test_a_mask_of_tokens_counts_for_each_of_their_features_without_being_written_out() -> None:
    def select(values: Tensor, mask: Tensor) -> Tensor:
        return values[mask.unsqueeze(-1).expand_as(values)]

    assert allocations(select) == [
        ("aten.nonzero.default", 3 * SIZE * 2 * 8),
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

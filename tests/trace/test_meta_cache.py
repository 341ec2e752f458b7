"""What ops return on meta, worked out once: the same as torch's own meta kernels return each time."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from inspector.hardware.platform import Platform, find_installed_torch
from inspector.trace.meta_cache import Results, only_changes_lists, returns_new_tensors
from inspector.trace.tracer import Tracer

aten = torch.ops.aten


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return a meta tensor."""
    return torch.empty(shape, dtype=dtype, device="meta")


def layouts(result: Any) -> list[Any]:
    """Return the layouts of what an op returned."""
    items = [result] if isinstance(result, torch.Tensor) else result
    return [(item.shape, item.stride(), item.dtype, item.untyped_storage().nbytes()) for item in items]


IMAGE = meta(1, 8, 6, 6)
CALLS: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "elementwise": (aten.mul.Tensor, (meta(4, 3).t(), meta(3, 1)), {}),
    "an integer times a float": (aten.mul.Tensor, (meta(4, dtype=torch.int64), 1.0), {}),
    "an integer times an integer": (aten.mul.Tensor, (meta(4, dtype=torch.int64), 1), {}),
    "a cast": (aten._to_copy.default, (meta(2, 2),), {"dtype": torch.bfloat16}),
    "two outputs": (aten.native_dropout.default, (meta(5, 6), 0.1, True), {}),
    "a list": (aten._foreach_sqrt.default, ([meta(2), meta(3, 4)],), {}),
    "channels last": (
        aten.convolution.default,
        (IMAGE.to(memory_format=torch.channels_last), meta(4, 8, 3, 3), None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
        {},
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_cached_op_returns_in_the_second_call_what_it_returned_in_the_first(name: str) -> None:
    """In memory of its own each time."""
    func, args, kwargs = CALLS[name]
    assert returns_new_tensors(func)
    results = Results()
    first, second = (results.run(func, func, args, kwargs) for _ in range(2))
    assert layouts(first) == layouts(second) == layouts(func(*args, **kwargs))
    assert type(first) is type(second)
    storages = [
        item.untyped_storage()._cdata
        for result in (first, second)
        for item in ([result] if isinstance(result, torch.Tensor) else result)
    ]
    assert len(set(storages)) == len(storages)


def test_equal_numbers_of_other_types_are_other_keys_of_the_result_cache() -> None:
    """1 keeps integers, 1.0 makes floats of them."""
    results, values = Results(), meta(4, dtype=torch.int64)
    dtypes = [results.run(aten.mul.Tensor, aten.mul.Tensor, (values, number), {}).dtype for number in (1, 1.0, True)]
    assert dtypes == [torch.int64, torch.float32, torch.int64]


def test_a_cached_result_that_is_a_view_shares_memory_with_its_argument() -> None:
    """`_unsafe_view` is a view, though its schema says nothing of it."""
    values, results = meta(4, 6), Results()
    for _ in range(2):
        view = results.run(aten._unsafe_view.default, aten._unsafe_view.default, (values, [24]), {})
        assert view.untyped_storage()._cdata == values.untyped_storage()._cdata


def test_a_cached_op_with_a_scalar_cpu_tensor_keeps_the_dtype_of_the_other_argument() -> None:
    """A number that became a tensor promotes otherwise than a tensor does."""
    results = Results()
    for number in (torch.tensor(2, dtype=torch.int64), torch.tensor(2.0, dtype=torch.float64)):
        made = results.run(aten.mul.Tensor, aten.mul.Tensor, (meta(3, dtype=torch.bfloat16), number), {})
        assert made.dtype is torch.bfloat16


def test_the_schema_of_an_op_says_whether_it_returns_new_tensors_or_only_changes_lists() -> None:
    """Views and in-place ops are not; foreach ops in place change the tensors of their lists and return nothing."""
    assert not returns_new_tensors(aten.view.default)
    assert not returns_new_tensors(aten.add_.Tensor)
    assert only_changes_lists(aten._foreach_mul_.Scalar)
    assert not only_changes_lists(aten._foreach_mul.Scalar)


def test_another_default_dtype_is_another_key_of_the_result_cache() -> None:
    """Integers become floats of the default dtype where they are divided."""
    results, values = Results(), meta(4, dtype=torch.int64)
    dtypes = []
    try:
        for default in (torch.float32, torch.float64):
            torch.set_default_dtype(default)
            dtypes.append(results.run(aten.div.Tensor, aten.div.Tensor, (values, 2), {}).dtype)
    finally:
        torch.set_default_dtype(torch.float32)
    assert dtypes == [torch.float32, torch.float64]


def test_the_result_cache_drops_the_oldest_result_when_it_is_full() -> None:
    """The oldest goes first, and what went is worked out again."""
    runs: list[int] = []

    def count(values: torch.Tensor) -> torch.Tensor:
        runs.append(len(values))
        return torch.sqrt(values)

    results = Results(most=2)
    for size in (1, 2, 3, 2, 1):
        assert results.run(aten.sqrt.default, count, (meta(size),), {}).shape == (size,)
        assert len(results) <= 2
    assert runs == [1, 2, 3, 1]


def kept() -> int:
    """Return how many results are alive, whoever holds them."""
    gc.collect()
    return sum(len(item) for item in gc.get_objects() if type(item) is Results)


def test_results_of_ops_outlive_a_tracer_only_in_a_cache_that_was_handed_in() -> None:
    """Two traces of one op: with results of their own, and with shared ones, where the second adds nothing."""
    before, shared, values = kept(), Results(), meta(3)
    for given, alive in ((None, 0), (None, 0), (shared, 1), (shared, 1)):
        with Tracer(Platform(torch_version=find_installed_torch()), results=given) as tracer:
            torch.mul(values, 2.0)
        assert kept() > before
        del tracer
        assert kept() == before + alive

"""Sparse matrices with trained values, as adapters have them: what torch's CUDA code takes to add them to dense ones.

A sparse tensor has no storage of its own, so a dispatch mode cannot follow it. Inside the block
`torch.sparse_coo_tensor` of values on meta returns a stand-in that knows its places and values, and what is done with
it runs as dense ops that allocate and free what torch's own do, in their order.

Source: SparseCUDATensorMath.cu (`add_out_dense_sparse_cuda`), SparseTensor.cpp and SparseTensorMath.cpp (`sparse_mask`,
`_mul_dense_sparse_out`) of ATen/native/sparse, and tools/autograd/derivatives.yaml; every request was seen on torch's
CUDA build (tests/evidence/stand_in).
Not covered: products with sparse matrices, whose library takes buffers of sizes that were not measured (FRoD).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from inspector.errors import NotTraceableError
from inspector.runtime.patches import replace_attribute, restore_changes

__all__ = ["stand_in_for_sparse_matrices"]


@contextlib.contextmanager
def stand_in_for_sparse_matrices() -> Iterator[None]:
    """Make stand-ins of sparse matrices on meta inside the block."""
    make = torch.sparse_coo_tensor

    def make_sparse(indices: Tensor, values: Any = None, size: Any = None, **options: Any) -> Any:
        """Return a sparse matrix, or what stands in for it."""
        if isinstance(values, Tensor) and values.is_meta and values.dim() == 1 and len(size) == 2:
            return _SparseMatrix(indices, values, size)
        return make(indices, values, size, **options)

    with restore_changes():
        replace_attribute(torch, "sparse_coo_tensor", make_sparse)
        yield


class _SparseMatrix:
    """A matrix of `size` with values at `indices` of [2, count], which are not coalesced."""

    def __init__(self, indices: Tensor, values: Tensor, size: Sequence[int]) -> None:
        self.indices = indices.to(torch.int64)
        self.values = _Place.apply(values, self.indices, tuple(size))  # type: ignore[no-untyped-call]

    def coalesce(self) -> NoReturn:
        """Refuse what goes on to products with a sparse matrix."""
        raise NotTraceableError(
            "no source says what NVIDIA's cuSPARSE takes for products with sparse matrices (FRoD), which has to be "
            "measured on a GPU"
        )

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Add a sparse matrix to a dense one in place; nothing else is known here."""
        if func not in (Tensor.__iadd__, Tensor.add_) or kwargs:
            raise NotTraceableError(f"{getattr(func, '__name__', func)} of a sparse matrix is not traced")
        dense, sparse = args
        return _AddInPlace.apply(dense, sparse.values, sparse.indices.shape[1])  # type: ignore[no-untyped-call]


class _Place(torch.autograd.Function):
    """Values placed in a matrix: its gradient is what the gradient of the matrix has at their places."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, size: tuple[int, ...]) -> Tensor:
        """Return something of the matrix's shape that is no more memory: a view of the values."""
        ctx.save_for_backward(values, indices)
        return values.detach()[:1].expand(size)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient times a mask of ones at the places: `grad.sparse_mask(result)._values()`."""
        values, indices = ctx.saved_tensors
        one = values.new_empty(1)
        found = gradient.new_empty(values.shape)
        places = torch.empty_like(indices)
        product = values.new_empty(values.shape)
        del found, one, places
        return product, None, None


class _AddInPlace(torch.autograd.Function):
    """A dense matrix with a sparse one added to it."""

    @staticmethod
    def forward(ctx: Any, dense: Tensor, matrix: Tensor, count: int) -> Tensor:
        """Add: where dtypes differ in copies of the common one; places become one number each."""
        ctx.mark_dirty(dense)
        common = torch.result_type(dense, matrix)
        result = dense if dense.dtype is common else torch.empty_like(dense, dtype=common)
        summed = dense if dense.dtype is common else torch.empty_like(dense, dtype=common)
        places = torch.empty(count, dtype=torch.int64, device=dense.device)
        del places
        del summed
        del result
        return dense

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        """Return the gradient for both; autograd casts it where dtypes differ."""
        return gradient if ctx.needs_input_grad[0] else None, gradient, None

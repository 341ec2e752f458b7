"""What bitsandbytes' functions on quantized weights allocate, in their order, without the library.

Sources: bitsandbytes 0.50, functional.py, autograd/_functions.py and backends/cuda/ops.py. Kernels run into nothing:
tensors are made as there, on the meta device, and hold no data. The functions that the layers call are in `modules`.

LLM.int8() computes the columns of an input that hold outliers apart, in float16. Which columns depends on data: here
none does, which the report says.

Not covered: weights saved by bitsandbytes with another block size than the default of 64, and CPU or ROCm kernels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from inspector.dtypes import dtype_name
from inspector.quantization.bitsandbytes.products import is_fused
from inspector.runtime.patches import replace_item, restore_changes, restore_items_at_end

__all__ = [
    "BLOCK",
    "MatMul8bit",
    "QuantState",
    "choose_products_for",
    "copy_tensor",
    "dequantize_4bit",
    "int8_vectorwise_dequant",
    "matmul_4bit",
    "quantize_4bit",
    "renew_shared_tables",
]

# Weights of one absmax, and absmax values of one second-level absmax (functional.py, quantize_4bit).
BLOCK = 64
_NESTED_BLOCK = 256
# Values of a 4-bit type, and of the table that says what an 8-bit absmax means.
_CODE = 16
_TABLE = 256

# The table of 8-bit absmax values is made once for each device and shared by all weights (functional.py, name2qmap).
_TABLES: dict[str, Tensor] = {}
# The GPU whose choice between the fused product and a dequantized weight is followed.
_GPU: dict[str, tuple[tuple[int, int], int]] = {"followed": ((8, 0), 108)}


@contextlib.contextmanager
def choose_products_for(capability: tuple[int, int], multiprocessors: int) -> Iterator[None]:
    """Choose kernels as a GPU of this compute capability does inside the block."""
    with restore_changes():
        replace_item(_GPU, "followed", (capability, multiprocessors))
        yield


@contextlib.contextmanager
def renew_shared_tables() -> Iterator[None]:
    """Make the tables that weights share anew inside the block, as the first load of a process does."""
    with restore_changes():
        restore_items_at_end(_TABLES)
        _TABLES.clear()
        yield


@dataclass(slots=True, kw_only=True)
class QuantState:
    """What belongs to a packed weight: scales of its blocks, and how they are packed where that is done twice."""

    absmax: Tensor
    shape: torch.Size
    dtype: torch.dtype
    code: Tensor
    quant_type: str = "nf4"
    blocksize: int = BLOCK
    offset: Tensor | None = None
    state2: QuantState | None = None

    @property
    def nested(self) -> bool:
        """Tell whether the scales are packed too."""
        return self.state2 is not None

    def copy(self) -> QuantState:
        """Copy the state with its tensors, in the order of the library's attributes."""
        absmax, code = copy_tensor(self.absmax), copy_tensor(self.code)
        offset = None if self.offset is None else copy_tensor(self.offset)
        state2 = None if self.state2 is None else self.state2.copy()
        return replace(self, absmax=absmax, code=code, offset=offset, state2=state2)

    def list_tensors(self) -> list[Tensor]:
        """Return the tensors of the state, those of packed scales included."""
        mine = [self.absmax, self.code, *([self.offset] if self.offset is not None else [])]
        return [*mine, *(self.state2.list_tensors() if self.state2 is not None else [])]


def copy_tensor(tensor: Tensor) -> Tensor:
    """Allocate what `copy.deepcopy` allocates: the copy, and one element that is freed at once (torch/_tensor.py)."""
    copied = torch.empty_like(tensor)
    element = torch.empty((), dtype=tensor.dtype, device=tensor.device)
    del element
    return copied


# --- 4 bits -----------------------------------------------------------------------------------------------------------


def quantize_4bit(weight: Tensor, quant_type: str, storage: torch.dtype, *, nested: bool) -> tuple[Tensor, QuantState]:
    """Make what packing a weight makes (functional.py, quantize_4bit)."""
    count = weight.numel()
    absmax = torch.empty(-(-count // BLOCK), dtype=torch.float32, device=weight.device)
    packed = torch.empty(((count + 1) // (2 * storage.itemsize), 1), dtype=storage, device=weight.device)
    code = torch.empty(_CODE, dtype=torch.float32, device=weight.device)
    code.div_(code.abs().max())
    state = QuantState(absmax=absmax, shape=weight.shape, dtype=weight.dtype, code=code, quant_type=quant_type)
    if nested:
        state.offset = absmax.mean()
        state.absmax, state.state2 = _quantize_blockwise(absmax - state.offset)
    return packed, state


def _quantize_blockwise(values: Tensor) -> tuple[Tensor, QuantState]:
    """Make what packing scales into bytes makes (functional.py, quantize_blockwise)."""
    if "dynamic" not in _TABLES:
        _TABLES["dynamic"] = torch.empty(_TABLE, dtype=torch.float32, device=values.device)
    absmax = torch.empty(-(-values.numel() // _NESTED_BLOCK), dtype=torch.float32, device=values.device)
    packed = torch.empty(values.shape, dtype=torch.uint8, device=values.device)
    code = torch.empty_like(_TABLES["dynamic"])
    return packed, QuantState(
        absmax=absmax, shape=values.shape, dtype=values.dtype, code=code, blocksize=_NESTED_BLOCK, quant_type=""
    )


def dequantize_4bit(packed: Tensor, state: QuantState) -> Tensor:
    """Make what unpacking a weight makes: the scales in float32 where they are packed, and the weight."""
    if state.nested:
        absmax = torch.empty(state.absmax.shape, dtype=torch.float32, device=packed.device)
        assert state.offset is not None
        absmax += state.offset
    return torch.empty(state.shape, dtype=state.dtype, device=packed.device)


def matmul_4bit(x: Tensor, weight: Tensor, state: QuantState, bias: Tensor | None) -> Tensor:
    """Multiply by a packed weight (autograd/_functions.py, matmul_4bit)."""
    packed = weight.view(-1, 1)
    if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
        product: Tensor = _MatMul4Bit.apply(x, packed, state, bias)  # type: ignore[no-untyped-call]  # so is torch's
        return product
    return _gemm_4bit(x, packed, state, bias)


def _gemm_4bit(x: Tensor, packed: Tensor, state: QuantState, bias: Tensor | None) -> Tensor:
    """Multiply in one fused kernel, or by the weight dequantized into the dtype of the input (backends/cuda/ops.py)."""
    rows, columns = state.shape
    if columns % state.blocksize == 0 and _is_fused(x, rows, columns):
        return torch.empty((*x.shape[:-1], rows), dtype=x.dtype, device=x.device)
    scales = [state.absmax]
    if state.nested:
        assert state.offset is not None
        absmax = torch.empty_like(state.absmax, dtype=torch.float32)
        scales += [absmax, absmax + state.offset]
        del absmax
    weight = torch.empty(tuple(state.shape), dtype=x.dtype, device=packed.device)
    product = torch.nn.functional.linear(x, weight, bias)
    del scales  # they live as long as the product takes
    return product


def _is_fused(x: Tensor, rows: int, columns: int) -> bool:
    """Tell whether the GPU multiplies without a dequantized weight."""
    capability, multiprocessors = _GPU["followed"]
    return is_fused(
        x.numel() // columns,
        rows,
        columns,
        dtype=dtype_name(x.dtype),
        capability=capability,
        multiprocessors=multiprocessors,
    )


class _MatMul4Bit(torch.autograd.Function):
    """The product for training: nothing is kept but the packed weight itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, state: QuantState, bias: Tensor | None) -> Tensor:
        """Multiply."""
        ctx.packed, ctx.state = packed, state
        ctx.bias_dtype = None if bias is None else bias.dtype
        return _gemm_4bit(x, packed, state, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor | None]:
        """Dequantize again for the gradient of the input."""
        grad_x = grad_bias = None
        if ctx.needs_input_grad[3]:
            grad_bias = grad.sum(0, dtype=ctx.bias_dtype)
        if ctx.needs_input_grad[0]:
            grad_x = torch.matmul(grad, dequantize_4bit(ctx.packed, ctx.state).to(grad.dtype))
        return grad_x, None, None, grad_bias


# --- 8 bits -----------------------------------------------------------------------------------------------------------


def int8_vectorwise_dequant(weight: Tensor, scales: Tensor) -> Tensor:
    """Make the weight in float32 (backends/default/ops.py)."""
    return weight * scales.view(-1, 1) * 7.874015718698502e-3


def _quantize_rows(x: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor | None]:
    """Make what quantizing the rows of an input makes, without outliers (backends/cuda/ops.py)."""
    scales = torch.empty(x.shape[0], dtype=torch.float32, device=x.device)
    rows = torch.empty(x.shape, dtype=torch.int8, device=x.device)
    columns = None
    if threshold > 0:
        outliers = x.abs() >= threshold
        outliers.any()
        columns = torch.empty(0, dtype=torch.int64, device=x.device)
    return rows, scales, columns


class MatMul8bit(torch.autograd.Function):
    """The product of LLM.int8(): int32 sums, scaled into float16; the input is kept as it came."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Any, bias: Tensor | None, threshold: float) -> Tensor:
        """Quantize the input and multiply."""
        ctx.shape, ctx.dtype, ctx.weight = x.shape, x.dtype, weight
        ctx.bias_dtype = None if bias is None else bias.dtype
        rows = x.reshape(-1, x.shape[-1])
        half = rows.to(torch.float16)
        quantized, scales, ctx.columns = _quantize_rows(half, threshold)
        del half
        sums = torch.empty((quantized.shape[0], weight.shape[0]), dtype=torch.int32, device=x.device)
        product = torch.empty_like(sums, dtype=torch.float16)
        if bias is not None and bias.dtype != torch.float16:
            product.add_(bias)
        product = product.to(x.dtype)
        del sums, quantized, scales
        ctx.kept = rows if ctx.needs_input_grad[0] else None
        return product.reshape(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        """Dequantize the weight into the dtype of the input for its gradient."""
        grad_x = grad_bias = None
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(0, dtype=ctx.bias_dtype)
        grad = grad.reshape(-1, grad.shape[-1]).contiguous()
        if ctx.needs_input_grad[0]:
            scales: Tensor = ctx.weight.SCB
            weight = ctx.weight.data.to(ctx.dtype, copy=True).mul_(scales.unsqueeze(1).mul(1.0 / 127.0))
            grad_x = torch.matmul(grad.to(ctx.dtype), weight).view(ctx.shape)
        return grad_x, None, grad_bias, None

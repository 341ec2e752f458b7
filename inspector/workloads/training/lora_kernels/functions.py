"""The autograd functions of axolotl's LoRA kernels: what each makes, keeps and frees, in its order.

Source: axolotl 0.21.0, kernels/lora.py (`matmul_lora`, `LoRA_MLP`, `LoRA_QKV`, `LoRA_O`), kernels/quantize.py and
kernels/{swiglu,geglu}.py, whose backward writes over what comes in. A product that is kept in float32 is one of cuBLAS
with `out_dtype`, which takes nothing beside (`_gradient_mm`).

Not covered: DoRA, biases of adapters, weights in 8 bits, and autocast to another dtype than that of the hidden states,
which these functions do not survive either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inspector.quantization.bitsandbytes.functional import QuantState, dequantize_4bit

__all__ = ["AttentionLayers", "GatedLayers", "OutputLayer", "Weights"]

_Pair = tuple[Tensor | None, Tensor | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What a projection multiplies by: its weight and bias, how the weight is packed, and the adapter, if it is on."""

    weight: Tensor
    bias: Tensor | None
    state: QuantState | None
    a: Tensor | None
    b: Tensor | None
    scale: float | None


def _unpack(weight: Tensor, state: QuantState | None) -> Tensor:
    """Return a weight as it is multiplied by (quantize.py, `dequantize`).

    A weight that is packed once alone goes through bitsandbytes' own function.
    """
    if state is None:
        return weight
    if not state.nested:
        return dequantize_4bit(weight, state)
    assert state.offset is not None
    out = torch.empty(tuple(state.shape), dtype=state.dtype, device=weight.device)
    absmax = torch.empty(state.absmax.numel(), dtype=torch.float32, device=weight.device)
    absmax += state.offset
    return out


def _add_adapter(x: Tensor, x_drop: Tensor | None, of: Weights) -> Tensor:
    """Return a product with a weight and, added in its place, that of its adapter (`matmul_lora`)."""
    return _multiply(x, of, (of.a, of.b), x_drop, turned=True)


def _multiply(
    x: Tensor, of: Weights, matrices: tuple[Tensor | None, Tensor | None], x_drop: Tensor | None, *, turned: bool
) -> Tensor:
    """Return the product with a weight, transposed and with its bias as in the forward pass, or as in the backward."""
    a, b = matrices
    weight = _unpack(of.weight, of.state)
    if turned:
        weight = weight.t()
    shape = x.shape
    if x.dim() == 3:
        x = x.view(-1, shape[-1])
        x_drop = None if x_drop is None else x_drop.view(-1, shape[-1])
    out = torch.matmul(x, weight)
    del weight
    if a is not None and b is not None and of.scale is not None:
        x_lora = x if x_drop is None else x_drop
        a, b = a.t().to(x.dtype), b.t().to(x.dtype)
        out.addmm_(x_lora @ a, b, alpha=of.scale)
    if turned and of.bias is not None:
        out += of.bias
    return out.view(shape[0], shape[1], -1) if len(shape) == 3 else out


def _cast(of: Weights, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    """Return the matrices of an adapter as they are kept for the backward pass."""
    return None if of.a is None else of.a.to(dtype), None if of.b is None else of.b.to(dtype)


def _find_dtypes(of: Weights) -> tuple[torch.dtype | None, torch.dtype | None]:
    """Return the dtypes of an adapter's own matrices."""
    return None if of.a is None else of.a.dtype, None if of.b is None else of.b.dtype


def _multiply_gradient(left: Tensor, right: Tensor, dtype: torch.dtype | None, scale: float) -> Tensor:
    """Return the gradient of a matrix of an adapter (`_gradient_mm`)."""
    if dtype is torch.float32 and left.dtype in (torch.float16, torch.bfloat16):
        kept = torch.empty((left.shape[0], right.shape[1]), device=left.device, dtype=torch.float32)
        return kept.mul_(scale)
    result = torch.empty((left.shape[0], right.shape[1]), device=left.device, dtype=left.dtype)
    return result.addmm_(left, right, alpha=scale, beta=0)


def _find_gradients(
    x_t: Tensor, grad: Tensor, a: Tensor, grad_b: Tensor, scale: float, dtypes: Sequence[torch.dtype | None]
) -> tuple[Tensor, Tensor]:
    """Return the gradients of both matrices of an adapter, transposed (`_lora_parameter_gradients`)."""
    return (
        _multiply_gradient(x_t, grad_b, dtypes[0], scale),
        _multiply_gradient(a @ x_t, grad, dtypes[1], scale),
    )


def _turn(matrix: Tensor | None) -> Tensor | None:
    return None if matrix is None else matrix.t()


class GatedLayers(torch.autograd.Function):
    """`LoRA_MLP`: gate and up are kept and overwritten by their gradients; what goes into down is made again."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, x_drop: Tensor | None, weights: Sequence[Weights], *_matrices: Tensor | None
    ) -> Tensor:
        """Return the output of an MLP; the matrices of its adapters are given so that they get gradients."""
        gate_of, up_of, down_of = weights
        gate = _add_adapter(x, x_drop, gate_of)
        up = _add_adapter(x, x_drop, up_of)
        hidden = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
        output = _add_adapter(hidden, None, down_of)
        kept = [matrix for of in weights for matrix in _cast(of, x.dtype)]
        ctx.save_for_backward(x, x if x_drop is None else x_drop, gate, up, *kept)
        ctx.weights, ctx.has_dropout = weights, x_drop is not None
        ctx.dtypes = [_find_dtypes(of) for of in weights]
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the input and of the adapters."""
        gate_of, up_of, down_of = ctx.weights
        x, x_lora, gate, up, gate_a, gate_b, up_a, up_b, down_a, down_b = ctx.saved_tensors
        batch, length, size = x.shape
        grad_output = gradients[0].view(-1, gradients[0].shape[-1])
        x, x_lora = x.view(-1, size), x_lora.view(-1, size)
        gate, up = gate.view(-1, gate.shape[-1]), up.view(-1, up.shape[-1])

        hidden = _multiply(grad_output, down_of, (_turn(down_b), _turn(down_a)), None, turned=False)
        grad_gate, grad_up = gate, up  # written over, as the gradient of what goes into down is by that input itself
        d_down: _Pair = (None, None)
        d_up: _Pair = (None, None)
        d_gate: _Pair = (None, None)
        grad_b_up = grad_b_gate = None
        if down_a is not None:
            grad_b_down = grad_output @ down_b
            d_down = _find_gradients(hidden.t(), grad_output, down_a, grad_b_down, down_of.scale, ctx.dtypes[2])
        if up_a is not None:
            grad_b_up = grad_up @ up_b
            d_up = _find_gradients(x_lora.t(), grad_up, up_a, grad_b_up, up_of.scale, ctx.dtypes[1])
        if gate_a is not None:
            grad_b_gate = grad_gate @ gate_b
            d_gate = _find_gradients(x_lora.t(), grad_gate, gate_a, grad_b_gate, gate_of.scale, ctx.dtypes[0])

        dx = dx_drop = None
        if ctx.needs_input_grad[0]:
            weight = _unpack(up_of.weight, up_of.state)
            dx = torch.matmul(grad_up, weight)
            del weight
            weight = _unpack(gate_of.weight, gate_of.state)
            dx.addmm_(grad_gate, weight)
            del weight
            dx_drop = torch.zeros_like(x_lora) if ctx.has_dropout else None
            target = dx if dx_drop is None else dx_drop
            if grad_b_up is not None:
                target.addmm_(grad_b_up, up_a, alpha=up_of.scale)
            if grad_b_gate is not None:
                target.addmm_(grad_b_gate, gate_a, alpha=gate_of.scale)
            dx = dx.view(batch, length, size)
            dx_drop = None if dx_drop is None else dx_drop.view(batch, length, size)
        return dx, dx_drop, None, *(_turn(matrix) for pair in (d_gate, d_up, d_down) for matrix in pair)


class AttentionLayers(torch.autograd.Function):
    """`LoRA_QKV`: queries, keys and values of one input, whose gradients are added up in place."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, x_drop: Tensor | None, weights: Sequence[Weights], *_matrices: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Return the output of each projection."""
        q, k, v = (_add_adapter(x, x_drop, of) for of in weights)
        kept = [matrix for of in weights for matrix in _cast(of, x.dtype)]
        ctx.save_for_backward(x, x if x_drop is None else x_drop, *kept)
        ctx.weights, ctx.has_dropout = weights, x_drop is not None
        ctx.dtypes = [_find_dtypes(of) for of in weights]
        return q, k, v

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the input and of the adapters."""
        q_of, k_of, v_of = ctx.weights
        x, x_lora, q_a, q_b, k_a, k_b, v_a, v_b = ctx.saved_tensors
        shape = x.shape
        q_grad, k_grad, v_grad = (grad.reshape(-1, grad.shape[-1]) for grad in gradients)
        x_lora = x_lora.view(-1, shape[-1])
        x_t = x_lora.t()
        d_q: _Pair = (None, None)
        d_k: _Pair = (None, None)
        d_v: _Pair = (None, None)
        q_grad_b = k_grad_b = v_grad_b = None
        if q_a is not None:
            q_grad_b = q_grad @ q_b
            d_q = _find_gradients(x_t, q_grad, q_a, q_grad_b, q_of.scale, ctx.dtypes[0])
        if k_a is not None:
            k_grad_b = k_grad @ k_b
            d_k = _find_gradients(x_t, k_grad, k_a, k_grad_b, k_of.scale, ctx.dtypes[1])
        if v_a is not None:
            v_grad_b = v_grad @ v_b
            d_v = _find_gradients(x_t, v_grad, v_a, v_grad_b, v_of.scale, ctx.dtypes[2])
        weight = _unpack(q_of.weight, q_of.state)
        dx = torch.mm(q_grad, weight)
        del weight
        weight = _unpack(k_of.weight, k_of.state)
        dx.addmm_(k_grad, weight)
        del weight
        weight = _unpack(v_of.weight, v_of.state)
        dx.addmm_(v_grad, weight)
        del weight
        dx_drop = torch.zeros_like(x_lora) if ctx.has_dropout else None
        target = dx if dx_drop is None else dx_drop
        if q_grad_b is not None:
            target.addmm_(q_grad_b, q_a, alpha=q_of.scale)
        if k_grad_b is not None:
            target.addmm_(k_grad_b, k_a, alpha=k_of.scale)
        if v_grad_b is not None:
            target.addmm_(v_grad_b, v_a, alpha=v_of.scale)
        dx_drop = None if dx_drop is None else dx_drop.view(shape)
        return dx.view(shape), dx_drop, None, *(_turn(matrix) for pair in (d_q, d_k, d_v) for matrix in pair)


class OutputLayer(torch.autograd.Function):
    """`LoRA_O`: the output of attention."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, x_drop: Tensor | None, weights: Sequence[Weights], *_matrices: Tensor | None
    ) -> Tensor:
        """Return the output of a projection."""
        (of,) = weights
        output = _add_adapter(x, x_drop, of)
        ctx.save_for_backward(*_cast(of, x.dtype), x, x if x_drop is None else x_drop)
        ctx.of, ctx.has_dropout, ctx.dtypes = of, x_drop is not None, _find_dtypes(of)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the input and of the adapter."""
        of = ctx.of
        a, b, x, x_lora = ctx.saved_tensors
        shape = x.shape
        grad = gradients[0].reshape(-1, gradients[0].shape[-1])
        x_lora = x_lora.reshape(-1, shape[-1])
        d_a = d_b = grad_b = None
        if a is not None:
            grad_b = grad @ b
            x_t = x_lora.t()
            d_a, d_b = _find_gradients(x_t, grad, a, grad_b, of.scale, ctx.dtypes)
        weight = _unpack(of.weight, of.state)
        dx = grad @ weight
        del weight
        dx_drop = None
        if grad_b is not None:
            if ctx.has_dropout:
                dx_drop = (grad_b @ a * of.scale).view(shape)
            else:
                dx.addmm_(grad_b, a, alpha=of.scale)
        return dx.view(shape), dx_drop, None, _turn(d_a), _turn(d_b)

"""Liger's kernels of layers: norms, gated products and rotary positions, which keep less than autograd would.

Source: liger-kernel 0.8.5, ops/{rms_norm,swiglu,geglu,rope}.py and transformers/monkey_patch.py, which says what is
patched in a model of which type.

Not covered: experts, vision towers, layer norms, and the types that are not in the table.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inspector.records.steps.losses import LigerKernel
from inspector.runtime.patches import replace_attribute, restore_changes
from inspector.trace.target import find_target

__all__ = ["RmsNorm", "apply_layer_kernels", "list_layer_kernels"]

_ROPE = "apply_rotary_pos_emb"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """What Liger patches in models of a type: the kernel of the MLP, and whether norms write over their gradient."""

    mlp: LigerKernel = LigerKernel.SWIGLU
    in_place: bool = True


_FAMILIES: Mapping[str, _Family] = {
    **dict.fromkeys(("llama", "mistral", "ministral", "phi3", "qwen2", "qwen3", "smollm3"), _Family()),
    "gemma": _Family(mlp=LigerKernel.GEGLU),
    **dict.fromkeys(("gemma2", "gemma3_text"), _Family(mlp=LigerKernel.GEGLU, in_place=False)),
}


def list_layer_kernels(base: Any) -> tuple[LigerKernel, ...] | None:
    """Return the kernels that `use_liger_kernel` switches on in layers of a model, None where they are not known."""
    family = _FAMILIES.get(base.config.model_type)
    return None if family is None else (LigerKernel.ROPE, LigerKernel.RMS_NORM, family.mlp)


@contextlib.contextmanager
def apply_layer_kernels(base: Any, kernels: tuple[LigerKernel, ...]) -> Iterator[None]:
    """Let the layers of a model run Liger's kernels inside the block; kernels that it has no use for change nothing."""
    family = _FAMILIES.get(base.config.model_type)
    if family is None:
        yield
        return
    with restore_changes():
        if LigerKernel.ROPE in kernels:
            replace_attribute(sys.modules[type(base).__module__], _ROPE, _rotate)
        for module in base.modules():
            kind = type(module).__name__
            if LigerKernel.RMS_NORM in kernels and kind.endswith("RMSNorm"):
                module.forward = _make_norm(module, in_place=family.in_place)
            elif family.mlp in kernels and kind.endswith("MLP"):
                module.forward = _make_mlp(module)
        yield


def _make_norm(module: Any, *, in_place: bool) -> Callable[[Tensor], Tensor]:
    """Return the forward of a norm."""
    apply: Any = RmsNorm.apply
    return lambda hidden_states: apply(hidden_states, module.weight, in_place)


def _make_mlp(module: Any) -> Callable[[Tensor], Tensor]:
    """Return the forward of an MLP whose gate is its own layer, or half of one."""
    apply: Any = _GatedProduct.apply
    if not hasattr(module, "gate_up_proj"):
        return lambda x: module.down_proj(apply(module.gate_proj(x), module.up_proj(x)))

    def forward(x: Tensor) -> Tensor:
        up_states = module.gate_up_proj(x)
        gate, up_states = up_states.chunk(2, dim=-1)
        result: Tensor = module.down_proj(apply(gate, up_states))
        return result

    return forward


def _rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys."""
    apply: Any = _Rope.apply
    result: tuple[Tensor, Tensor] = apply(q, k, cos, sin)
    return result


class RmsNorm(torch.autograd.Function):
    """`LigerRMSNormFunction`: the input and a number a row are kept, and the gradient is written over what comes in."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, in_place: bool) -> Tensor:
        """Make the output and the reciprocal of each row's root mean square."""
        x = x.contiguous()
        shape = x.shape
        x = x.view(-1, shape[-1])
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        rstd = torch.empty(x.shape[0], dtype=torch.float32, device=x.device)
        ctx.in_place = in_place
        ctx.save_for_backward(x, weight, rstd)
        return y.view(shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Add up the gradient of the weight in a row for each multiprocessor."""
        dy = gradients[0].contiguous()
        _x, weight, _rstd = ctx.saved_tensors
        shape = dy.shape
        dy = dy.view(-1, shape[-1])
        rows = find_target().multiprocessors
        parts = None
        if ctx.needs_input_grad[1]:
            parts = torch.empty((rows, shape[-1]), dtype=torch.float32, device=weight.device)
        dx = dy if ctx.in_place else torch.zeros_like(dy)
        dx = dx.view(shape)
        dw = None if parts is None else parts.sum(dim=0).to(weight.dtype)
        del parts  # a name of an inner function in Liger
        return dx, dw, None


class _GatedProduct(torch.autograd.Function):
    """`LigerSiLUMulFunction` and `LigerGELUMulFunction`: factors are kept, and their gradients written over them."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        """Make the product."""
        a, b = a.contiguous(), b.contiguous()
        shape = a.shape
        a, b = a.view(-1, shape[-1]), b.view(-1, shape[-1])
        c = torch.empty_like(a)
        ctx.save_for_backward(a, b)
        return c.view(shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Return the factors, which hold their gradients."""
        dc = gradients[0].contiguous()
        a, b = ctx.saved_tensors
        return a.view(dc.shape), b.view(dc.shape)


class _Rope(torch.autograd.Function):
    """`LigerRopeFunction`: queries and keys are rotated in place, forward and backward."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Copy what does not lie as (batch, row, head, size)."""
        q, k = q.transpose(1, 2).contiguous(), k.transpose(1, 2).contiguous()
        cos, sin = cos.contiguous(), sin.contiguous()
        ctx.save_for_backward(cos, sin)
        return q.transpose(1, 2), k.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Copy likewise."""
        dq, dk = (item.transpose(1, 2).contiguous() for item in gradients)
        return dq.transpose(1, 2), dk.transpose(1, 2), None, None

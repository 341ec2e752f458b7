"""The functions of the flash-attn package on meta tensors, for transformers' `flash_attention_2`.

The package cannot be installed without CUDA, and a trace needs no more of it than what it allocates. transformers' own
code runs as it does with the package: it pads and unpads, looks for packed sequences and calls one of two functions.
These stand here, written after the package's Python code and the C++ code of its kernels, tensor by tensor in their
order.

Source: flash-attn 2.8.3, flash_attn/flash_attn_interface.py (`FlashAttnFunc`, `FlashAttnVarlenFunc`), bert_padding.py
and csrc/flash_attn/flash_api.cpp (`mha_fwd`, `mha_varlen_fwd`, `mha_bwd`, `mha_varlen_bwd`). Releases before it round
head sizes between 129 and 192 to 32 instead of 64. What the package refuses is refused here.

Does not cover: sequences of one token with grouped queries, deterministic backward passes, ALiBi, paged caches.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from inspector.compat.transformers import attention_of, compatible_flash_implementations, flash_attention_names
from inspector.errors import UsageError, one_line
from inspector.hardware.flash_splits import count_flash_splits
from inspector.hardware.platform import Platform
from inspector.runtime.patches import replace_item, restore_changes

__all__ = ["FLASH_ATTENTION_2", "provide_flash_attention", "use_attention"]

FLASH_ATTENTION_2 = "flash_attention_2"
_INSTEAD = 'use `attention="sdpa"`, or eager'
_LARGEST_HEAD = 256


@contextlib.contextmanager
def provide_flash_attention(platform: Platform, attention: str | None) -> Iterator[None]:
    """Let transformers find flash-attn inside the block where `attention` asks for it; afterwards all is as before."""
    if attention != FLASH_ATTENTION_2:
        yield
        return
    if platform.compute_capability < (8, 0):
        major, minor = platform.compute_capability
        raise UsageError(
            f"flash_attention_2 runs on compute capability 8.0 (Ampere) and newer, and this GPU has {major}.{minor}; "
            f"{_INSTEAD}."
        )
    with restore_changes():
        for namespace, values in _list_replacements(platform):
            for name, value in values.items():
                if name in namespace:
                    replace_item(namespace, name, value)
        yield


def use_attention(model: Any, attention: str) -> None:
    """Give a model an attention implementation; raise UsageError where its class has no such one."""
    name = type(model).__name__
    instead = _INSTEAD if attention == FLASH_ATTENTION_2 else 'use `attention="sdpa"`'
    compatible = compatible_flash_implementations(model)
    if attention == FLASH_ATTENTION_2 and compatible and attention not in compatible:
        # transformers would take another one, and ask the Hub for its kernels.
        raise UsageError(f"{name} runs with {one_line(compatible[0])} and not with {attention}; {_INSTEAD}.")
    try:
        model.set_attn_implementation(attention)
    except (ValueError, ImportError) as error:
        raise UsageError(f"{name} does not support {attention} ({one_line(error, 80)}); {instead}.") from error
    if attention_of(model.config) != attention:  # transformers only warns where it cannot be changed
        raise UsageError(f"{name} does not support {attention}; {instead}.")


def _list_replacements(platform: Platform) -> Iterator[tuple[dict[Any, Any], dict[Any, Any]]]:
    """Yield where transformers looks for the package, and what it would find there."""

    def flash_attn_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        deterministic: bool = False,
    ) -> Tensor:
        return _attend(platform, q, k, v, None, dropout_p)

    def flash_attn_varlen_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        deterministic: bool = False,
    ) -> Tensor:
        return _attend(platform, q, k, v, cu_seqlens_q, dropout_p)

    yield from flash_attention_names(FLASH_ATTENTION_2, flash_attn_func, flash_attn_varlen_func, _pad_input, _yes)


def _yes(*_: Any, **__: Any) -> bool:
    """Say that the package is there."""
    return True


# --- what the package runs --------------------------------------------------------------------------------------------


def _attend(platform: Platform, q: Tensor, k: Tensor, v: Tensor, starts: Tensor | None, dropout: float) -> Tensor:
    """Run the attention function of sequences of one length, or of packed ones that begin at `starts`."""
    if q.dtype not in (torch.float16, torch.bfloat16):
        dtype = str(q.dtype).removeprefix("torch.")
        raise UsageError(
            f'flash_attention_2 takes float16 and bfloat16, not {dtype}; add `dtype="bfloat16"`, or {_INSTEAD}.'
        )
    if q.shape[-1] > _LARGEST_HEAD:
        raise UsageError(
            f"flash_attention_2 takes heads of at most {_LARGEST_HEAD}, and these have {q.shape[-1]}; {_INSTEAD}."
        )
    result: Tensor = _FlashAttention.apply(q, k, v, starts, dropout, platform)  # type: ignore[no-untyped-call]
    return result


class _FlashAttention(torch.autograd.Function):
    """`FlashAttnFunc` on [batch, rows, heads, size], and `FlashAttnVarlenFunc` on [rows of all, heads, size]."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, starts: Tensor | None, dropout: float, platform: Platform
    ) -> Tensor:
        """Make the output, the row sums and the state of the random numbers, which the backward pass reads."""
        size = q.shape[-1]
        q, k, v = (_pad_heads(item) for item in (q, k, v))
        tensors = [_make_dense(item) for item in (q, k, v)]
        out = torch.empty_like(tensors[0])
        if starts is None:
            batch, rows, heads, padded = q.shape
            sums = q.new_empty((batch, heads, rows), dtype=torch.float32)
            splits = 1 if dropout else count_flash_splits(platform, batch * heads, rows, k.shape[1], padded)
            if splits > 1:  # what the parts add up in, until the kernel is done
                shape = (splits, batch, heads, rows)
                tensors += [q.new_empty(item, dtype=torch.float32) for item in (shape, (*shape, _round_head(padded)))]
        else:
            sums = q.new_empty((q.shape[1], q.shape[0]), dtype=torch.float32)
        random_state = q.new_empty((2,), dtype=torch.int64)
        _release(tensors)
        ctx.save_for_backward(q, k, v, out, sums, starts, random_state)
        return out[..., :size]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Make the three gradients, then row sums and a float32 accumulator, and dk and dv for every query head."""
        (gradient,) = gradients
        q, k, v, out, _sums, starts, _random_state = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        dense = [_make_dense(item) for item in (_pad_heads(gradient), q, k, v, out)]
        _backward_kernel(q, k, (dk, dv), starts)
        _release(dense)
        size = gradient.shape[-1]
        return dq[..., :size], dk[..., :size], dv[..., :size], None, None, None


def _backward_kernel(q: Tensor, k: Tensor, results: tuple[Tensor, Tensor], starts: Tensor | None) -> None:
    """Allocate what `mha_bwd` and `mha_varlen_bwd` hold until they return."""
    heads, size = q.shape[-2:]
    shapes: tuple[tuple[int, ...], ...]
    if starts is None:
        batch, rows = q.shape[:2]
        rows = -(-rows // 128) * 128
        shapes = (batch, heads, rows), (batch, rows, heads, _round_head(size))
    else:
        rows = q.shape[0] + 128 * (starts.shape[0] - 1)
        shapes = (heads, rows), (rows, heads, _round_head(size))
    tensors = [q.new_empty(shape, dtype=torch.float32) for shape in shapes]
    own_heads = k.shape[-2]
    if own_heads != heads:
        tensors += [k.new_empty((*k.shape[:-2], heads, size)) for _ in results]
        for index, result in enumerate(results):
            grouped = (*k.shape[:-2], own_heads, heads // own_heads, size)
            torch.sum(tensors[2 + index].reshape(grouped), dim=(-2,), out=result)
    _release(tensors)


def _release(tensors: list[Tensor]) -> None:
    """Let go of the last tensor first, as C++ does at the end of a function."""
    while tensors:
        tensors.pop()


def _round_head(size: int) -> int:
    """Return the head size that float32 accumulators have."""
    step = 32 if size <= 128 else 64
    return -(-size // step) * step


def _pad_heads(tensor: Tensor) -> Tensor:
    """Pad heads to a multiple of 8."""
    rest = tensor.shape[-1] % 8
    return torch.nn.functional.pad(tensor, [0, 8 - rest]) if rest else tensor


def _make_dense(tensor: Tensor) -> Tensor:
    """Copy a tensor whose heads are not dense (`maybe_contiguous`)."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


class _IndexPutFirstAxis(torch.autograd.Function):
    """Put the rows of all sequences back to where they were, zeros elsewhere (bert_padding.py)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, rows: int) -> Tensor:
        """Write into zeros."""
        ctx.save_for_backward(indices)
        output = values.new_zeros((rows, *values.shape[1:]))
        output[indices] = values
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Read the rows that were written."""
        (indices,) = ctx.saved_tensors
        return gradients[0][indices], None, None


def _pad_input(hidden_states: Tensor, indices: Tensor, batch: int, seqlen: int) -> Tensor:
    """Return [batch, seqlen, ...] of the rows of all sequences."""
    output: Tensor = _IndexPutFirstAxis.apply(hidden_states, indices, batch * seqlen)  # type: ignore[no-untyped-call]
    return output.view(batch, seqlen, *hidden_states.shape[1:])

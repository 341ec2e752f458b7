"""The gated delta rule of flash-linear-attention on meta: what its functions make, keep and free.

Source: fla-core 0.6.0, ops/gated_delta_rule/chunk.py (`ChunkGatedDeltaRuleFunction`, `chunk_gated_delta_rule_fwd`,
`chunk_gated_delta_rule_bwd`), chunk_fwd.py and wy_fast.py beside it, ops/common/chunk_delta_h.py and chunk_o.py,
ops/utils/cumsum.py and modules/norm/l2norm.py; utils/decorators.py makes all inputs contiguous first (`input_guard`).
Heads are cut by the shared memory of the card (utils/hardware.py). It has its own backward pass by TileLang where that
is installed, which is not covered, nor are sequences that share a row.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd

from inspector.errors import UsageError
from inspector.trace.target import find_target

__all__ = ["chunk_gated_delta_rule"]

_CHUNK = 64
_LARGEST_HEAD = 256


def chunk_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return the output of [batch, positions, heads, size] and the last state, None where it is not asked for."""
    if cu_seqlens is not None:
        raise UsageError("packed documents are not modelled for flash-linear-attention; drop `packing`.")
    if k.shape[-1] > _LARGEST_HEAD:
        raise UsageError(f'flash-linear-attention takes keys of at most {_LARGEST_HEAD}; use `kernels="torch"`.')
    out, final = _GatedDeltaRule.apply(  # type: ignore[no-untyped-call]
        q, k, v, g, beta, initial_state, output_final_state, use_qk_l2norm_in_kernel
    )
    return out, final


class _GatedDeltaRule(torch.autograd.Function):
    """`ChunkGatedDeltaRuleFunction`, whose inputs are contiguous for as long as it runs."""

    @staticmethod
    @custom_fwd(device_type="cuda")  # type: ignore[untyped-decorator]
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        g: Tensor,
        beta: Tensor,
        initial: Tensor | None,
        output_final_state: bool,
        norms: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Scan in chunks; normed queries and keys, sums of decays and what solves each chunk are kept."""
        _dense = q, k, v, g, beta = [item.contiguous() for item in (q, k, v, g, beta)]
        q_scale = k_scale = None
        if norms:
            q, q_scale = _norm(q)
            k, k_scale = _norm(k)
        sums, out, solved, final = _scan_forward(k, v, g, beta, output_final_state=output_final_state)
        ctx.save_for_backward(q, q_scale, k, k_scale, v, sums, beta, solved, initial)
        return out.to(q.dtype), final

    @staticmethod
    @custom_bwd(device_type="cuda")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Scan again, then all gradients."""
        q, q_scale, k, k_scale, v, sums, beta, solved, initial = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        dq, dk, dv, dbeta, dg, d_initial = _scan_backward(q, k, v, sums, beta, solved, initial, gradient)
        if q_scale is not None and k_scale is not None:
            dq = torch.empty_like(q.view(-1, dq.shape[-1])).view(q.shape)
            dk = torch.empty_like(k.view(-1, dk.shape[-1])).view(k.shape)
        return dq.to(q), dk.to(k), dv.to(v), dg.to(sums), dbeta.to(beta), d_initial, None, None


def _norm(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return heads of length 1 and their scales (`l2norm_fwd`)."""
    rows = values.view(-1, values.shape[-1])
    normed = torch.empty_like(rows)
    scales = torch.empty((rows.shape[0],), dtype=torch.float32, device=rows.device)
    return normed.view(values.shape), scales.view(values.shape[:-1])


def _project(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return what each chunk takes from the state and adds to it (`recompute_w_u_fwd`)."""
    return k.new_empty((*v.shape[:3], k.shape[-1])), torch.empty_like(v)


def _find_states(k: Tensor, v: Tensor, *, output_final_state: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the state before each chunk, the new values and the last state (`chunk_gated_delta_rule_fwd_h`)."""
    batch, positions, heads, size = v.shape
    states = k.new_empty((batch, math.ceil(positions / _CHUNK), heads, k.shape[-1], size))
    final = k.new_zeros((batch, heads, k.shape[-1], size), dtype=torch.float32) if output_final_state else None
    return states, torch.empty_like(v), final


def _scan_forward(
    k: Tensor, v: Tensor, g: Tensor, beta: Tensor, *, output_final_state: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Run `chunk_gated_delta_rule_fwd`; what is not returned lives until then."""
    g = torch.empty_like(g, dtype=torch.float32)
    solved = torch.zeros((*v.shape[:3], _CHUNK), device=k.device, dtype=k.dtype)
    _taken, added = _project(k, v)
    _states, new_values, final = _find_states(k, added, output_final_state=output_final_state)
    return g, torch.empty_like(new_values), solved, final


def _scan_backward(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, solved: Tensor, initial: Tensor | None, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Run `chunk_gated_delta_rule_bwd`; what is not returned lives until then."""
    heads = v.shape[2]
    taken, added = _project(k, v)
    states, new_values, _ = _find_states(k, added, output_final_state=False)
    dv = torch.empty_like(gradient)
    d_states = q.new_empty(states.shape)
    d_initial = None if initial is None else torch.empty_like(initial, dtype=torch.float32)
    dv = torch.empty_like(dv)
    dq, dk, _d_taken, dg = _find_gradients(q, k, g, taken, (new_values, states, d_states, dv, gradient), heads)
    dk_of_chunks, dv, dg_of_chunks, dbeta = _find_chunk_gradients(k, v, g, beta)
    dk.add_(dk_of_chunks)
    dg.add_(dg_of_chunks)
    dg = torch.empty_like(dg, dtype=torch.float32)
    return dq, dk, dv, dbeta, dg, d_initial


def _find_gradients(
    q: Tensor, k: Tensor, g: Tensor, taken: Tensor, others: tuple[Tensor, ...], heads: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run `chunk_bwd_dqkwg`."""
    shape = (*q.shape[:2], heads, q.shape[-1])
    is_half = all(item.element_size() == 2 for item in (q, k, taken, *others))
    parts = math.ceil(q.shape[-1] / min(max(_round_up(q.shape[-1]), 16), _find_tiling(is_half=is_half)))
    dq, dk = q.new_empty(shape), k.new_empty(shape)
    dg = torch.empty((parts, *g.shape), dtype=torch.float32, device=g.device)
    d_taken = torch.empty_like(taken)
    dq = _share_heads(dq, q.shape[2])
    dk = _share_heads(dk, k.shape[2])
    return dq, dk, d_taken, dg.sum(0)


def _find_chunk_gradients(k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run `prepare_wy_repr_bwd`."""
    dk = k.new_empty((*v.shape[:3], k.shape[-1]))
    dv, dg, dbeta = torch.empty_like(v), torch.empty_like(g), torch.empty_like(beta)
    return _share_heads(dk, k.shape[2]), dv, dg, dbeta


def _share_heads(gradient: Tensor, heads: int) -> Tensor:
    """Return gradients added up over the heads of values that share one of keys."""
    if gradient.shape[2] == heads:
        return gradient
    batch, positions, values, size = gradient.shape
    return gradient.view(batch, positions, heads, values // heads, size).sum(3)


def _round_up(size: int) -> int:
    """Return the next power of two."""
    return 1 << (size - 1).bit_length()


def _find_tiling(*, is_half: bool) -> int:
    """Return how wide the kernel's blocks may be, by the shared memory that a block of threads may have."""
    major, minor = find_target().compute_capability
    if major in (9, 10):  # 227 KiB
        return 128
    if (major, minor) in ((8, 0), (8, 7)):  # 163 KiB
        return 128 if is_half else 64
    return 64 if major >= 8 else 32  # 99 KiB from Ampere on

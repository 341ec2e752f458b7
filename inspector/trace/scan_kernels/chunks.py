"""A scan in chunks and its gradients, as mamba-ssm's host code of Triton kernels makes and frees them on meta.

Source: mamba-ssm 2.3.2, ops/triton/ssd_combined.py (`_mamba_chunk_scan_combined_fwd`, `_mamba_chunk_scan_combined_bwd`,
`_chunk_scan_chunk_state_bwd_dx`), ssd_bmm.py, ssd_chunk_scan.py, ssd_chunk_state.py and ssd_state_passing.py. Heads are
split over programs by the multiprocessors of the card. Which block size Triton's tuning finds decides how many partial
sums are added up, and not what the sum takes.

Not covered: deterministic mode, which has workspaces for sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from inspector.trace.target import find_target

__all__ = ["scan_backward", "scan_forward"]

# Blocks that Triton's tuning is taken to find: only how many partial sums are added up depends on them.
_ROWS, _STATES = 64, 1024
# The smallest blocks of its choices, which workspaces are made for.
_FEWEST_ROWS, _FEWEST_STATES = 32, 64


def _make_dense(tensor: Tensor) -> Tensor:
    """Copy a tensor whose last axis is not dense."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _make_scannable(tensor: Tensor) -> Tensor:
    """Copy a tensor neither whose features nor whose positions are dense."""
    return tensor if tensor.stride(-1) == 1 or tensor.stride(1) == 1 else tensor.contiguous()


def _sum_steps(dt: Tensor, chunk_size: int) -> tuple[Tensor, Tensor]:
    """Return the sums of the decays in each chunk, and the steps (`_chunk_cumsum_fwd`)."""
    batch, positions, heads = dt.shape
    shape = (batch, heads, math.ceil(positions / chunk_size), chunk_size)
    steps = torch.empty(shape, device=dt.device, dtype=torch.float32)
    return torch.empty(shape, device=dt.device, dtype=torch.float32), steps


def _find_states(x: Tensor, b: Tensor, chunks: int) -> Tensor:
    """Return the state that each chunk adds (`_chunk_state_fwd`)."""
    batch, _, heads, size = x.shape
    return torch.empty((batch, chunks, heads, size, b.shape[-1]), device=x.device, dtype=torch.float32)


def _pass_states(states: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the state before each chunk, and the last one (`_state_passing_fwd`)."""
    passed = torch.empty(states.shape, device=states.device, dtype=dtype)
    return passed, torch.empty((states.shape[0], *states.shape[2:]), device=states.device, dtype=torch.float32)


def _multiply_chunks(c: Tensor, chunks: int, chunk_size: int) -> Tensor:
    """Return the products of C and B in each chunk (`_bmm_chunk_fwd`)."""
    batch, _, groups, _ = c.shape
    return torch.empty((batch, chunks, groups, chunk_size, chunk_size), device=c.device, dtype=torch.float32)


def scan_forward(
    x: Tensor, dt: Tensor, b: Tensor, c: Tensor, chunk_size: int, z: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor, Tensor]:
    """Run `_mamba_chunk_scan_combined_fwd`."""
    b, c, x = _make_dense(b), _make_dense(c), _make_scannable(x)
    z = None if z is None else _make_scannable(z)
    sums, steps = _sum_steps(dt, chunk_size)
    chunks = sums.shape[2]
    states = _find_states(x, b, chunks)
    states, final = _pass_states(states, c.dtype)
    products = _multiply_chunks(c, chunks, chunk_size)
    out = torch.empty(x.shape, device=x.device, dtype=x.dtype)
    out_x = None if z is None else torch.empty(x.shape, device=x.device, dtype=x.dtype)
    del products
    return out, out_x, steps, sums, states, final


def scan_backward(
    gradient: Tensor,
    x: Tensor,
    dt: Tensor,
    decay: Tensor,
    b: Tensor,
    c: Tensor,
    out: Tensor,
    chunk_size: int,
    skip: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    given: Sequence[Tensor | None],
    *,
    recompute: bool,
) -> tuple[Tensor | None, ...]:
    """Run `_mamba_chunk_scan_combined_bwd`; `given` are the gradients of x, dt, B, C and z that are there already.

    What nothing reads any more lives until it returns, as there: names that begin with an underscore.
    """
    gradient = _make_dense(gradient)
    dx, ddt_given, db_given, dc_given, dz = given
    groups = b.shape[2]
    db_given = torch.empty_like(b) if db_given is None else db_given
    dc_given = torch.empty_like(c) if dc_given is None else dc_given
    ddt_given = torch.empty_like(dt) if ddt_given is None else ddt_given
    dt_in = dt.clone()
    sums, steps = _sum_steps(dt_in, chunk_size)
    chunks = sums.shape[2]
    _products = _multiply_chunks(c, chunks, chunk_size)
    states = _find_states(x, b, chunks)
    states, _final = _pass_states(states, torch.float32)
    d_skip = gated = None
    if z is not None:
        dz, gradient, d_skip, gated = _gate_backward(x, z, gradient, chunk_size, skip, dz, recompute=recompute)
    d_states = torch.empty_like(states)
    d_states, d_sums, states = _pass_states_back(d_states, states, x.dtype)
    dx, _ddt, d_skip_of_x = _input_backward(x, steps, skip, dx)
    _db, d_next = _group_backward(x, b, sums, groups)
    torch.cumsum(d_next, dim=-1, out=d_next)
    _dc, d_previous = _group_backward(x, c, sums, groups)
    _d_products = _split_heads(x, chunks, groups, (chunks, chunk_size, chunk_size)).sum(2)
    if z is None:
        d_skip = d_skip_of_x
    d_previous[..., -1] += d_sums
    d_before = d_previous.flip([-1]).cumsum(dim=-1).flip([-1])
    d_decays = _sum_rows(sums)
    d_decays += d_next + d_before
    ddt_bias = None if dt_bias is None else torch.empty_like(dt_bias, dtype=torch.float32)
    d_decay = torch.empty_like(decay, dtype=torch.float32)
    return dx, ddt_given, d_decay, db_given, dc_given, d_skip, dz, ddt_bias, gated if recompute else None


def _gate_backward(
    x: Tensor, z: Tensor, gradient: Tensor, chunk_size: int, skip: Tensor | None, dz: Tensor | None, *, recompute: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Run `_chunk_scan_bwd_dz`: the gradients of gate, input and skip, and the gated output."""
    d_skip = None if skip is None else _sum_skip(x, skip, chunk_size, torch.empty)
    dz = torch.empty_like(z) if dz is None else dz
    gated = torch.empty_like(x) if recompute else None
    d_input = torch.empty_like(gradient)
    if d_skip is not None and skip is not None:
        d_skip = d_skip[: math.ceil(chunk_size / _ROWS)].sum(dim=(0, 1, 2)).to(dtype=skip.dtype).squeeze(-1)
    return dz, d_input, d_skip, gated


def _sum_skip(x: Tensor, skip: Tensor, chunk_size: int, make: Any) -> Tensor:
    """Return where the gradient of the skip connection is added up."""
    batch, positions, heads, size = x.shape
    shape = (math.ceil(chunk_size / _FEWEST_ROWS), batch, math.ceil(positions / chunk_size), heads)
    sums: Tensor = make(*shape, size if skip.dim() == 2 else 1, device=skip.device, dtype=torch.float32)
    return sums


def _pass_states_back(d_states: Tensor, states: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Run `_state_passing_bwd`: the gradients of states and decays, and the states in the dtype of the input."""
    result = torch.empty_like(d_states, dtype=dtype)
    converted = states if dtype == states.dtype else torch.empty_like(states, dtype=dtype)
    batch, chunks, heads, size, width = states.shape
    shape = (batch, heads, chunks, math.ceil(size * width / _FEWEST_STATES))
    sums = torch.empty(shape, dtype=torch.float32, device=states.device)
    sums = sums[..., : math.ceil(size * width / _STATES)].sum(dim=-1)
    return result, sums, converted


def _input_backward(
    x: Tensor, steps: Tensor, skip: Tensor | None, dx: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run `_chunk_scan_chunk_state_bwd_dx`: the gradients of input, steps and skip."""
    chunk_size = steps.shape[-1]
    d_skip = None if skip is None else _sum_skip(x, skip, chunk_size, torch.zeros)
    dx = torch.empty_like(x) if dx is None else dx
    ddt = torch.empty(steps.shape, device=x.device, dtype=torch.float32)
    if d_skip is not None and skip is not None:
        d_skip = d_skip[: math.ceil(chunk_size / _ROWS)].sum(dim=(0, 1, 2))
        if skip.dim() == 1:
            d_skip = d_skip.sum(dim=-1)
        d_skip = d_skip.to(dtype=skip.dtype)
    return dx, ddt, d_skip


def _group_backward(x: Tensor, of: Tensor, sums: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Run `_chunk_state_bwd_db` or `_chunk_scan_bwd_dC`: the gradient of B or C, and of the decays' sums."""
    d_sums = torch.empty(sums.shape, device=x.device, dtype=torch.float32)
    split = _split_heads(x, sums.shape[2], groups, (x.shape[1], of.shape[-1]))
    return split.sum(2), d_sums


def _split_heads(x: Tensor, chunks: int, groups: int, shape: tuple[int, ...]) -> Tensor:
    """Return where programs that share the heads of a group add up."""
    batch, _, heads, _ = x.shape
    a_program = max(min(math.ceil(batch * chunks * heads / find_target().multiprocessors), heads // groups), 1)
    splits = math.ceil(heads // groups / a_program)
    return torch.empty((batch, shape[0], splits, groups, *shape[1:]), device=x.device, dtype=torch.float32)


def _sum_rows(sums: Tensor) -> Tensor:
    """Run `_chunk_scan_bwd_ddAcs_stable`."""
    *shape, chunk_size = sums.shape
    blocks = (*shape, math.ceil(chunk_size / _FEWEST_ROWS), chunk_size)
    result = torch.empty(blocks, device=sums.device, dtype=torch.float32)
    return result[:, :, :, : math.ceil(chunk_size / _ROWS)].sum(dim=3)

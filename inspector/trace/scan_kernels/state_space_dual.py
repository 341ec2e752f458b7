"""The chunked scan of Mamba-2 (mamba-ssm's Triton kernels) on meta: what its host code makes, keeps and frees.

Source: mamba-ssm 2.3.2, ops/triton/ssd_combined.py (`MambaChunkScanCombinedFn`, `MambaSplitConv1dScanCombinedFn`,
`_mamba_chunk_scan_combined_fwd`, `_mamba_chunk_scan_combined_bwd`) with ssd_bmm.py, ssd_chunk_scan.py,
ssd_chunk_state.py, ssd_state_passing.py and layernorm_gated.py. Heads are split over programs by the multiprocessors of
the card. Of partial sums that depend on which block size Triton's tuning found, the first is added up, which
takes as much.

Not covered: deterministic mode, which has workspaces for sums, and what Triton takes while it tunes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd
from torch.nn.functional import linear

from inspector.trace.scan_kernels.causal_conv1d import convolve, find_convolution_gradients
from inspector.trace.target import find_target

__all__ = ["mamba_chunk_scan_combined", "mamba_split_conv1d_scan_combined"]

# Blocks that Triton's tuning is taken to find: only how many partial sums are added up depends on them.
_ROWS, _STATES = 64, 1024
# The smallest blocks of its choices, which workspaces are made for.
_FEWEST_ROWS, _FEWEST_STATES = 32, 64
_LARGEST_ROW_BYTES = 65536


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,  # noqa: N803
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
    chunk_size: int,
    D: Tensor | None = None,  # noqa: N803
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    return_final_states: bool = False,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
) -> Any:
    """Scan [batch, positions, heads, size]; with the last state where that is asked for."""
    return _ChunkScan.apply(  # type: ignore[no-untyped-call]
        x, dt, A, B, C, D, z, dt_bias, initial_states, seq_idx, chunk_size, return_final_states
    )


def mamba_split_conv1d_scan_combined(
    zxbcdt: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    dt_bias: Tensor,
    A: Tensor,  # noqa: N803
    D: Tensor,  # noqa: N803
    chunk_size: int,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    activation: str | None = "silu",
    rmsnorm_weight: Tensor | None = None,
    rmsnorm_eps: float | None = 1e-6,
    outproj_weight: Tensor | None = None,
    outproj_bias: Tensor | None = None,
    headdim: int | None = None,
    ngroups: int = 1,
    norm_before_gate: bool = True,
) -> Tensor:
    """Run all of a mixer behind its first projection: convolution, scan, gated norm and the last projection."""
    result: Tensor = _SplitConv1dScan.apply(  # type: ignore[no-untyped-call]
        *(zxbcdt, conv1d_weight, conv1d_bias, dt_bias, A, D, rmsnorm_weight, outproj_weight, outproj_bias, seq_idx),
        *(chunk_size, headdim, ngroups),
    )
    return result


class _ChunkScan(torch.autograd.Function):
    """`MambaChunkScanCombinedFn`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dt: Tensor,
        decay: Tensor,
        b: Tensor,
        c: Tensor,
        skip: Tensor | None,
        z: Tensor | None,
        dt_bias: Tensor | None,
        initial: Tensor | None,
        seq_idx: Tensor | None,
        chunk_size: int,
        return_final_states: bool,
    ) -> Any:
        """Scan; the output, what was projected and the steps' sums are kept."""
        out, out_x, _steps, sums, _states, final = _scan_forward(x, dt, b, c, chunk_size, z)
        ctx.save_for_backward(out if z is None else out_x, x, dt, sums, decay, b, c, skip, z, dt_bias, initial, seq_idx)
        ctx.chunk_size = chunk_size
        return (out, final) if return_final_states else out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the chunks again, then all gradients."""
        out, x, dt, _sums, decay, b, c, skip, z, dt_bias, _initial, _seq_idx = ctx.saved_tensors
        found = _scan_backward(
            gradients[0], x, dt, decay, b, c, out, ctx.chunk_size, skip, z, dt_bias, (None,) * 5, recompute=False
        )
        dx, ddt, d_decay, db, dc, d_skip, dz, ddt_bias, _ = found
        return dx, ddt, d_decay, db, dc, d_skip, dz, ddt_bias, None, None, None, None


class _SplitConv1dScan(torch.autograd.Function):
    """`MambaSplitConv1dScanCombinedFn` of inputs that the scan takes whole (`d_nonssm == 0`)."""

    @staticmethod
    @custom_fwd(device_type="cuda")  # type: ignore[untyped-decorator]
    def forward(
        ctx: Any,
        zxbcdt: Tensor,
        conv1d_weight: Tensor,
        conv1d_bias: Tensor | None,
        dt_bias: Tensor,
        decay: Tensor,
        skip: Tensor,
        norm: Tensor | None,
        projection: Tensor | None,
        projection_bias: Tensor | None,
        seq_idx: Tensor | None,
        chunk_size: int,
        head_size: int,
        groups: int,
    ) -> Tensor:
        """Run the mixer; of the scan its output is kept, and of the norm its scales."""
        shape = _Shape(conv1d_weight, skip, head_size, groups)
        z, xbc, dt = torch.split(zxbcdt, shape.parts, dim=-1)
        convolved = convolve(_align(xbc).transpose(1, 2), conv1d_weight).transpose(1, 2)
        x, b, c = shape.split_heads(convolved)
        z = z.reshape(*z.shape[:2], shape.heads, -1)
        scales = None
        if norm is None:
            out, out_x, *_held = _scan_forward(x, dt, b, c, chunk_size, z)
            out = out.reshape(*out.shape[:2], -1)
        else:
            out_x, _, *_held = _scan_forward(x, dt, b, c, chunk_size, None)
            assert out_x is not None
            rows, _gates = _list_rows(out_x), _list_rows(z)
            norm = norm.contiguous()
            out = torch.empty_like(rows)
            scales = torch.empty((groups * rows.shape[0],), dtype=torch.float32, device=rows.device)
            out = out.reshape(zxbcdt.shape[0], -1, shape.width)
        if projection is not None:
            if torch.is_autocast_enabled("cuda"):
                dtype = torch.get_autocast_dtype("cuda")
                out, projection = out.to(dtype), projection.to(dtype)
                projection_bias = None if projection_bias is None else projection_bias.to(dtype)
            out = linear(out, projection, projection_bias)
        ctx.save_for_backward(
            *(zxbcdt, conv1d_weight, conv1d_bias, out_x, decay, skip, dt_bias, seq_idx, norm, scales),
            *(projection, projection_bias),
        )
        ctx.sizes = chunk_size, head_size, groups
        return out

    @staticmethod
    @custom_bwd(device_type="cuda")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the convolution, the chunks and the normed output again, then all gradients."""
        (zxbcdt, conv1d_weight, conv1d_bias, out, decay, skip, dt_bias, _seq_idx, norm, _scales) = ctx.saved_tensors[
            :10
        ]
        projection, projection_bias = ctx.saved_tensors[10:]
        chunk_size, head_size, groups = ctx.sizes
        shape = _Shape(conv1d_weight, skip, head_size, groups)
        recompute = projection is not None
        normed = None
        if recompute:
            _again = normed = torch.empty((*out.shape[:2], shape.width), device=out.device, dtype=out.dtype)
        z, xbc, dt = torch.split(zxbcdt, shape.parts, dim=-1)
        convolved = convolve(_align(xbc).transpose(1, 2), conv1d_weight).transpose(1, 2)
        x, b, c = shape.split_heads(convolved)
        d_input = torch.empty_like(zxbcdt)
        dz, dxbc_given, ddt_given = torch.split(d_input, shape.parts, dim=-1)
        dxbc = torch.empty_like(xbc)
        dx, db, dc = shape.split_heads(dxbc)
        z = z.reshape(*z.shape[:2], shape.heads, -1)
        given, gradient = gradients[0], gradients[0]
        if projection is not None:
            gradient = linear(gradient, projection.t())
        gradient = gradient.reshape(*gradient.shape[:2], -1, head_size)
        d_norm = None
        if norm is None:
            dz = dz.reshape(*dz.shape[:2], shape.heads, -1)
            found = _scan_backward(
                *(gradient, x, dt, decay, b, c, out, chunk_size, skip, z, dt_bias, (dx, ddt_given, db, dc, dz)),
                recompute=recompute,
            )
            _, _, d_decay, _, _, d_skip, _, ddt_bias, gated = found
            normed = gated.reshape(*gated.shape[:2], -1) if gated is not None else None
        else:
            _rows = _list_rows(gradient)  # as long as the function runs, as all of its locals
            gradient, d_norm = _norm_backward(_list_rows(out), norm, groups)
            gradient = gradient.reshape(zxbcdt.shape[0], -1, shape.heads, head_size)
            found = _scan_backward(
                *(gradient, x, dt, decay, b, c, out, chunk_size, skip, None, dt_bias, (dx, ddt_given, db, dc, None)),
                recompute=False,
            )
            _, _, d_decay, _, _, d_skip, _, ddt_bias, _ = found
        d_projection = d_projection_bias = None
        if projection is not None:
            assert normed is not None
            d_projection = torch.einsum("bso,bsd->od", given, normed)
            d_projection_bias = given.sum(dim=(0, 1)) if projection_bias is not None else None
        dxbc_given, d_weight, d_bias = find_convolution_gradients(
            *(_align(xbc).transpose(1, 2), conv1d_weight, conv1d_bias, _align(dxbc).transpose(1, 2)),
            _align(dxbc_given).transpose(1, 2),
        )
        return (
            *(d_input, d_weight, d_bias, ddt_bias, d_decay, d_skip, d_norm, d_projection, d_projection_bias),
            *(None,) * 4,
        )


class _Shape:
    """How the input of a mixer and what it convolves are divided."""

    def __init__(self, conv1d_weight: Tensor, skip: Tensor, head_size: int, groups: int) -> None:
        self.heads = skip.shape[0]
        self.width = self.heads * head_size
        self._groups = groups
        self._states = (conv1d_weight.shape[0] - self.width) // 2
        self.parts = [self.width, self.width + 2 * self._states, self.heads]

    def split_heads(self, xbc: Tensor) -> Sequence[Tensor]:
        """Return what is scanned by heads, and B and C by groups."""
        parts = torch.split(xbc, [self.width, self._states, self._states], dim=-1)
        counts = (self.heads, self._groups, self._groups)
        return [part.reshape(*part.shape[:2], count, -1) for part, count in zip(parts, counts, strict=True)]


def _align(tensor: Tensor) -> Tensor:
    """Copy a tensor whose rows do not start at multiples of 8 (`ensure_stride`)."""
    return tensor if tensor.stride(1) % 8 == 0 else tensor.contiguous()


def _list_rows(tensor: Tensor) -> Tensor:
    """Return [batch, positions, heads, size] as [batch x positions, heads x size]."""
    return tensor.reshape(tensor.shape[0] * tensor.shape[1], -1)


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


def _scan_forward(
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


def _scan_backward(
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


def _norm_backward(rows: Tensor, weight: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Run `_layer_norm_bwd` of layernorm_gated.py: the gradients of rows and weight, the gate's being there already."""
    d_rows = torch.empty_like(rows)
    size = rows.shape[1] // groups
    block = min(_LARGEST_ROW_BYTES // rows.element_size(), 1 << (size - 1).bit_length())
    warps = min(max(block // 256, 1), 8)
    programs = math.ceil(find_target().multiprocessors * math.ceil(4 / warps) / groups)
    sums = torch.empty((programs, rows.shape[1]), dtype=torch.float32, device=weight.device)
    return d_rows, sums.sum(0).to(weight.dtype)

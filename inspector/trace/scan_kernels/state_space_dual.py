"""The chunked scan of Mamba-2 (mamba-ssm's Triton kernels) on meta: what its host code makes, keeps and frees.

Source: mamba-ssm 2.3.2, ops/triton/ssd_combined.py (`MambaChunkScanCombinedFn`, `MambaSplitConv1dScanCombinedFn`,
what these run is in `chunks`) and layernorm_gated.py.

Not covered: what Triton takes while it tunes.
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
from inspector.trace.scan_kernels.chunks import scan_backward, scan_forward
from inspector.trace.target import find_target

__all__ = ["mamba_chunk_scan_combined", "mamba_split_conv1d_scan_combined"]

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
        out, out_x, _steps, sums, _states, final = scan_forward(x, dt, b, c, chunk_size, z)
        ctx.save_for_backward(out if z is None else out_x, x, dt, sums, decay, b, c, skip, z, dt_bias, initial, seq_idx)
        ctx.chunk_size = chunk_size
        return (out, final) if return_final_states else out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the chunks again, then all gradients."""
        out, x, dt, _sums, decay, b, c, skip, z, dt_bias, _initial, _seq_idx = ctx.saved_tensors
        found = scan_backward(
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
            out, out_x, *_held = scan_forward(x, dt, b, c, chunk_size, z)
            out = out.reshape(*out.shape[:2], -1)
        else:
            out_x, _, *_held = scan_forward(x, dt, b, c, chunk_size, None)
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
        zxbcdt, conv1d_weight, conv1d_bias, out, decay, skip, dt_bias, _seq_idx, norm, _scales, *rest = (
            ctx.saved_tensors  # once: a checkpoint unpacks no tensor twice
        )
        projection, projection_bias = rest
        del rest
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
            found = scan_backward(
                *(gradient, x, dt, decay, b, c, out, chunk_size, skip, z, dt_bias, (dx, ddt_given, db, dc, dz)),
                recompute=recompute,
            )
            _, _, d_decay, _, _, d_skip, _, ddt_bias, gated = found
            normed = gated.reshape(*gated.shape[:2], -1) if gated is not None else None
        else:
            _rows = _list_rows(gradient)  # as long as the function runs, as all of its locals
            gradient, d_norm = _norm_backward(_list_rows(out), norm, groups)
            gradient = gradient.reshape(zxbcdt.shape[0], -1, shape.heads, head_size)
            found = scan_backward(
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


def _norm_backward(rows: Tensor, weight: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Run `_layer_norm_bwd` of layernorm_gated.py: the gradients of rows and weight, the gate's being there already."""
    d_rows = torch.empty_like(rows)
    size = rows.shape[1] // groups
    block = min(_LARGEST_ROW_BYTES // rows.element_size(), 1 << (size - 1).bit_length())
    warps = min(max(block // 256, 1), 8)
    programs = math.ceil(find_target().multiprocessors * math.ceil(4 / warps) / groups)
    sums = torch.empty((programs, rows.shape[1]), dtype=torch.float32, device=weight.device)
    return d_rows, sums.sum(0).to(weight.dtype)

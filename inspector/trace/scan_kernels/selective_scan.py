"""The selective scan of mamba-ssm on meta: what its functions make, keep and free.

Source: mamba-ssm 2.3.2, ops/selective_scan_interface.py (`SelectiveScanFn`, `MambaInnerFn`, which run line by line but
for einops' names of axes) and csrc/selective_scan/selective_scan.cpp (`selective_scan_fwd`, `selective_scan_bwd`). The
kernels keep the state at the end of each 2,048 positions, and compute the others again.

Not covered: complex states, and B and C that do not depend on the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd
from torch.nn.functional import linear

from inspector.errors import UsageError
from inspector.trace.scan_kernels.causal_conv1d import convolve, find_convolution_gradients

__all__ = ["mamba_inner_fn", "selective_scan_fn"]

_CHUNK = 2048
_LARGEST_STATE = 256


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,  # noqa: N803
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
    D: Tensor | None = None,  # noqa: N803
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Any:
    """Scan [batch, channels, positions]; with the last state where that is asked for."""
    return _SelectiveScan.apply(u, delta, A, B, C, D, z, delta_bias, return_last_state)  # type: ignore[no-untyped-call]


def mamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,  # noqa: N803
    B: Tensor | None = None,  # noqa: N803
    C: Tensor | None = None,  # noqa: N803
    D: Tensor | None = None,  # noqa: N803
    delta_bias: Tensor | None = None,
    delta_softplus: bool = True,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
) -> Tensor:
    """Run all of a mixer behind its first projection: convolution, scan, gate and the last projection."""
    result: Tensor = _MambaInner.apply(  # type: ignore[no-untyped-call]
        xz,
        conv1d_weight,
        conv1d_bias,
        x_proj_weight,
        delta_proj_weight,
        out_proj_weight,
        out_proj_bias,
        A,
        D,
        delta_bias,
        (b_rms_weight, c_rms_weight, dt_rms_weight),
    )
    return result


def _scan(
    u: Tensor, delta: Tensor, decay: Tensor, into: Tensor, z: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the output, the states between chunks, and the output behind its gate (`selective_scan_fwd`)."""
    if not u.dtype == delta.dtype == into.dtype or (z is not None and z.dtype != u.dtype):
        raise UsageError(
            "mamba-ssm's selective scan takes inputs, steps, B and gate of one dtype, and these are "
            f"{', '.join(sorted({str(item.dtype).removeprefix('torch.') for item in (u, delta, into)}))}; use "
            '`kernels="torch"`, or `mixed_precision="no"`.'
        )
    if decay.shape[-1] > _LARGEST_STATE:
        raise UsageError(
            f'mamba-ssm\'s selective scan takes states of at most {_LARGEST_STATE}; use `kernels="torch"`.'
        )
    gated = None if z is None else torch.empty_like(z)
    out = torch.empty_like(delta)
    batch, channels, positions = u.shape
    shape = (batch, channels, -(-positions // _CHUNK), 2 * decay.shape[-1])
    states = torch.empty(shape, dtype=decay.dtype, device=u.device)
    return out, states, gated


def _scan_back(
    u: Tensor,
    delta: Tensor,
    decay: Tensor,
    into: Tensor,
    from_state: Tensor,
    skip: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    out: Tensor | None,
    dz: Tensor | None,
    *,
    recompute: bool,
) -> tuple[Tensor | None, ...]:
    """Return the gradients in the order of `selective_scan_bwd`, that of the gate and its output behind them."""
    if z is not None and dz is None:
        dz = torch.empty_like(z)
    gated = torch.empty_like(out) if recompute and out is not None else None
    du, ddelta = torch.empty_like(u), torch.empty_like(delta)
    d_decay = torch.zeros_like(decay)
    d_in, d_out = torch.zeros_like(into, dtype=torch.float32), torch.zeros_like(from_state, dtype=torch.float32)
    d_skip = None if skip is None else torch.zeros_like(skip)
    ddelta_bias = None if delta_bias is None else torch.zeros_like(delta_bias)
    # What from_state++ returns are copies; the sums in float32 end with the function, the last one first.
    cast = [d_in.to(into.dtype), d_out.to(from_state.dtype)]
    del d_out
    del d_in
    return du, ddelta, d_decay, *cast, d_skip, ddelta_bias, dz, gated


class _SelectiveScan(torch.autograd.Function):
    """`SelectiveScanFn`."""

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        delta: Tensor,
        decay: Tensor,
        into: Tensor,
        from_state: Tensor,
        skip: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
        return_last_state: bool,
    ) -> Any:
        """Make dense what is not, then scan."""
        u, delta = _make_dense(u), _make_dense(delta)
        if skip is not None:
            skip = skip.contiguous()
        into, from_state = _make_dense(into), _make_dense(from_state)
        if z is not None:
            z = _make_dense(z)
        ctx.squeezes = into.dim() == 3, from_state.dim() == 3
        into, from_state = (item.unsqueeze(1) if item.dim() == 3 else item for item in (into, from_state))
        out, states, gated = _scan(u, delta, decay, into, z)
        if gated is None:
            ctx.save_for_backward(u, delta, decay, into, from_state, skip, None, delta_bias, states, None)
            result = out
        else:
            ctx.save_for_backward(u, delta, decay, into, from_state, skip, z, delta_bias, states, out)
            result = gated
        return (result, states[:, :, -1, 1::2]) if return_last_state else result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Make the gradients."""
        u, delta, decay, into, from_state, skip, z, delta_bias, _states, out = ctx.saved_tensors
        gradient = _make_dense(gradients[0])
        found = _scan_back(u, delta, decay, into, from_state, skip, z, delta_bias, out, None, recompute=False)
        del gradient
        du, ddelta, d_decay, d_in, d_out, d_skip, ddelta_bias, dz, _ = found
        assert d_in is not None
        assert d_out is not None
        d_in = d_in.squeeze(1) if ctx.squeezes[0] else d_in
        d_out = d_out.squeeze(1) if ctx.squeezes[1] else d_out
        return du, ddelta, d_decay, d_in, d_out, d_skip, dz, ddelta_bias, None


class _MambaInner(torch.autograd.Function):
    """`MambaInnerFn` with `checkpoint_lvl=1`, which is its default: convolution and steps are computed again."""

    @staticmethod
    @custom_fwd(device_type="cuda")  # type: ignore[untyped-decorator]
    def forward(
        ctx: Any,
        xz: Tensor,
        conv1d_weight: Tensor,
        conv1d_bias: Tensor | None,
        x_proj_weight: Tensor,
        delta_proj_weight: Tensor,
        out_proj_weight: Tensor,
        out_proj_bias: Tensor | None,
        decay: Tensor,
        skip: Tensor | None,
        delta_bias: Tensor | None,
        norms: tuple[Tensor | None, ...],
    ) -> Tensor:
        """Run the mixer."""
        rank, state = delta_proj_weight.shape[1], decay.shape[-1]
        if torch.is_autocast_enabled("cuda"):
            dtype = torch.get_autocast_dtype("cuda")
            x_proj_weight, delta_proj_weight = x_proj_weight.to(dtype), delta_proj_weight.to(dtype)
            out_proj_weight = out_proj_weight.to(dtype)
            out_proj_bias = None if out_proj_bias is None else out_proj_bias.to(dtype)
        xz = _make_dense(xz)
        conv1d_weight = conv1d_weight.squeeze(1)
        x, z = xz.chunk(2, dim=1)
        conv1d_bias = None if conv1d_bias is None else conv1d_bias.contiguous()
        convolved = convolve(x, conv1d_weight)
        projected = linear(_list_rows(convolved), x_proj_weight)
        delta = _find_steps(delta_proj_weight, projected, xz.shape[-1])
        into = _split_positions(projected[:, rank : rank + state], xz.shape[-1])
        from_state = _split_positions(projected[:, -state:], xz.shape[-1])
        if skip is not None:
            skip = skip.contiguous()
        held = [delta, from_state, into]
        del into, from_state, delta
        into, from_state, delta = _normalise(held, norms, xz.shape[-1])
        out, states, gated = _scan(convolved, delta, decay, into, z)
        assert gated is not None
        ctx.has_bias, ctx.norms = out_proj_bias is not None, norms
        del convolved, delta
        ctx.save_for_backward(
            *(xz, conv1d_weight, conv1d_bias, projected, x_proj_weight, delta_proj_weight, out_proj_weight),
            *(decay, into, from_state, skip, delta_bias, states, out),
        )
        return linear(gated.transpose(1, 2), out_proj_weight, out_proj_bias)

    @staticmethod
    @custom_bwd(device_type="cuda")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Compute convolution and steps again, then all gradients; those of both halves of the input are one tensor."""
        xz, conv1d_weight, conv1d_bias, projected, x_proj_weight, delta_proj_weight, out_proj_weight, *rest = (
            ctx.saved_tensors
        )
        decay, into, from_state, skip, delta_bias, _states, out = rest
        del rest
        positions, rank, state = xz.shape[-1], delta_proj_weight.shape[1], decay.shape[-1]
        x, z = xz.chunk(2, dim=1)
        gradient = _make_dense(gradients[0])
        convolved = convolve(x, conv1d_weight)
        delta = _find_steps(delta_proj_weight, projected, positions)
        held = [from_state, into, delta]
        del into, from_state, delta
        delta, into, from_state = _normalise(held, (ctx.norms[2], *ctx.norms[:2]), positions)
        dxz = torch.empty_like(xz)
        dx, dz = dxz.chunk(2, dim=1)
        gradient = gradient.permute(2, 0, 1).reshape(gradient.shape[2], -1)
        dout = _split_channels(out_proj_weight.t() @ gradient, positions)
        dconvolved, ddelta, d_decay, d_in, d_out, d_skip, ddelta_bias, _, gated = _scan_back(
            convolved, delta, decay, into, from_state, skip, z, delta_bias, out, dz, recompute=True
        )
        assert gated is not None
        assert d_in is not None
        assert d_out is not None
        assert ddelta is not None
        assert dconvolved is not None
        dout_proj_weight = torch.einsum("eB,dB->ed", gradient, _join_channels(gated))
        dout_proj_bias = gradient.sum(dim=(0, 1)) if ctx.has_bias else None
        dprojected = torch.empty_like(projected)
        d_in = _join_positions(d_in)
        dprojected[:, rank : rank + state] = d_in
        d_in = None
        d_out = _join_positions(d_out)
        dprojected[:, -state:] = d_out
        d_out = None
        ddelta = _join_channels(ddelta)
        ddelta_proj_weight = torch.einsum("dB,Br->dr", ddelta, projected[:, :rank])
        dprojected[:, :rank] = torch.einsum("dB,dr->Br", ddelta, delta_proj_weight)
        dconvolved = _join_channels(dconvolved)
        dx_proj_weight = torch.einsum("Br,Bd->rd", dprojected, _list_rows(convolved))
        dconvolved = torch.addmm(dconvolved, x_proj_weight.t(), dprojected.t(), out=dconvolved)
        dconvolved = _split_channels(dconvolved, positions)
        dx, dconv1d_weight, dconv1d_bias = find_convolution_gradients(x, conv1d_weight, conv1d_bias, dconvolved, dx)
        del dout
        return (
            *(dxz, dconv1d_weight.unsqueeze(1), dconv1d_bias, dx_proj_weight, ddelta_proj_weight),
            *(dout_proj_weight, dout_proj_bias, d_decay, d_skip, ddelta_bias, None),
        )


def _make_dense(tensor: Tensor) -> Tensor:
    """Copy a tensor whose last axis is not dense."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _list_rows(tensor: Tensor) -> Tensor:
    """Return [batch, channels, positions] as [batch x positions, channels]."""
    return tensor.transpose(1, 2).reshape(-1, tensor.shape[1])


def _find_steps(weight: Tensor, projected: Tensor, positions: int) -> Tensor:
    """Return the steps as [batch, channels, positions], stored by channels."""
    return _split_channels(weight @ projected[:, : weight.shape[1]].t(), positions)


def _split_channels(tensor: Tensor, positions: int) -> Tensor:
    """Return [channels, batch x positions] as [batch, channels, positions]."""
    return tensor.reshape(tensor.shape[0], -1, positions).transpose(0, 1)


def _join_channels(tensor: Tensor) -> Tensor:
    """Return [batch, channels, positions] as [channels, batch x positions]."""
    return tensor.transpose(0, 1).reshape(tensor.shape[1], -1)


def _split_positions(tensor: Tensor, positions: int) -> Tensor:
    """Return [batch x positions, states] as [batch, 1, states, positions], dense."""
    return tensor.reshape(-1, positions, tensor.shape[1]).transpose(1, 2).unsqueeze(1).contiguous()


def _join_positions(tensor: Tensor) -> Tensor:
    """Return [batch, 1, states, positions] as [batch x positions, states], dense."""
    return tensor.squeeze(1).transpose(1, 2).reshape(-1, tensor.shape[2]).contiguous()


def _normalise(held: list[Tensor], norms: Sequence[Tensor | None], positions: int) -> list[Tensor]:
    """Return B, C and the steps behind the norms that there are, taking each from the end of `held`.

    They are normed again in the backward pass, from what the norms of the forward pass made.
    """
    results = []
    for norm in norms:
        item = held.pop()
        if norm is not None:
            of_states = item.dim() == 4
            item = _join_positions(item) if of_states else _list_rows(item).contiguous()
            item = _normalise_rows(item)
            if of_states:
                item = _split_positions(item, positions)
            else:
                item = item.reshape(-1, positions, item.shape[1]).transpose(1, 2).contiguous()
        results.append(item)
        del item
    return results


def _normalise_rows(rows: Tensor) -> Tensor:
    """Return rows behind a norm; the kernel makes their scales, too, which nothing keeps (`_layer_norm_fwd`)."""
    result = torch.empty_like(rows)
    scales = torch.empty((rows.shape[0],), dtype=torch.float32, device=rows.device)
    del scales
    return result

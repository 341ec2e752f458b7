"""Record what the host code of mamba-ssm, causal-conv1d and flash-linear-attention allocates, without a GPU.

    python -m tests.evidence.kernels.scans FOLDER...

`FOLDER`s hold the packages `mamba_ssm`, `causal_conv1d` and `fla`, as their sdists unpack (mamba-ssm 2.3.2,
causal-conv1d 1.7.0, fla-core 0.6.0); triton and einops have to be installed. The packages' Python runs on meta in the
place of the stand-ins, with kernels of Triton that do nothing. Their C++ is written down here once more, with the lines
that allocate. The result is tests/trace/recorded_scans.json.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import inspect
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inspector.trace.scan_kernels import provide
from tests.trace.small_scans import CASES, trace_step

_RECORDED = Path(__file__).parents[2] / "trace" / "recorded_scans.json"
_VERSIONS = {"mamba-ssm": "2.3.2.post1", "causal-conv1d": "1.7.0", "fla-core": "0.6.0", "transformers": "5.23.0"}
_SHARED_MEMORY, _MULTIPROCESSORS = 166_912, 108  # of an A100


def _scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Any, z: Any, *_: Any) -> list[Tensor]:
    """Allocate as csrc/selective_scan/selective_scan.cpp does, lines 296 to 313."""
    gated = None if z is None else torch.empty_like(z)
    out = torch.empty_like(delta)
    states = torch.empty((*u.shape[:2], -(-u.shape[2] // 2048), 2 * a.shape[1]), dtype=a.dtype, device=u.device)
    return [out, states, *([] if gated is None else [gated])]


def _scan_back(
    *inputs: Any,
) -> list[Tensor | None]:
    """Allocate as lines 416 to 488 of it do."""
    u, delta, a, b, c, d, z, bias, _dout, _x, out, dz, _softplus, recompute = inputs
    if z is not None and dz is None:
        dz = torch.empty_like(z)
    gated = torch.empty_like(out) if z is not None and recompute else None
    du, ddelta, da = torch.empty_like(u), torch.empty_like(delta), torch.zeros_like(a)
    db, dc = torch.zeros_like(b, dtype=torch.float32), torch.zeros_like(c, dtype=torch.float32)
    dd = None if d is None else torch.zeros_like(d)
    dbias = None if bias is None else torch.zeros_like(bias)
    result = [du, ddelta, da, db.to(b.dtype), dc.to(c.dtype), dd, dbias]
    return [*result, *([dz] if z is not None else []), *([gated] if recompute else [])]


def _convolve_back(x: Tensor, dout: Tensor, **_: Any) -> None:
    """Copy as lines 297 and 298 of csrc/causal_conv1d.cpp do."""
    is_channel_last = x.stride(1) == 1 and x.stride(2) > 1
    if not is_channel_last and dout.stride(2) != 1:
        dout.contiguous()
    elif is_channel_last and dout.stride(1) != 1:
        dout.transpose(-1, -2).contiguous()


def _silence_kernels() -> None:
    """Let every launch of a Triton kernel do nothing, on a card that is not there."""
    runtime = importlib.import_module("triton.runtime")
    for owner in (runtime.autotuner.Autotuner, runtime.autotuner.Heuristics, runtime.jit.JITFunction):
        setattr(owner, "run", lambda *_, **__: None)  # noqa: B010  # a method, to mypy
    setattr(torch.cuda, "device", lambda *_: contextlib.nullcontext())  # noqa: B010
    card = types.SimpleNamespace(multi_processor_count=_MULTIPROCESSORS)
    setattr(torch.cuda, "get_device_properties", lambda *_: card)  # noqa: B010


def _choose_blocks(module: types.ModuleType) -> Iterator[None]:
    """Say which blocks tuning is taken to have found: those that the stand-ins take."""
    autotuner = importlib.import_module("triton.runtime.autotuner")
    for kernel in vars(module).values():
        if isinstance(kernel, autotuner.Autotuner):
            sizes = [item for item in kernel.configs if item.kwargs.get("BLOCK_SIZE_M") == 64]
            sizes += [item for item in kernel.configs if item.kwargs.get("BLOCK_SIZE") == 1024]
            kernel.best_config = (sizes or kernel.configs)[0]
            yield


def _load_packages() -> dict[str, Any]:
    """Return the packages' functions by the names that transformers' modules have for them."""
    for name, functions in {
        "selective_scan_cuda": {"fwd": _scan, "bwd": _scan_back},
        "causal_conv1d_cuda": {},
    }.items():
        extension = types.ModuleType(name)
        vars(extension).update(functions)
        sys.modules[name] = extension
    places = importlib.machinery.PathFinder.find_spec("mamba_ssm")
    assert places is not None, "no folder holds mamba_ssm"
    package = types.ModuleType("mamba_ssm")  # whose own __init__ loads models, too
    package.__path__ = list(places.submodule_search_locations or ())
    sys.modules["mamba_ssm"] = package
    functions_of_convolution = importlib.import_module("causal_conv1d.cpp_functions")
    vars(functions_of_convolution).update(
        _causal_conv1d_fwd_cpp=lambda **_: None, _causal_conv1d_bwd_cpp=lambda **given: _convolve_back(**given)
    )
    convolution = importlib.import_module("causal_conv1d.causal_conv1d_interface")
    scan = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    chunks = importlib.import_module("mamba_ssm.ops.triton.ssd_combined")
    for name in [name for name in sys.modules if name.startswith("mamba_ssm.ops.triton")]:
        list(_choose_blocks(sys.modules[name]))
    hardware = importlib.import_module("fla.utils.hardware")
    vars(hardware)["get_all_max_shared_mem"] = lambda: [_SHARED_MEMORY]
    delta = importlib.import_module("fla.ops.gated_delta_rule.chunk")
    for name in ("fla.ops.common.chunk_o", "fla.ops.gated_delta_rule.wy_fast"):
        vars(sys.modules[name])["check_shared_mem"] = lambda arch="none", _index=0: (
            hardware.Backend.get_shared_memory(arch) <= _SHARED_MEMORY
        )
    vars(sys.modules["fla.utils.decorators"])["custom_device_ctx"] = lambda *_: contextlib.nullcontext()
    return {
        "causal_conv1d_fn": convolution.causal_conv1d_fn,
        "mamba_inner_fn": scan.mamba_inner_fn,
        "mamba_selective_scan": scan.selective_scan_fn,
        "mamba2_split_conv1d_scan_combined": chunks.mamba_split_conv1d_scan_combined,
        "mamba2_chunk_scan": chunks.mamba_chunk_scan_combined,
        "torch_chunk_gated_delta_rule": delta.chunk_gated_delta_rule,
        "rwkv_linear_attention": _load_rwkv(),
    }


def _load_rwkv() -> Any:
    """Return transformers' function around RWKV's kernel, without its check of devices."""
    module = importlib.import_module("transformers.models.rwkv.modeling_rwkv")
    source = inspect.getsource(module.RwkvLinearAttention)
    start, end = (
        source.index("        if (\n            time_decay.device"),
        source.index("        time_decay = -torch"),
    )
    names = ("forward", "forward_bf16", "forward_with_state", "forward_with_state_bf16", "backward", "backward_bf16")
    kernel = types.SimpleNamespace(max_seq_length=1024, **dict.fromkeys(names, lambda *_: None))
    namespace: dict[str, Any] = {"torch": torch, "rwkv_cuda_kernel": kernel}
    exec(source[:start] + source[end:], namespace)  # transformers' own code
    attention = namespace["RwkvLinearAttention"]
    return lambda decay, first, key, value, state=None, return_state=False: attention.apply(
        decay, first, key, value, state, return_state
    )


def main(folders: list[str]) -> None:
    """Trace every case by the packages' code and write it down."""
    sys.path[:0] = folders
    _silence_kernels()
    provide._KERNELS.update(_load_packages())
    steps = {f"{name}, {way}": trace_step(name, way) for name, way in CASES}
    lines = [f"{json.dumps(name)}: {json.dumps(sizes, separators=(',', ':'))}" for name, sizes in steps.items()]
    text = ",\n".join(lines)
    _RECORDED.write_text(f'{{"versions": {json.dumps(_VERSIONS)}, "steps": {{\n{text}\n}}}}\n', encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

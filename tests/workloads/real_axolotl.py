"""axolotl's LoRA kernels themselves on meta: its own patches of attention and MLPs, with the branches of CUDA.

Its Triton kernels are custom ops, which make the same output on meta; unpacking a weight launches into tensors that are
there already.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch

from inspector.workloads.base import base_model
from inspector.workloads.training import workload

__all__ = ["use_axolotl"]


class _Config(dict[str, Any]):
    """A configuration whose keys are attributes, None where there is none."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)


def _multiply(left: Any, right: Any, *, out_dtype: Any = None) -> Any:
    """Return a product of cuBLAS in another dtype than that of its factors: the result is all that is made."""
    if out_dtype is None:
        return _MM(left, right)
    return torch.empty((left.shape[0], right.shape[1]), dtype=out_dtype, device=left.device)


_MM = torch.mm


def _do_nothing(*_arguments: Any) -> None:
    """Stand for a launch; a mock would keep the tensors that it was called with."""


@contextlib.contextmanager
def use_axolotl(model: Any, kernels: tuple[str, ...]) -> Iterator[None]:
    """Let a model with an adapter be patched by axolotl, and undo what it does to classes."""
    lora: Any = pytest.importorskip("axolotl.kernels.lora")
    quantize: Any = importlib.import_module("axolotl.kernels.quantize")
    callbacks = types.ModuleType("axolotl.utils.callbacks.models")
    callbacks.get_causal_lm_model_cls_prefix = None  # type: ignore[attr-defined]  # finds a class by its type alone
    stubs = {"axolotl.utils.callbacks": types.ModuleType("axolotl.utils.callbacks"), callbacks.__name__: callbacks}
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(sys.modules, stubs))
        patches: Any = importlib.import_module("axolotl.monkeypatch.lora_kernels")
        source = inspect.getsource(lora._gradient_mm).replace("left.is_cuda", "True")
        exec(source, namespace := dict(vars(lora)))  # the branch of CUDA
        stack.enter_context(mock.patch.object(lora, "_gradient_mm", namespace["_gradient_mm"]))
        stack.enter_context(mock.patch.object(torch, "mm", _multiply))
        for name in ("cdequantize_blockwise_fp32", "_ptr", "_int", "_stream"):
            stack.enter_context(mock.patch.object(quantize, name, _do_nothing))
        nothing = dict.fromkeys(quantize._NF4_DEQUANT_KERNELS, _do_nothing)
        stack.enter_context(mock.patch.object(quantize, "_NF4_DEQUANT_KERNELS", nothing))
        layers = base_model(model).model.layers
        attention = type(layers[0].self_attn)
        stack.enter_context(mock.patch.object(attention, "forward", attention.forward))
        stack.enter_context(mock.patch.object(patches, "get_attention_cls_from_config", return_value=attention))
        cfg = _Config({f"lora_{name}_kernel": True for name in kernels})
        if {"qkv", "o"} & set(kernels):
            patches.patch_self_attn_lora(cfg)
            stack.callback(delattr, attention, "_original_forward")
        patches.apply_lora_kernel_patches(model, cfg)
        stack.enter_context(mock.patch.object(workload, "use_layer_kernels", return_value=contextlib.nullcontext()))
        yield

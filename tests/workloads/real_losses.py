"""Losses of TRL, Liger and cut-cross-entropy themselves on meta: their Python as on a GPU, Triton launched on nothing.

A kernel of Triton writes into tensors that are there already, so that what Python allocates is what it takes. A CUDA
branch is entered by putting "meta" in the place of "cuda" among the constants of a function's own code.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import peft
import pytest
import torch
import transformers

import inspector.workloads.run as runs
from inspector.hardware.platform import Platform
from inspector.records.recipe import Recipe
from inspector.trace.shadow import NO_VALUE
from inspector.trace.tracer import Tracer
from inspector.workloads.base import base_model
from inspector.workloads.training import workload
from inspector.workloads.training.lm_losses.installed import (
    InstalledCce,
    InstalledFusedHead,
    make_installed_loss,
    make_sft_trainer,
    use_installed_kernels,
)
from inspector.workloads.training.losses import ModelLoss
from tests.workloads.tracing import trace

__all__ = [
    *("A100", "Cce", "Liger", "TrlSft", "build_small", "list_events", "run_cuda_branches", "run_liger_on_cuda"),
    *("trace_with_installed_packages", "trace_with_real_loss", "use_plain_sort"),
]

A100 = Platform(torch_version=(2, 13))
Event = tuple[str, int, str, int]


def build_small(name: str, *, lora: bool = False, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """Return a causal language model of one layer on meta, with more tokens than a tile holds."""
    fields: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 40_000,
        **changes,
    }
    with torch.device("meta"):
        config = transformers.AutoConfig.for_model(name, **fields)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
        targets = r".*layers.*_proj" if lora else ""
        return peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=targets)) if lora else model


def list_events(model: Any, recipe: Recipe) -> list[Event]:
    """Return what a step allocates and frees, by phase and step."""
    return [(event.kind.value, event.bytes, event.phase.value, event.step) for event in trace(model, recipe, A100)]


class _LoggingTracer(Tracer):
    """A tracer under which numbers that a log alone reads are 0."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_floating_point():
            value = self.shadows.run(func, args, kwargs or {})
            return 0.0 if value is NO_VALUE else value
        if func is torch.ops.aten.equal.default:  # which compares element by element (native/cuda/Equal.cpp)
            same = self.__torch_dispatch__(torch.ops.aten.eq.Tensor, (), args)
            self.__torch_dispatch__(torch.ops.aten.all.default, (), (same,))
            return False
        return super().__torch_dispatch__(func, types, args, kwargs)


def trace_with_real_loss(model: Any, recipe: Recipe, loss: Any) -> list[Event]:
    """Return the same where a library computes the loss."""
    with (
        mock.patch.object(workload, "make_loss", return_value=loss),
        mock.patch.object(runs, "Tracer", _LoggingTracer),
    ):
        return list_events(model, recipe)


def _do_nothing(*_arguments: Any, **_options: Any) -> None:
    """Stand for a launch; a mock would keep the tensors that it was called with."""


@contextmanager
def _launch_nothing() -> Iterator[None]:
    """Let launches of Triton kernels return without one."""
    jit = pytest.importorskip("triton.runtime.jit")
    autotuner = pytest.importorskip("triton.runtime.autotuner")
    with ExitStack() as stack:
        for kind in (jit.JITFunction, autotuner.Autotuner, autotuner.Heuristics):
            if "run" in vars(kind):
                stack.enter_context(mock.patch.object(kind, "run", _do_nothing))
        yield


def _swap(constant: Any) -> Any:
    if constant == "cuda" and isinstance(constant, str):
        return "meta"
    if isinstance(constant, (tuple, frozenset)):
        return type(constant)(_swap(item) for item in constant)
    if isinstance(constant, types.CodeType):
        return constant.replace(co_consts=tuple(map(_swap, constant.co_consts)))
    return constant


@contextmanager
def run_cuda_branches(*functions: Callable[..., Any]) -> Iterator[None]:
    """Let meta be CUDA in the code of functions; products that are added to float32 are added in place, in cuBLAS."""
    addmm = torch.addmm

    def add_product(
        total: Any, first: Any, second: Any, *, out_dtype: Any = None, out: Any = None, **others: Any
    ) -> Any:
        if out_dtype is None and out is None:
            return addmm(total, first, second, **others)
        assert out is total
        return out

    with ExitStack() as stack:
        stack.enter_context(_launch_nothing())
        stack.enter_context(mock.patch.object(torch, "addmm", add_product))
        for function in functions:
            own: Any = getattr(function, "__wrapped__", function)
            stack.callback(setattr, own, "__code__", own.__code__)
            own.__code__ = _swap(own.__code__)
        yield


@contextmanager
def run_liger_on_cuda(model_type: str) -> Iterator[None]:
    """Let Liger's Python take the branches of an A100, and undo what it patches in transformers' modules."""
    import importlib
    import inspect

    # What it cannot import is logged with frames that would keep tensors alive.
    importlib.import_module("liger_kernel.backends").available_impls("rope")
    functions = []
    for name in ("fused_linear_cross_entropy", "rms_norm", "swiglu", "geglu", "rope", "utils"):
        module = importlib.import_module(f"liger_kernel.ops.{name}")
        own = [
            item for item in vars(module).values() if inspect.isfunction(item) and item.__module__ == module.__name__
        ]
        functions += [item for item in own if "cuda" in str(item.__code__.co_consts)]
    properties = types.SimpleNamespace(multi_processor_count=A100.multiprocessors, major=8, minor=0)
    patched = importlib.import_module(f"transformers.models.{model_type}.modeling_{model_type}")
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.cuda, "get_device_capability", return_value=(8, 0)))
        stack.enter_context(mock.patch.object(torch.cuda, "get_device_properties", return_value=properties))
        stack.enter_context(mock.patch.dict(vars(patched)))
        stack.enter_context(run_cuda_branches(*functions))
        yield


class Liger(ModelLoss):
    """A model that Liger has patched as transformers' Trainer asks it to."""

    def __init__(self, **kernels: bool) -> None:
        self._kernels = kernels

    def build_forward(self, model: Any) -> Any:
        """Patch the model."""
        from liger_kernel.transformers import (  # type: ignore[import-not-found]
            _apply_liger_kernel_to_instance,
        )

        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        _apply_liger_kernel_to_instance(model=base, **self._kernels)
        return model


class Cce(InstalledCce):
    """Cut-cross-entropy, whose sort is not compiled."""

    def build_forward(self, model: Any) -> Any:
        """Patch the model."""
        use_plain_sort()
        return super().build_forward(model)


def use_plain_sort() -> None:
    """Let cut-cross-entropy sort without a compiler."""
    from cut_cross_entropy import cce  # type: ignore[import-not-found]

    cce.sort_logit_avg = lambda logit_avg: torch.argsort(logit_avg).to(torch.int32)


class TrlSft(InstalledFusedHead):
    """`SFTTrainer.compute_loss` of the installed TRL, before 1.15 with its chunks."""

    def build_forward(self, model: Any) -> Any:
        """Patch the model as SFTTrainer does."""
        from trl.trainer import sft_trainer, utils  # type: ignore[import-not-found]

        if hasattr(utils, "add_fused_lm_head"):
            return super().build_forward(model)
        sft_trainer._patch_chunked_ce_lm_head(base_model(model), chunk_size=sft_trainer._CHUNKED_LM_HEAD_CHUNK_SIZE)
        self._trainer = make_sft_trainer(model, "chunked_nll")
        return model


def trace_with_installed_packages(model: Any, recipe: Recipe) -> list[Event]:
    """Return the same as `inspect measure` runs it on a GPU: by the packages' own losses and kernels."""
    with (
        mock.patch.object(workload, "make_loss", side_effect=make_installed_loss),
        mock.patch.object(workload, "use_layer_kernels", use_installed_kernels),
        mock.patch.object(runs, "Tracer", _LoggingTracer),
    ):
        return list_events(model, recipe)

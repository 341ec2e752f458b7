"""Losses of TRL, Liger and cut-cross-entropy themselves on meta: their Python as on a GPU, Triton launched on nothing.

A kernel of Triton writes into tensors that are there already, so that what Python allocates is what it takes. A CUDA
branch is entered by putting "meta" in the place of "cuda" among the constants of a function's own code.
"""

from __future__ import annotations

import collections
import types
from collections.abc import Callable, Iterator, Mapping
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
from inspector.workloads.training import workload
from tests.workloads.tracing import trace

__all__ = ["A100", "build_small", "list_events", "run_cuda_branches", "trace_with_real_loss"]

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


class TrlSft:
    """`SFTTrainer.compute_loss` of the installed TRL."""

    def build_forward(self, model: Any) -> Any:
        """Patch the model as SFTTrainer does."""
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        from trl.trainer import sft_trainer, utils  # type: ignore[import-not-found]

        if hasattr(utils, "add_fused_lm_head"):
            utils.add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1"))
        else:
            sft_trainer._patch_chunked_ce_lm_head(base, chunk_size=sft_trainer._CHUNKED_LM_HEAD_CHUNK_SIZE)
        self._trainer: Any = sft_trainer.SFTTrainer.__new__(sft_trainer.SFTTrainer)
        is_fused = hasattr(utils, "add_fused_lm_head")
        accelerator = types.SimpleNamespace(
            parallelism_config=None, gather_for_metrics=lambda tensor: tensor, num_processes=1
        )
        self._trainer.__dict__.update(
            model=model,
            args=types.SimpleNamespace(
                loss_type="nll" if is_fused else "chunked_nll",
                average_tokens_across_devices=True,
                max_length=1024,
                use_liger_kernel=False,
                n_gpu=1,
                past_index=-1,
            ),
            accelerator=accelerator,
            compute_loss_func=None,
            label_smoother=None,
            aux_loss_enabled=False,
            model_accepts_loss_kwargs=True,
            _metrics={"train": collections.defaultdict(list)},
            _total_train_tokens=0,
            _tp_size=1,
            get_tp_size=lambda: 1,
            current_gradient_accumulation_steps=1,
        )
        return model

    def compute_loss(self, forward: Any, batch: Mapping[str, Any], count: Mapping[str, Any]) -> Any:
        """Return TRL's loss."""
        return self._trainer.compute_loss(forward, dict(batch), **count), None

    def counts_labels(self, model: Any, batch: Mapping[str, Any]) -> bool:
        """Return that labels are counted."""
        return True

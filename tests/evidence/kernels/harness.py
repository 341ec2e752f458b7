"""Liger's own memory benchmark on meta: its passes with what stands here for its kernels, on the GPU that it used.

After benchmark/scripts of liger-kernel (`_test_memory`): a pass runs ten times, and the figure is the median of what
`max_memory_allocated` says of each, with all that was made before it alive. From the second pass on they are alike.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from inspector.hardware.platform import Platform
from inspector.memory.timeline import fold
from inspector.records.steps.losses import LigerKernel
from inspector.records.tape import Category, Phase
from inspector.trace.rules.any_device import treat_meta_as_device
from inspector.trace.rules.cuda import apply_cuda_rules
from inspector.trace.target import trace_for
from inspector.trace.tracer import Tracer
from inspector.workloads.training.lm_losses import liger
from inspector.workloads.training.lm_losses.liger_layers import apply_layer_kernels
from tests.evidence.kernels import old_releases

__all__ = ["predict"]

# An A100 with a torch of 2024.
_A100 = Platform(torch_version=(2, 5))
_PASSES = 3
_LABEL = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """What is alive before a pass, and the pass."""

    held: list[Tensor]
    run: Callable[[Callable[[], None]], object]


def predict(row: Mapping[str, Any], *, as_released: bool = False) -> int:
    """Return the bytes that a pass of a row takes at most.

    `as_released` is with the op of the release that was measured, in a process that had run others before.
    """
    tracer = Tracer(_A100)
    model = _build_llama(row)
    with ExitStack() as rules:
        for context in (trace_for(_A100), apply_cuda_rules(_A100), treat_meta_as_device(), tracer):
            rules.enter_context(context)
        if as_released:
            _leave_workspaces(row)
        bench = rules.enter_context(_BENCHES[row["op"]](tracer, {**row, "as_released": as_released}, model))
        for step in range(1, _PASSES + 1):
            tracer.enter(Phase.FORWARD, step)
            bench.run(functools.partial(tracer.enter, Phase.BACKWARD, step))
        tape = tracer.tape()
    phases = fold(tape).phases
    last = [phase.peak_allocated_bytes for phase in phases if phase.step == _PASSES]
    return max(last, default=phases[-1].end_allocated_bytes)  # where all is in place nothing happens


def _leave_workspaces(row: Mapping[str, Any]) -> None:
    """Leave cuBLAS's workspaces of what the process had multiplied before, forward and backward.

    One process measured both libraries, and forward passes after whole ones; for rotary positions transformers of 2024
    multiplied matrices in the forward pass.
    """
    went_back = row["pass"] == "forward" or row["op"] == "fused_linear_cross_entropy"
    if row["op"] == "rope" or went_back:
        layer = nn.Linear(1, 1, bias=False, device="meta")
        result = layer(torch.empty(1, 1, device="meta", requires_grad=True))
        if went_back:
            result.sum().backward()


def _make(*shape: int, grad: bool = False, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, device="meta", dtype=dtype, requires_grad=grad)


def _build_llama(row: Mapping[str, Any]) -> Any:
    """Return a Llama of one layer on meta, whose modules are benchmarked."""
    config = transformers.LlamaConfig(
        hidden_size=row.get("hidden_size", row.get("H")),
        intermediate_size=row.get("intermediate_size", 64),
        num_attention_heads=row.get("num_q_heads", 1),
        num_key_value_heads=row.get("num_kv_heads", 1),
        vocab_size=8,
        num_hidden_layers=1,
        hidden_act="gelu_pytorch_tanh" if row["op"] == "geglu" else "silu",
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    model.model.layers[0].mlp.to(torch.bfloat16)
    if row["op"] == "geglu":
        config.__dict__["model_type"] = "gemma"  # whose MLP it is
    return model


@contextmanager
def _use_liger(model: Any, row: Mapping[str, Any], kernel: LigerKernel) -> Iterator[None]:
    """Let a model run a kernel of Liger where a row is about that."""
    if row["by"] == "liger":
        with apply_layer_kernels(model, (kernel,)):
            yield
    else:
        yield


@contextmanager
def _prepare_norm(tracer: Tracer, row: Mapping[str, Any], model: Any) -> Iterator[_Bench]:
    norm, other = model.model.norm, model.model.layers[0].input_layernorm.weight
    values, gradient = _make(row["M"], row["H"], grad=True), _make(row["M"], row["H"])
    tracer.hold([norm.weight, other, values, gradient], Category.WEIGHTS)

    def run(enter_backward: Callable[[], None]) -> None:
        old = row["as_released"] and row["by"] == "liger"
        result = old_releases.normalize(values, norm.weight) if old else norm(values)
        enter_backward()
        result.backward(gradient, retain_graph=True)

    with _use_liger(model, row, LigerKernel.RMS_NORM):
        yield _Bench(held=[values], run=run)


@contextmanager
def _prepare_mlp(tracer: Tracer, row: Mapping[str, Any], model: Any) -> Iterator[_Bench]:
    rows = row.get("B", row.get("bsz", 1))
    mlp = model.model.layers[0].mlp
    values = _make(rows, row["T"], row["hidden_size"], grad=True)
    tracer.hold([values, *mlp.parameters()], Category.WEIGHTS)
    kernel = LigerKernel.GEGLU if row["op"] == "geglu" else LigerKernel.SWIGLU
    with _use_liger(model, row, kernel):
        if row["pass"] == "backward":
            tracer.enter(Phase.FORWARD, 0)
            result = mlp(values)
            gradient = torch.empty_like(result)

            def run(enter_backward: Callable[[], None]) -> None:
                enter_backward()
                result.backward(gradient, retain_graph=True)

        else:

            def run(enter_backward: Callable[[], None]) -> None:
                result = mlp(values)
                if row["pass"] == "full":
                    enter_backward()
                    result.backward(torch.empty_like(result), retain_graph=True)

        yield _Bench(held=[values], run=run)


@contextmanager
def _prepare_rope(tracer: Tracer, row: Mapping[str, Any], model: Any) -> Iterator[_Bench]:
    size, length = row.get("hidden_size", row.get("H")), row.get("seq_len", row.get("T"))
    heads = row["num_q_heads"]
    q, k = (_make(1, length, count, size // heads, grad=True) for count in (heads, row["num_kv_heads"]))
    q, k = q.transpose(1, 2), k.transpose(1, 2)
    gradients = torch.empty_like(q), torch.empty_like(k)
    places = torch.empty(1, length, dtype=torch.int64, device="meta")
    tracer.hold([model.model.rotary_emb.inv_freq, q, k, *gradients, places], Category.WEIGHTS)
    cos, sin = model.model.rotary_emb(k, places)
    modeling = sys.modules[type(model).__module__]

    def run(enter_backward: Callable[[], None]) -> None:
        outputs = modeling.apply_rotary_pos_emb(q, k, cos, sin)
        enter_backward()
        torch.autograd.grad(outputs, (q, k), gradients, allow_unused=True, retain_graph=True)

    with _use_liger(model, row, LigerKernel.ROPE):
        yield _Bench(held=[cos, sin], run=run)


@contextmanager
def _prepare_loss(tracer: Tracer, row: Mapping[str, Any], _model: Any) -> Iterator[_Bench]:
    weights = [nn.Parameter(_make(row["V"], row["H"])) for _ in ("torch", "liger")]
    values = _make(row["BT"], row["H"], grad=True)
    labels = torch.empty(row["BT"], dtype=torch.int64, device="meta")
    tracer.hold([*weights, values, labels], Category.WEIGHTS)
    tracer.shadows.set(labels, torch.full((row["BT"],), _LABEL))

    def run(enter_backward: Callable[[], None]) -> None:
        if row["by"] == "liger":
            release = old_releases if row["as_released"] else liger
            loss = release.sum_up_losses(values, weights[1], labels)
        else:
            loss = functional.cross_entropy(functional.linear(values, weights[0]), labels)
        enter_backward()
        loss.backward()

    yield _Bench(held=[values], run=run)


_BENCHES: Mapping[str, Callable[[Tracer, Mapping[str, Any], Any], Any]] = {
    "rms_norm": _prepare_norm,
    "swiglu": _prepare_mlp,
    "geglu": _prepare_mlp,
    "rope": _prepare_rope,
    "fused_linear_cross_entropy": _prepare_loss,
}

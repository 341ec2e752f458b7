"""Autocast on meta follows CUDA's lists and cache, and the step under it is that of a Trainer and of torch's guide."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import CausalLMOutput

import inspector
from inspector.errors import UsageError
from inspector.hardware.platform import Platform, find_installed_torch
from inspector.records.tape import Category, EventKind, Phase
from inspector.trace.rules import autocast
from inspector.trace.rules.cuda import apply_cuda_rules
from inspector.trace.tracer import Tracer
from inspector.workloads.training.loops import run_plain_steps
from tests.model.tiny import llama
from tests.trace.small_models import build
from tests.workloads.trainer_events import (
    assert_same_events,
    in_any_order_of_frees,
    list_our_events,
    list_trainer_events,
)

A100 = Platform(torch_version=find_installed_torch())
LORA = {"peft_type": "LORA", "r": 4, "target_modules": "all-linear"}


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a tensor without data."""
    return torch.empty(*shape, dtype=dtype, device="meta")


@pytest.fixture
def rules() -> Iterator[None]:
    """Install the rules of a trace."""
    with apply_cuda_rules(A100), autocast.apply_autocast_rules():
        yield


# --- the lists --------------------------------------------------------------------------------------------------------


def test_every_op_that_autocast_casts_on_cuda_has_a_rule_on_meta() -> None:
    """The dispatcher of the installed torch knows for which ops CUDA has autocast kernels."""
    ours = {*autocast.LOWER_PRECISION, *autocast.FLOAT32, *autocast.FLOAT32_RESULT, *autocast.WIDEST}
    ours |= {"norm.Scalar", "norm.ScalarOpt_dim"}  # asked for float32 through another overload
    listed = torch._C._dispatch_get_registrations_for_dispatch_key("AutocastCUDA")
    theirs = {name.removeprefix("aten::") for name in listed if name.startswith("aten::")}
    without_dimnames = {name for name in theirs if not name.lower().endswith("dimname") and "names" not in name}
    # The one op that refuses autocast, and the flat weights of cuDNN's recurrent layers.
    assert without_dimnames - ours <= {"binary_cross_entropy", "_cudnn_rnn"}


HALF, WIDE = torch.bfloat16, torch.float32


@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize(
    ("op", "inputs", "result"),
    [
        (torch.mm, (WIDE, WIDE), HALF),
        (torch.mm, (HALF, WIDE), HALF),
        (torch.mm, (torch.float16, HALF), HALF),
        (nn.functional.linear, (WIDE, WIDE), HALF),
        (torch.exp, (HALF,), WIDE),
        (torch.rsqrt, (HALF,), WIDE),
        (lambda x: nn.functional.layer_norm(x, (4,)), (HALF,), WIDE),
        (lambda x: x.softmax(-1), (HALF,), WIDE),
        (lambda x: x.softmax(-1, dtype=torch.float16), (HALF,), torch.float16),
        (lambda x: x.sum(0), (HALF,), WIDE),
        (lambda x: x.norm(2, 1), (HALF,), WIDE),
        (lambda x: x.norm(), (HALF,), WIDE),
        (torch.add, (HALF, HALF), HALF),
        (torch.add, (HALF, WIDE), WIDE),
        (torch.atan2, (HALF, HALF), HALF),
        (torch.atan2, (HALF, WIDE), WIDE),
        (lambda *both: torch.cat(both), (HALF, WIDE), WIDE),
        (lambda *both: torch.einsum("ij,kj->ik", *both), (WIDE, WIDE), HALF),
        (lambda *qkv: nn.functional.scaled_dot_product_attention(*(x[None, None] for x in qkv)), (WIDE,) * 3, HALF),
    ],
)
def test_the_dtype_of_a_result_is_the_one_on_cuda(
    op: Callable[..., Tensor], inputs: tuple[torch.dtype, ...], result: torch.dtype
) -> None:
    tensors = [meta(4, 4, dtype=dtype) for dtype in inputs]
    with torch.autocast("cuda", dtype=HALF):
        assert op(*tensors).dtype is result
        with torch.autocast("meta", enabled=False):  # what PEFT does around experts
            assert torch.mm(meta(4, 4), meta(4, 4)).dtype is WIDE


@pytest.mark.usefixtures("rules")
def test_float64_integers_and_tensors_of_the_cpu_are_not_cast() -> None:
    with torch.autocast("cuda", dtype=HALF):
        assert torch.mm(meta(4, 4, dtype=torch.float64), meta(4, 4, dtype=torch.float64)).dtype is torch.float64
        assert meta(4, dtype=torch.int64).sum().dtype is torch.int64
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype is WIDE


@pytest.mark.usefixtures("rules")
def test_a_block_that_was_called_by_keyword_is_computed_again_under_autocast() -> None:
    """As Llama 4 calls the layers of its tower: checkpointing sees no tensor, and takes the device of the machine."""
    layer = nn.Linear(4, 4, device="meta")
    with torch.autocast("cuda", dtype=HALF):
        result = checkpoint(functools.partial(layer, input=meta(4, 4)), use_reentrant=False)
    result.sum().backward()
    assert layer.weight.grad is not None


def test_outside_a_trace_meta_tensors_and_autocast_are_torchs_own() -> None:
    before = (torch.autocast.__init__, torch.is_autocast_enabled, torch.clear_autocast_cache)
    inspector.inspect(llama(dtype="float32"), recipe=inspector.Recipe(mixed_precision="fp16"))
    assert (torch.autocast.__init__, torch.is_autocast_enabled, torch.clear_autocast_cache) == before
    assert not torch._C._dispatch_tls_is_dispatch_key_included("AutocastIPU")
    assert meta(4, dtype=HALF).exp().dtype is HALF
    with torch.autocast("cpu", dtype=HALF):
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype is HALF


# --- the cache --------------------------------------------------------------------------------------------------------


def casts_of_two_uses(*, trains: bool) -> tuple[int, int]:
    """Return how many half-precision copies of a 64 x 32 weight two linears make, and how many outlive autocast."""
    weight = nn.Parameter(meta(64, 32), requires_grad=trains)
    inputs = meta(8, 32)
    tracer = Tracer(A100)
    tracer.hold([weight, inputs], Category.WEIGHTS)
    with apply_cuda_rules(A100), autocast.apply_autocast_rules(), tracer, torch.no_grad():
        with torch.autocast("cuda", dtype=HALF):
            for _ in range(2):
                nn.functional.linear(inputs, weight)
            tracer.enter(Phase.FORWARD, 1)
        tape = tracer.tape()
    copy_bytes = 2 * 64 * 32
    made = [event.block for event in tape if event.kind is EventKind.ALLOCATE and event.bytes == copy_bytes]
    freed = [event for event in tape if event.kind is EventKind.FREE and event.block in made]
    return len(made), sum(event.step == 1 for event in freed)


def test_the_cast_of_a_weight_that_trains_is_made_once_and_ends_with_autocast() -> None:
    assert casts_of_two_uses(trains=True) == (1, 1)


def test_a_frozen_weight_is_cast_at_every_use() -> None:
    assert casts_of_two_uses(trains=False) == (2, 0)


@pytest.mark.usefixtures("rules")
def test_gradients_come_back_in_the_dtype_of_the_weight() -> None:
    weight, bias = nn.Parameter(meta(4, 4)), nn.Parameter(meta(4))
    with torch.autocast("cuda", dtype=torch.float16):
        output = nn.functional.linear(meta(8, 4), weight, bias)
    assert output.grad_fn is not None
    assert type(output.grad_fn.next_functions[0][0]).__name__ == "ToCopyBackward0"
    output.float().sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype is WIDE


# --- the step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model_type", "accumulation"), [("llama", 2), ("gpt2", 1)])
@pytest.mark.filterwarnings("ignore")
def test_a_trainers_update_in_bf16_allocates_and_frees_what_ours_does(
    model_type: str, accumulation: int, tmp_path: Path
) -> None:
    """On the CPU, whose autocast has lists of its own; fp16 a Trainer refuses there."""
    recipe = inspector.Recipe(gradient_accumulation=accumulation, mixed_precision="bf16")

    def list_both(attempt: int) -> tuple[list[int], list[int]]:
        (model, batch), (other, _) = build("cpu", model_type), build("cpu", model_type)
        theirs = list_trainer_events(other, batch, recipe, tmp_path / str(attempt))
        return in_any_order_of_frees(list_our_events(model, batch, recipe, with_batches=True)), in_any_order_of_frees(
            theirs
        )

    assert_same_events(list_both)


class Regression(nn.Module):
    """Two linear layers and a loss, small enough for gradients that float16 can hold when they are scaled."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1))

    def forward(self, inputs: Tensor) -> CausalLMOutput:
        """Return the loss as transformers' outputs do."""
        return CausalLMOutput(loss=self.layers(inputs).float().square().mean())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_plain_loop_trains_to_the_weights_of_one_that_is_written_out(precision: str) -> None:
    """The recipe of torch's documentation: autocast around the forward pass, unscale before clipping."""
    inputs = torch.linspace(-0.1, 0.1, 128).reshape(16, 8)
    model, written, start = Regression(), Regression(), Regression()
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.1)
    run_plain_steps(
        model,
        {"inputs": inputs},
        optimizer,
        lambda _phase, _step: None,
        steps=2,
        max_grad_norm=0.01,
        mixed_precision=precision,
    )
    optimizer = torch.optim.SGD(written.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "fp16")
    for _ in range(2):
        with torch.autocast("cpu", dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[precision]):
            loss = written(inputs).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(written.parameters(), 0.01)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    for ours, theirs, before in zip(model.parameters(), written.parameters(), start.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert not torch.equal(ours, before)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["trainer", "plain"])
@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize(("dtype", "advice"), [("float16", "`mixed_precision=no`"), ("bfloat16", "bf16")])
def test_gradients_that_torch_cannot_unscale_are_refused_with_what_to_change(
    dtype: str, advice: str, clip: float, loop: str
) -> None:
    # The kernel of a fused optimizer unscales gradients of any dtype itself, where nothing clips them before.
    recipe = inspector.Recipe(mixed_precision="fp16", max_grad_norm=clip, loop=loop, optimizer="adamw_torch")
    with pytest.raises(UsageError, match=rf"train in {dtype}: use `dtype=float32`, or .*{advice}") as caught:
        inspector.inspect(llama(dtype=dtype), recipe=recipe)
    assert "\n" not in str(caught.value)


def test_a_module_saved_whole_in_float16_is_refused_and_adapters_in_float32_are_traced() -> None:
    recipe = inspector.Recipe(mixed_precision="fp16")
    base = llama(dtype="float16")
    assert inspector.inspect(base, peft=LORA, recipe=recipe).training is not None
    with pytest.raises(UsageError, match="train in float16"):
        inspector.inspect(base, peft={**LORA, "modules_to_save": ["lm_head"]}, recipe=recipe)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UsageError, match=r"fp8.*use one of no, bf16, fp16"):
        inspector.inspect(llama(), recipe=inspector.Recipe(mixed_precision="fp8"))

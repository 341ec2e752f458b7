"""What the trace says an op takes equals what torch's own CUDA code asks the allocator for, event by event.

The recordings come from torch's CUDA builds over a stand-in runtime (tests/evidence/stand_in/README.md): three
releases, four GPUs. They show what the host code requests, which is all that the allocator ever sees.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from inspector.hardware.platform import Platform, find_installed_torch
from inspector.records.tape import EventKind, Phase
from inspector.trace import shadow
from inspector.trace.kernels import KERNELS
from inspector.trace.kernels.registry import kernel
from inspector.trace.rules.cuda import apply_cuda_rules
from inspector.trace.tracer import Tracer
from tests.evidence.stand_in.kernel_cases import CASES, Case
from tests.evidence.stand_in.layout_cases import LAYOUTS
from tests.evidence.stand_in.loss_cases import LOSSES
from tests.evidence.stand_in.sampling_cases import SAMPLING
from tests.evidence.truth.rank_page import build_platform
from tests.trace.cpu_truth import profiled_events

RECORDED = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((Path(__file__).parents[1] / "evidence" / "stand_in" / "recorded").glob("*.json"))
}
WORKSPACES = {"cublas workspace", "cublaslt workspace"}


def traced(case: Case, platform: Platform) -> list[int]:
    """Return the events of a case on meta under CUDA's rules, without the workspaces that handles take once."""
    tracer = Tracer(platform)
    with apply_cuda_rules(platform), tracer:
        running = case("meta")
        next(running)
        tracer.enter(Phase.BACKWARD, 1)
        next(running)
        tape = [event for event in tracer.tape() if event.step == 1 and event.bytes and event.op not in WORKSPACES]
    kinds = {EventKind.ALLOCATE: 1, EventKind.FREE: -1}
    return [kinds[event.kind] * event.bytes for event in tape if event.kind in kinds]


@pytest.mark.parametrize("recording", RECORDED)
@pytest.mark.filterwarnings("ignore")
def test_every_op_takes_what_torchs_cuda_code_asks_for(recording: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "LARGEST_SHADOW", 2**10)  # no case reads a value, and large ones take time
    monkeypatch.setattr(shadow, "LARGEST_FLOAT_SHADOW", 0)
    record = RECORDED[recording]
    platform = build_platform(record)
    cases = {"sampling": SAMPLING, "losses": LOSSES, "layouts": LAYOUTS}.get(recording.split("-")[0], CASES)
    assert list(record["cases"]) == list(cases)
    differing = {
        name: (events, ours)
        for name, events in record["cases"].items()
        if (ours := traced(cases[name], platform)) != events
    }
    assert not differing, "\n".join(f"{name}\n  {events}\n  {ours}" for name, (events, ours) in differing.items())


@pytest.mark.parametrize(("shape", "dim"), [((128, 48), 1), ((16, 80), 0)])
def test_logsumexp_takes_on_the_way_what_torchs_code_takes_on_any_device(shape: tuple[int, int], dim: int) -> None:
    """Its code is one for CPU and CUDA (ReduceOps.cpp), and reductions this small take nothing beside it."""
    values = torch.zeros(shape)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = torch.logsumexp(values, dim)
    real, _ = profiled_events(recorded)
    assert result.isfinite().all()

    def case(device: str) -> Iterator[None]:
        inputs = torch.zeros(shape, device=device)
        yield
        result = torch.logsumexp(inputs, dim)
        yield
        del result

    assert traced(case, Platform(torch_version=find_installed_torch())) == real


def test_isinf_takes_on_the_way_what_torchs_code_takes_on_any_device() -> None:
    values = torch.zeros(4096)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = torch.isinf(values)
    real, _ = profiled_events(recorded)
    assert not result.any()

    def case(device: str) -> Iterator[None]:
        inputs = torch.zeros(4096, device=device)
        yield
        result = torch.isinf(inputs)
        yield
        del result

    assert traced(case, Platform(torch_version=find_installed_torch())) == real == [16384, 4096, -16384]


def test_norms_of_tensors_without_elements_are_made_behind_the_others() -> None:
    """As recorded on torch 2.13's CUDA code: ranks that hold no row of a parameter have such shards."""

    def case(device: str) -> Iterator[None]:
        full, empty = (torch.empty(size, 16, device=device) for size in (896, 0))
        yield
        result = torch._foreach_norm([empty, full, empty, full])
        yield
        del result

    taken = traced(case, Platform(torch_version=(2, 13)))
    assert taken == [16, 4, 4, 4, 4, 4, 4, -4, -4, -16]


@pytest.mark.parametrize(
    "multiply",
    [
        lambda a, b: torch.mm(a, b, out=torch.empty(8, 8, device="meta")),
        lambda a, b: torch.empty(8, 8, device="meta").addmm_(a, b),
    ],
    ids=["into a tensor", "added in place"],
)
def test_a_product_that_is_written_into_a_tensor_takes_cublas_workspace_too(multiply: Any) -> None:
    tracer = Tracer(Platform(torch_version=(2, 13)))
    with tracer:
        multiply(torch.empty(8, 8, device="meta"), torch.empty(8, 8, device="meta"))
    assert [event.op for event in tracer.tape() if event.op in WORKSPACES] == ["cublas workspace"]


def test_a_second_rule_for_an_op_is_refused() -> None:
    op = next(iter(KERNELS))
    with pytest.raises(ValueError, match="two rules"):
        kernel(op)(lambda *_: None)

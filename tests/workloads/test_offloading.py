"""Activations in host memory: the stand-in against TRL's own class on the CPU, and on meta against itself with data."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import Tensor, nn

import inspector
from inspector.hardware.platform import Platform, find_installed_torch
from inspector.records.recipe import Recipe
from inspector.records.tape import Category
from inspector.trace.rules.any_device import treat_meta_as_device
from inspector.trace.tracer import Tracer
from inspector.workloads.training.checkpointing import enable_checkpointing
from inspector.workloads.training.loops import run_trainer_steps
from inspector.workloads.training.offloading import OffloadActivations
from inspector.workloads.training.optimizers import build_optimizer
from tests.model.tiny import llama
from tests.trace.cpu_truth import assert_aligned, profiled_events, tape_events
from tests.workloads.trainer_events import profile_our_update

CONFIG = {"dtype": "float32", "use_cache": False, "attn_implementation": "eager", "vocab_size": 96}
KINDS = ("full", "LoRA", "checkpointed")


class OnOneDevice(OffloadActivations):
    """The stand-in where device and host are one: copies are tensors, and what comes back is the copy itself."""

    def _copy_to_host(self, tensor: Tensor, elements: int | None) -> Any:
        if elements is None:
            return torch.empty_like(tensor).copy_(tensor)
        return torch.empty(elements, dtype=tensor.dtype, device=tensor.device).copy_(
            torch.as_strided(tensor, (elements,), (1,), 0)
        )

    def _copy_back(self, copy: Any) -> Tensor:
        tensor: Tensor = copy
        return tensor


def build(device: str, kind: str) -> tuple[Any, dict[str, Any]]:
    """Return a small decoder and a batch for it."""
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = transformers.LlamaForCausalLM._from_config(llama(**CONFIG)).train()
        if kind == "LoRA":
            model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear"))
    if kind == "checkpointed":
        enable_checkpointing(model, Recipe(gradient_checkpointing=True))
    ids = (torch.arange(64).reshape(2, 32) % 96).to(device)
    return model, {"input_ids": ids, "labels": ids}


def real_events(kind: str, make_context: Callable[[nn.Module], Any]) -> tuple[list[int], list[bool]]:
    """Return what the second of two updates on the CPU allocates and frees."""
    model, batch = build("cpu", kind)
    context = make_context(model)
    recipe = Recipe(optimizer="sgd")
    recorded = profile_our_update(model, batch, recipe, around=lambda: context)
    return profiled_events(recorded, ())


class FakeStream:
    """A stream of a device without streams."""

    def __getattr__(self, _name: str) -> Any:
        return lambda *_: None


class FakeModule:
    """torch.cuda, for a device without streams."""

    Stream = FakeStream
    current_stream = staticmethod(FakeStream)

    @staticmethod
    def stream(_stream: Any) -> Any:
        """Return a context in which nothing is another stream's."""
        return contextlib.nullcontext()


@pytest.mark.parametrize("kind", KINDS)
def test_the_stand_in_allocates_and_frees_what_trls_class_does(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    offloading = pytest.importorskip("trl.models.activation_offloading")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: torch.device("cpu"))
    monkeypatch.setattr(torch, "get_device_module", lambda _device: FakeModule)
    monkeypatch.setattr(Tensor, "record_stream", lambda *_: None)
    real = functools.partial(offloading.get_act_offloading_ctx_manager, use_pin_memory=False)
    assert real_events(kind, OnOneDevice)[0] == real_events(kind, real)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_stand_in_runs_on_meta_as_with_data(kind: str) -> None:
    model, batch = build("meta", kind)
    context = OnOneDevice(model)
    tracer = Tracer(Platform(torch_version=find_installed_torch()), on_cuda=False)
    tracer.hold((*model.parameters(), *model.buffers()), Category.WEIGHTS)
    tracer.hold(batch.values(), Category.INPUTS)
    tracer.shadows.set(batch["input_ids"], build("cpu", kind)[1]["input_ids"])
    with treat_meta_as_device(), tracer:
        optimizer = build_optimizer(model, Recipe(optimizer="sgd"))
        held = run_trainer_steps(model, batch, optimizer, tracer.enter, steps=2, around=lambda: context)
        tape = tracer.tape()
    del held
    real, inside = real_events(kind, OnOneDevice)
    assert_aligned(real, inside, tape_events(event for event in tape if event.step == 2))


def test_activations_leave_the_gpu_and_the_host_holds_them() -> None:
    config = llama(num_hidden_layers=4, hidden_size=64, intermediate_size=128)
    reports = [
        inspector.inspect(config, recipe=Recipe(seq_len=512, offload=where), gpu="a100-40gb", advice=False).training
        for where in ("none", "activations")
    ]
    kept, moved = reports
    assert kept is not None
    assert moved is not None
    assert moved.peak_allocated_bytes < kept.peak_allocated_bytes
    assert moved.host_bytes is not None
    assert moved.host_bytes > kept.peak_allocated_bytes - moved.peak_allocated_bytes
    assert "stream" in moved.not_accounted[0].what

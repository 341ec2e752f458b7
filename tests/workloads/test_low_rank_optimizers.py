"""GaLore's AdamW against galore_torch, and PEFT's LoRA-FA on meta against itself with data, event by event."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import types
from typing import Any

import pytest
import torch
from peft.optimizers.lorafa import LoraFAOptimizer
from torch import nn

import inspector
from inspector.records.recipe import Recipe
from inspector.records.tape import Category
from inspector.trace.rules.autocast import apply_autocast_rules, provide_autocast_for_meta
from inspector.workloads.training.low_rank import GaLoreAdamW, autocast_on
from tests.model.tiny import llama
from tests.trace.cpu_truth import assert_aligned
from tests.workloads.test_optimizers import blocks
from tests.workloads.test_stand_in_optimizers import on_cpu, on_meta

pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration")
KINDS = ("std", "reverse_std", "right", "left", "full")
PROJECTION = {"rank": 8, "update_proj_gap": 2, "scale": 0.25}


def galore(trained: list[nn.Parameter], kind: str) -> torch.optim.Optimizer:
    """Return the stand-in, which projects both matrices."""
    groups = [{"params": trained[2:]}, {"params": trained[:2], "is_projected": True}]
    return GaLoreAdamW(groups, lr=0.1, proj_type=kind, **PROJECTION)  # type: ignore[arg-type]


def real_galore(trained: list[nn.Parameter], kind: str) -> torch.optim.Optimizer:
    """Return the package's class, with the groups that transformers makes."""
    if "galore_torch.adamw" not in sys.modules:  # the package itself imports bitsandbytes, for its 8-bit class
        spec = importlib.util.find_spec("galore_torch")
        if spec is None:
            pytest.skip("galore_torch is not installed")
        sys.modules["galore_torch"] = types.ModuleType("galore_torch")
        sys.modules["galore_torch"].__path__ = list(spec.submodule_search_locations or [])
    package = importlib.import_module("galore_torch.adamw")
    groups = [{"params": trained[2:]}, {"params": trained[:2], "proj_type": kind, **PROJECTION}]
    return package.AdamW(groups, lr=0.1, no_deprecation_warning=True)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_galore_allocates_and_computes_what_the_package_does(kind: str, dtype: torch.dtype) -> None:
    ours, real = (functools.partial(make, kind=kind) for make in (galore, real_galore))
    for updates in (1, 2):  # what the profiler has no size of is freed in the third, which finds the vectors anew
        assert on_cpu(ours, updates, dtype)[0] == on_cpu(real, updates, dtype)[0], updates
    one, other = ([nn.Parameter(torch.ones(shape, dtype=dtype)) for shape in ((48, 32), (32, 48), (64,))] for _ in "ab")
    for trained, make in ((one, ours), (other, real)):
        optimizer = make(trained)
        for seed in range(3):
            torch.manual_seed(seed)
            for parameter in trained:
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_of_galore_runs_on_meta_as_with_data(kind: str) -> None:
    make = functools.partial(galore, kind=kind)
    assert_aligned(*on_cpu(make, 2), on_meta(make, 2))


def lora_fa(trained: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Return PEFT's class, for the matrices A and B of a layer and a norm."""
    device = trained[0].device.type
    trained[0].requires_grad_(False)
    group: dict[str, Any] = {"params": trained, "names": ["q.lora_A.weight", "q.lora_B.weight", "norm.weight"]}
    group |= {"scaling_factors": [2.0, 2.0, None], "scaling_factor": 2.0}
    groups: Any = [group]
    optimizer: torch.optim.Optimizer = LoraFAOptimizer(groups, lr=0.1)
    autocast_on(optimizer, device)
    return optimizer


@pytest.mark.parametrize("updates", [1, 2])
def test_an_update_of_lora_fa_runs_on_meta_as_with_data(updates: int) -> None:
    real, inside = on_cpu(lora_fa, updates, kernels=("aten::linalg_pinv",))
    with apply_autocast_rules(), provide_autocast_for_meta():
        meta = on_meta(lora_fa, updates)
    assert_aligned(real, inside, meta)


def test_lora_fa_keeps_two_moments_of_the_matrices_b_and_no_gradient_of_the_matrices_a() -> None:
    config = llama(dtype="bfloat16", hidden_size=64, intermediate_size=96, num_hidden_layers=2)
    found = {}
    for name in ("lorafa", "adamw_torch"):
        recipe = Recipe(optimizer=name, seq_len=8, max_grad_norm=0.0)
        report = inspector.inspect(config, peft=inspector.LoraOptions(r=8, targets=["o_proj"]), recipe=recipe)
        assert report.training is not None
        found[name] = report.training
    # o_proj is 64 x 64: A and B have as many weights.
    one = 8 * 64 * 4
    assert found["lorafa"].peak.breakdown[Category.OPTIMIZER] == 2 * 2 * one
    assert found["adamw_torch"].peak.breakdown[Category.OPTIMIZER] == 2 * 2 * 2 * one
    assert [item.what for item in found["lorafa"].not_accounted] == ["pseudoinverses of LoRA-FA"]


def test_galore_keeps_moments_of_the_projected_gradient_and_its_singular_vectors() -> None:
    config = llama(dtype="bfloat16", hidden_size=64, intermediate_size=96, num_hidden_layers=1, vocab_size=2048)
    recipe = Recipe(optimizer="galore_adamw", optim_args="rank=8", seq_len=8)
    report = inspector.inspect(config, recipe=recipe)
    assert report.training is not None
    linear = [(64, 64), (32, 64), (32, 64), (64, 64), (96, 64), (96, 64), (64, 96), (2048, 64)]
    projected = sum(blocks([2 * 8 * max(shape)] * 2 + [2 * 8 * min(shape)]) for shape in linear)
    whole = 2 * blocks([2 * 2048 * 64, 2 * 64, 2 * 64, 2 * 64])
    others = (Category.WEIGHTS, Category.BUFFERS, Category.INPUTS, Category.OTHER)
    rest = sum(report.training.peak.breakdown[category] for category in others)
    # The Trainer keeps the sum of losses, the last loss, the last norm and the count of labels: a block for each.
    assert report.training.end_of_step_allocated_bytes == rest + projected + whole + 4 * 512
    assert "singular vectors of GaLore" in [item.what for item in report.training.not_accounted]

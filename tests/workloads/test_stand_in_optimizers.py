"""Optimizers written after packages against the packages, and on meta against themselves with data, event by event."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import inspector
from inspector.hardware.platform import Platform, find_installed_torch
from inspector.records.recipe import Recipe
from inspector.records.steps.optimizers import parse_optim_args
from inspector.records.tape import Category, Phase
from inspector.trace.rules.any_device import treat_meta_as_device
from inspector.trace.rules.cuda import apply_cuda_rules
from inspector.trace.tracer import Tracer
from inspector.workloads.training.optimizers import build_optimizer, find_class_and_arguments
from inspector.workloads.training.stand_ins import AdamMini, Muon, ScheduleFree, StableAdamW
from tests.model.tiny import llama
from tests.trace.cpu_truth import assert_aligned, profiled_events, tape_events

SHAPES = ((48, 32), (32, 48), (64,))
pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration")
SCHEDULE_FREE = {"adamw": "AdamWScheduleFree", "sgd": "SGDScheduleFree", "radam": "RAdamScheduleFree"}
Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def parameters(device: str, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    """Return parameters to train."""
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape, dtype=dtype, device=device)) for shape in SHAPES]


def give_gradients(trained: list[nn.Parameter]) -> None:
    """Give each a gradient."""
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)


def on_cpu(
    make: Make, updates: int, dtype: torch.dtype = torch.float32, kernels: tuple[str, ...] = ()
) -> tuple[list[int], list[bool]]:
    """Return what the last of so many updates on the CPU allocates and frees, and what of it casts of the CPU do.

    Where two dtypes are added CUDA's kernel casts element by element, and the CPU's works on a copy.
    """
    trained = parameters("cpu", dtype)
    optimizer = make(trained)
    for _ in range(updates - 1):
        give_gradients(trained)
        optimizer.step()
        optimizer.zero_grad()
    give_gradients(trained)
    # oneDNN's products of bfloat16 take memory of their own.
    recorded: Any = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with torch.backends.mkldnn.flags(enabled=False), recorded:
        optimizer.step()
    return profiled_events(recorded, ("aten::add_", *kernels))


def on_meta(make: Make, updates: int) -> list[int]:
    """Return the same of meta tensors."""
    trained = parameters("meta")
    tracer = Tracer(Platform(torch_version=find_installed_torch()), on_cuda=False)
    tracer.hold(trained, Category.WEIGHTS)
    with treat_meta_as_device(), tracer:
        optimizer = make(trained)
        for step in range(1, updates + 1):
            give_gradients(trained)
            tracer.hold([item.grad for item in trained if item.grad is not None], Category.GRADIENTS)
            tracer.enter(Phase.OPTIMIZER, step)
            optimizer.step()
            tape = tracer.tape()
            optimizer.zero_grad()
    return tape_events(event for event in tape if event.step == updates and event.phase is Phase.OPTIMIZER)


def schedule_free(trained: list[nn.Parameter], kind: str) -> torch.optim.Optimizer:
    """Return the stand-in, with a group of matrices and one of the vector."""
    return ScheduleFree(in_two_groups(trained), kind=kind, lr=0.1)


def in_two_groups(trained: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Return matrices and vectors as Trainer groups them."""
    return [{"params": trained[:2]}, {"params": trained[2:]}]


def muon(trained: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the stand-in, with AdamW for the vector."""
    return Muon([{"params": trained}], others=trained[2:], lr=0.1)


@pytest.mark.parametrize("kind", SCHEDULE_FREE)
@pytest.mark.parametrize("updates", [1, 2])
def test_schedule_free_allocates_and_computes_what_the_package_does(kind: str, updates: int) -> None:
    package = pytest.importorskip("schedulefree")

    def real(trained: list[nn.Parameter]) -> torch.optim.Optimizer:
        optimizer = getattr(package, SCHEDULE_FREE[kind])(in_two_groups(trained), lr=0.1)
        optimizer.train()
        return optimizer  # type: ignore[no-any-return]

    # RAdam's stand-in is as the package is from its sixth update on.
    before = 5 if kind == "radam" else 0
    ours = on_cpu(functools.partial(schedule_free, kind=kind), updates)
    if not (kind == "radam" and updates == 1):  # when the package has made its state already
        assert ours == on_cpu(real, updates + before)
    if kind != "radam":
        one, other = parameters("cpu"), parameters("cpu")
        for trained, make in ((one, functools.partial(schedule_free, kind=kind)), (other, real)):
            optimizer = make(trained)
            for _ in range(updates):
                give_gradients(trained)
                optimizer.step()
        assert all(torch.allclose(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("updates", [1, 2])
def test_muon_allocates_and_computes_what_llama_factorys_does(updates: int) -> None:
    package = pytest.importorskip("llamafactory.third_party.muon")

    def real(trained: list[nn.Parameter]) -> torch.optim.Optimizer:
        return package.Muon(  # type: ignore[no-any-return]
            lr=0.1, wd=0.0, muon_params=trained[:2], adamw_params=trained[2:], adamw_betas=(0.9, 0.999)
        )

    assert on_cpu(muon, updates) == on_cpu(real, updates)
    one, other = parameters("cpu"), parameters("cpu")
    for trained, make in ((one, muon), (other, real)):
        optimizer = make(trained)
        give_gradients(trained)
        optimizer.step()
    assert all(torch.allclose(a, b) for a, b in zip(one, other, strict=True))


NAMES = ("layers.0.self_attn.q_proj.weight", "layers.0.mlp.up_proj.weight", "layers.0.input_layernorm.weight")


def adam_mini(trained: list[nn.Parameter], names: tuple[str, ...] = NAMES) -> torch.optim.Optimizer:
    """Return the stand-in: a matrix in heads of 384 weights, one in rows, and a norm or a bias."""
    groups = [{"params": [item], "name": name} for name, item in zip(names, trained, strict=True)]
    return AdamMini(groups, head_elements=384, lr=0.1)


@pytest.mark.parametrize("names", [NAMES, (*NAMES[:2], "layers.0.self_attn.q_proj.bias")], ids=["norm", "bias"])
@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.filterwarnings("ignore")
def test_adam_mini_allocates_and_computes_what_the_package_does(updates: int, names: tuple[str, ...]) -> None:
    package = pytest.importorskip("adam_mini")

    def real(trained: list[nn.Parameter]) -> torch.optim.Optimizer:
        named = list(zip(names, trained, strict=True))
        # 32 x 32 weights of the hidden size in heads of 384 there are none: what it makes of both is their quotient.
        optimizer = package.Adam_mini(named, lr=0.1, dim=32, n_heads=1, verbose=False)
        optimizer.head_numel = 384
        return optimizer  # type: ignore[no-any-return]

    ours = functools.partial(adam_mini, names=names)
    assert on_cpu(ours, updates)[0] == on_cpu(real, updates)[0]
    one, other = parameters("cpu"), parameters("cpu")
    for trained, make in ((one, ours), (other, real)):
        optimizer = make(trained)
        for _ in range(updates):
            give_gradients(trained)
            optimizer.step()
    assert all(torch.allclose(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_state_of_stable_adamw_is_that_of_the_package_with_triton(dtype: torch.dtype) -> None:
    package = pytest.importorskip("optimi")
    trained = parameters("cpu", dtype)
    real = package.StableAdamW(trained, lr=0.1)
    real.param_groups[0]["triton"] = True
    ours = StableAdamW([{"params": trained}], lr=0.1)
    give_gradients(trained)
    ours.step()
    for parameter in trained:
        real._init_state(real.param_groups[0], real.state[parameter], parameter)
        state, expected = ours.state[parameter], real.state[parameter]
        assert list(state) == list(expected)
        for name, item in expected.items():
            assert (state[name].shape, state[name].dtype) == (item.shape, item.dtype), name


@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.parametrize(
    "make",
    [muon, adam_mini, *(functools.partial(schedule_free, kind=kind) for kind in SCHEDULE_FREE)],
    ids=["muon", "adam_mini", *SCHEDULE_FREE],
)
def test_an_update_runs_on_meta_as_with_data(make: Make, updates: int) -> None:
    assert_aligned(*on_cpu(make, updates), on_meta(make, updates))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("schedule_free_adamw", "r=0.5,weight_lr_power=1.0"),
        ("schedule_free_sgd", None),
        ("schedule_free_radam", None),
        ("stable_adamw", "kahan_sum=true,max_lr=0.1"),
    ],
)
def test_the_arguments_are_those_that_a_trainer_gives_the_packages_class(
    name: str, text: str | None, tmp_path: Path
) -> None:
    pytest.importorskip("optimi" if name == "stable_adamw" else "schedulefree")
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, optim=name, optim_args=text)
    expected = transformers.Trainer.get_optimizer_cls_and_kwargs(arguments)[1]
    ours = {**find_class_and_arguments(name)[1], **parse_optim_args(name, text)}
    assert {key: value for key, value in expected.items() if key in ours} == ours
    rest = {key: value for key, value in expected.items() if key not in ours}
    assert all(value in (None, False, 0, 0.0) for value in rest.values()), rest


def test_matrices_of_hidden_layers_have_one_state_under_muon_and_all_else_two() -> None:
    with torch.device("meta"):
        model: Any = transformers.LlamaForCausalLM._from_config(llama(dtype="float32"))
    optimizer: Any = build_optimizer(model, Recipe(optimizer="muon"))
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    with apply_cuda_rules(Platform(torch_version=find_installed_torch())), Tracer(Platform(torch_version=(2, 13))):
        optimizer.step()
    for name, parameter in model.named_parameters():
        state = [item for item in optimizer.state[parameter].values() if isinstance(item, Tensor)]
        is_hidden = parameter.dim() == 2 and "embed" not in name and "lm_head" not in name
        assert len(state) == (1 if is_hidden else 2), name


def test_a_report_has_them_under_the_names_of_transformers_and_of_the_frameworks() -> None:
    for name in ("schedule_free_adamw", "stable_adamw", "muon", "adam_mini"):
        recipe = Recipe(optimizer=name, seq_len=8)
        training = inspector.inspect(llama(dtype="bfloat16"), recipe=recipe, gpu="a100-80gb", advice=False).training
        assert training is not None
        assert training.peak.breakdown[Category.OPTIMIZER] > 0

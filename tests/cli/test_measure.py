"""`inspect measure`: what is refused before anything is allocated, each in one line with its exit code."""

from __future__ import annotations

import importlib.util

import click
import pytest
import torch

from inspector.cli.main import command
from inspector.cli.option_groups.engines import OF_ENGINES
from inspector.errors import DoesNotFitError, UsageError
from inspector.extrapolate import TapeTemplate
from inspector.measure.devices import check_packages
from inspector.measure.measuring import fold_if_it_fits
from inspector.predict.predictor import Prediction
from inspector.records.measurement import Device
from inspector.records.recipe import Recipe
from inspector.records.request import Request
from inspector.records.tape import Event, EventKind, Phase
from inspector.resolve import resolve_run

from .running import SMALL, assert_refused, run

NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
GIB = 2**30


@NO_CUDA
def test_measuring_without_cuda_is_refused_before_the_model_is_looked_for() -> None:
    """A machine without a GPU can predict and not measure; no model of that name exists."""
    assert_refused(run("measure", "no/such-model-anywhere", "--offline"), 2, "CUDA")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--gpu", "a100"], "--gpu"),
        (["--gpu-memory", "24GiB"], "--gpu-memory"),
        (["--count-only"], "--count-only"),
        (["--depth", "2"], "--depth"),
        (["--optimizer", "adamw_tork"], "adamw_torch"),
        (["--lora", "r=0"], "r"),
        (["--use-reentrant"], "--gradient-checkpointing"),
    ],
)
def test_measure_refuses_options_of_inspect_that_a_run_has_no_use_for(arguments: list[str], says: str) -> None:
    """The GPU is the one at hand."""
    assert_refused(run("measure", SMALL, "--offline", *arguments), 2, says)


def test_every_option_of_inspect_is_an_option_of_measure() -> None:
    """A recipe that was predicted can be measured as it was typed."""
    measure = command.subcommands["measure"]
    unused = {"torch", "gpus_", "gpu_memory", "margin", "fit", "advice", "device_map"}
    unused |= {"count_only", "depth", "details", "show", "write_changes", "context", "plot"}
    own = {parameter.name for parameter in command.params} - unused - {option.name for option in OF_ENGINES}
    assert {parameter.name for parameter in measure.params} - {"rank"} == own
    assert all(option.help for option in measure.params if isinstance(option, click.Option))


@pytest.mark.parametrize(
    ("recipe", "package"),
    [
        (Recipe(attention="flash_attention_2"), "flash_attn"),
        (Recipe(optimizer="adamw_8bit"), "bitsandbytes"),
        (Recipe(optimizer="paged_lion_32bit"), "bitsandbytes"),
    ],
)
def test_a_package_that_the_recipe_runs_on_and_that_is_missing_is_named(recipe: Recipe, package: str) -> None:
    """The trace needs neither of them; the step does."""
    if importlib.util.find_spec(package) is not None:
        check_packages(recipe)
        return
    with pytest.raises(UsageError, match=f"{package.replace('_', '-')}, which is not installed here: add it"):
        check_packages(recipe)


@pytest.mark.parametrize("method", ["nf4", "fp4", "int8"])
def test_a_quantized_base_needs_bitsandbytes_and_an_unquantized_one_does_not(method: str) -> None:
    """The trace has stand-ins for its layers; the step runs on the layers themselves."""
    check_packages(Recipe(), "none")
    if importlib.util.find_spec("bitsandbytes") is not None:
        check_packages(Recipe(), method)
        return
    with pytest.raises(UsageError, match=f"`quantization` {method} runs on the package bitsandbytes, which is not"):
        check_packages(Recipe(), method)


def test_other_recipes_need_no_package() -> None:
    """Torch and transformers are there."""
    check_packages(Recipe())


def gpu(free_bytes: int) -> Device:
    """Return a GPU with so much free memory."""
    return Device(
        name="NVIDIA Test",
        compute_capability=(8, 0),
        multiprocessors=108,
        threads_per_multiprocessor=2048,
        memory_bytes=8 * GIB,
        free_bytes=free_bytes,
    )


def test_what_will_not_fit_is_refused_with_both_sizes() -> None:
    """Two blocks of 1 GiB are alive together: 2 GiB fit exactly, one byte less does not."""
    tape = [
        Event(kind=EventKind.ALLOCATE, block=block, bytes=GIB, phase=Phase.FORWARD, step=1, op="aten.mm.default")
        for block in range(2)
    ]
    run = resolve_run(Request(model="x"), None, {})
    template = TapeTemplate(tape, None)
    prediction = Prediction(run, run.recipe, lambda: (template, template.sizes))
    assert fold_if_it_fits(prediction, gpu(2 * GIB)).peak_reserved_bytes == 2 * GIB
    with pytest.raises(DoesNotFitError, match=r"needs 2\.00 GiB, and NVIDIA Test has 2\.00 GiB free") as refused:
        fold_if_it_fits(prediction, gpu(2 * GIB - 1))
    assert refused.value.exit_code == 1


def test_a_rank_that_is_not_there_is_refused_in_the_words_of_the_command() -> None:
    assert_refused(run("measure", SMALL, "--gpus", "2", "--fsdp", "--rank", "5"), 2, "--rank 5 of 2 is none")

"""The optimizers of the traced step: made as the Trainer makes them, their state and temporaries to the byte."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils import _foreach_utils
from transformers.training_args import OptimizerNames

import inspector
from inspector.errors import UsageError
from inspector.records.memory import RunMemory
from inspector.records.steps.optimizers import FAMILIES, OF_OTHER_PACKAGES, OPTIMIZERS, parse_optim_args
from inspector.records.tape import Category, Event, EventKind, Phase
from inspector.workloads.training.optimizers import find_class_and_arguments
from tests.model.tiny import llama
from tests.workloads.tracing import trace

# Embedding and head of 2,048 x 64; in each of 2 layers 4 attention and 3 other matrices and 2 norms; a norm at the end.
EMBEDDING = (2048, 64)
LAYER = [(64, 64), (32, 64), (32, 64), (64, 64), (96, 64), (96, 64), (64, 96), (64,), (64,)]
SHAPES: list[tuple[int, ...]] = [EMBEDDING, *LAYER, *LAYER, (64,), EMBEDDING]
CONFIG = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 2048, "num_hidden_layers": 2}

# What an optimizer keeps for a parameter of a shape, in bytes; the second argument says whether it is an embedding.
Kept = Callable[[tuple[int, ...], bool], list[int]]


def count(shape: tuple[int, ...]) -> int:
    """Return how many elements a shape has."""
    return torch.Size(shape).numel()


def in_bfloat16(tensors: int, *others: int) -> Kept:
    """Keep so many tensors in the parameter's own dtype, and others of fixed size."""
    return lambda shape, _: [2 * count(shape)] * tensors + list(others)


def factored(shape: tuple[int, ...], _: bool) -> list[int]:
    """Return a float32 for each row and column, or for each element of a vector, and the RMS of the parameter."""
    return [4 * length for length in shape] + [4]


def blockwise(*buffers: int, bits: int = 8, paged: bool = False, wide_embedding: bool = True) -> Kept:
    """Keep what bitsandbytes does, with a float32 scale for each 256 elements where state is 8 bits wide."""

    def kept(shape: tuple[int, ...], is_embedding: bool) -> list[int]:
        size = count(shape)
        is_float = bits == 32 or size < 4096 or (is_embedding and wide_embedding)
        sizes = [] if paged and size >= 100_000 else [times * size * (4 if is_float else 1) for times in buffers]
        return sizes if is_float else sizes + [times * 4 * (size // 256) for times in buffers]

    return kept


# Recipe -> what is kept for each parameter, and the tables of 256 float32 that all share.
STATES: dict[tuple[str, str, str | None], tuple[Kept, int]] = {
    ("adamw_torch", "trainer", None): (in_bfloat16(2), 0),
    ("adamw_torch", "plain", "foreach=False"): (in_bfloat16(2), 0),
    ("adamw_torch_fused", "trainer", None): (in_bfloat16(2, 4), 0),  # the step is a float32 on the GPU
    ("sgd", "trainer", None): (in_bfloat16(0), 0),
    ("sgd", "trainer", "momentum=0.9"): (in_bfloat16(1), 0),
    ("adagrad", "trainer", None): (in_bfloat16(1, 4), 0),  # accelerate moves the step to the GPU
    ("adagrad", "plain", None): (in_bfloat16(1), 0),
    ("rmsprop", "trainer", None): (in_bfloat16(1), 0),
    ("rmsprop", "trainer", "momentum=0.9,centered=true"): (in_bfloat16(3), 0),
    ("adafactor", "trainer", None): (factored, 0),
    ("adamw_8bit", "trainer", None): (blockwise(1, 1), 2),
    ("adamw_8bit", "plain", None): (blockwise(1, 1, wide_embedding=False), 2),
    ("adamw_bnb_8bit", "trainer", None): (blockwise(1, 1), 2),
    ("paged_adamw_32bit", "trainer", None): (blockwise(1, 1, bits=32, paged=True), 0),
    ("paged_adamw_8bit", "trainer", None): (blockwise(1, 1, paged=True), 2),
    ("lion_32bit", "trainer", None): (blockwise(1, bits=32), 0),
    ("lion_8bit", "trainer", None): (blockwise(1), 1),
    ("paged_lion_32bit", "trainer", None): (blockwise(1, bits=32, paged=True), 0),
    ("paged_lion_8bit", "trainer", None): (blockwise(1, paged=True), 1),
    ("ademamix", "trainer", None): (blockwise(2, 1, bits=32), 0),
    ("ademamix_8bit", "trainer", None): (blockwise(2, 1), 2),
    ("paged_ademamix_32bit", "trainer", None): (blockwise(2, 1, bits=32, paged=True), 0),
    ("paged_ademamix_8bit", "trainer", None): (blockwise(2, 1, paged=True), 2),
}


def blocks(sizes: Iterable[int]) -> int:
    """Return what sizes take in the allocator: each is rounded up to 512 bytes."""
    return sum(512 * -(-size // 512) for size in sizes)


def traced(recipe: inspector.Recipe, **changes: Any) -> RunMemory:
    """Return the training section of the model of `SHAPES`."""
    report = inspector.inspect(llama(**{**CONFIG, **changes}), recipe=recipe, gpu="a100-80gb", advice=False)
    assert report.training is not None, report.warnings
    return report.training


@pytest.mark.parametrize(
    ("asked", "expected"), STATES.items(), ids=[" ".join(map(str, filter(None, asked))) for asked in STATES]
)
def test_the_state_of_every_optimizer_is_exact(asked: tuple[str, str, str | None], expected: tuple[Kept, int]) -> None:
    name, loop, arguments = asked
    kept, tables = expected
    training = traced(inspector.Recipe(optimizer=name, loop=loop, optim_args=arguments, seq_len=8))
    # The first of the shapes is the embedding's; the head has the same shape and is none.
    state = [size for index, shape in enumerate(SHAPES) for size in kept(shape, index == 0)]
    expected_bytes = blocks([*state, *[1024] * tables])
    assert training.peak.breakdown[Category.OPTIMIZER] == expected_bytes
    others = (Category.WEIGHTS, Category.BUFFERS, Category.INPUTS, Category.OTHER)
    rest = sum(training.peak.breakdown[category] for category in others)
    # The Trainer keeps the sum of losses, the last loss, the last norm and the count of labels: a block for each.
    scalars = 4 * 512 if loop == "trainer" else 0
    assert training.end_of_step_allocated_bytes == rest + expected_bytes + scalars


@pytest.mark.parametrize("bits", [8, 32])
def test_rmsprop_of_bitsandbytes_runs_in_float16_and_is_refused_in_bfloat16(bits: int) -> None:
    recipe = inspector.Recipe(optimizer=f"rmsprop_bnb_{bits}bit", seq_len=8)
    state = [size for index, shape in enumerate(SHAPES) for size in blockwise(1, bits=bits)(shape, index == 0)]
    expected = blocks([*state, *([1024] if bits == 8 else [])])
    assert traced(recipe, dtype="float16").peak.breakdown[Category.OPTIMIZER] == expected
    with pytest.raises(UsageError, match="bfloat16"):
        traced(recipe)


@pytest.mark.parametrize(
    ("name", "loop", "managed"),
    [
        # Embedding and head, 131,072 elements each, are the ones of at least 100,000.
        ("paged_adamw_32bit", "trainer", 2 * 131_072 * 2 * 4),
        ("paged_adamw_8bit", "trainer", 131_072 * 2 * 4 + 131_072 * 2),  # the Trainer keeps the embedding in 32 bits
        ("paged_adamw_8bit", "plain", 2 * 131_072 * 2),
        ("paged_lion_8bit", "plain", 2 * 131_072),
        ("paged_ademamix_32bit", "plain", 2 * 131_072 * 3 * 4),
    ],
)
def test_a_report_lists_paged_optimizer_state_with_its_bytes(name: str, loop: str, managed: int) -> None:
    told = traced(inspector.Recipe(optimizer=name, loop=loop, seq_len=8)).not_accounted
    assert [item.why.partition(" ")[0] for item in told if "paged" in item.what] == [f"{managed:,}"]


def test_a_report_of_an_unpaged_optimizer_lists_no_paged_state() -> None:
    told = traced(inspector.Recipe(optimizer="adamw_8bit", seq_len=8)).not_accounted
    assert [item for item in told if "paged" in item.what] == []


# --- what a step takes beside its state -------------------------------------------------------------------------------


def optimizer_phase(recipe: inspector.Recipe) -> list[int]:
    """Return the sizes of all that the optimizer phase of the second step allocates, in order."""
    with torch.device("meta"):
        model: Any = transformers.AutoModelForCausalLM.from_config(llama(**CONFIG), dtype=torch.bfloat16)
    tape: list[Event] = trace(model, recipe)
    return [
        event.bytes
        for event in tape
        if event.step == 2 and event.phase is Phase.OPTIMIZER and event.kind is EventKind.ALLOCATE
    ]


# For each of 21 bfloat16 gradients as many float32 sums as the longest, of 131,072 elements, has chunks of 65,536;
# their norms; the norms stacked, their norm, and the coefficient: norm + 1e-6, reciprocal, times maximum, clamped.
CLIPPING = [21 * 2 * 4, *[2] * 21, 21 * 2, *[2] * 5]
GRADIENTS = sorted(2 * count(shape) for shape in SHAPES)


def test_clipping_takes_what_the_foreach_kernels_of_cuda_take() -> None:
    assert optimizer_phase(inspector.Recipe(optimizer="sgd", loop="plain", seq_len=8)) == CLIPPING


def test_without_clipping_a_plain_loop_takes_no_gradient_norm_and_a_trainer_takes_one() -> None:
    recipe = inspector.Recipe(optimizer="sgd", loop="plain", seq_len=8, max_grad_norm=0)
    assert optimizer_phase(recipe) == []
    recipe = inspector.Recipe(optimizer="sgd", loop="trainer", seq_len=8, max_grad_norm=0)
    assert optimizer_phase(recipe) == CLIPPING


@pytest.mark.parametrize("name", ["adamw_torch_fused", *FAMILIES["bitsandbytes"][:12]])
def test_fused_kernels_and_those_of_bitsandbytes_take_nothing_beside_the_state(name: str) -> None:
    assert optimizer_phase(inspector.Recipe(optimizer=name, loop="plain", seq_len=8, max_grad_norm=0)) == []


@pytest.mark.parametrize(
    ("name", "arguments", "copies"),
    [
        ("adamw_torch", None, 1),  # the roots of the second moments
        ("adamw_torch", "foreach=False", 2),  # of each in turn the root, and it divided
        ("rmsprop", None, 1),  # the roots of the averages
        ("rmsprop", "foreach=False", 1),
        ("adagrad", None, 2),  # the roots of the sums, and the gradients times the rate
        ("sgd", "momentum=0.9", 0),
    ],
)
def test_optimizers_of_torch_take_copies_of_all_trainable_parameters(
    name: str, arguments: str | None, copies: int
) -> None:
    recipe = inspector.Recipe(optimizer=name, loop="plain", optim_args=arguments, seq_len=8, max_grad_norm=0)
    assert sorted(optimizer_phase(recipe)) == sorted(GRADIENTS * copies)


# --- names, classes and arguments -------------------------------------------------------------------------------------


def test_every_name_of_transformers_is_known_or_refused_by_its_package() -> None:
    names = {name.value for name in OptimizerNames}
    assert set(OPTIMIZERS) - {*FAMILIES["frameworks"], *FAMILIES["peft"]} <= names
    assert names <= {*OPTIMIZERS, *OF_OTHER_PACKAGES}
    assert not set(OPTIMIZERS) & set(OF_OTHER_PACKAGES)
    assert len(set(OPTIMIZERS)) == len(OPTIMIZERS)


@pytest.mark.parametrize("name", [*FAMILIES["torch"], *FAMILIES["transformers"]])
def test_the_class_and_the_arguments_of_an_optimizer_are_those_of_the_trainer(name: str, tmp_path: Path) -> None:
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, optim=name)
    assert find_class_and_arguments(name) == transformers.Trainer.get_optimizer_cls_and_kwargs(arguments)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sgd", "momentum=0.9,dampening=0,weight_decay=0.1,nesterov=True"),
        ("adagrad", "lr_decay=0.1, weight_decay=0.1, eps=1e-6"),
        ("rmsprop", "momentum=0.5,alpha=0.9,eps=1e-6,weight_decay=0.1,centered=yes"),
    ],
)
def test_optim_args_are_read_as_the_trainer_reads_them(name: str, text: str, tmp_path: Path) -> None:
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, optim=name, optim_args=text)
    _, expected = transformers.Trainer.get_optimizer_cls_and_kwargs(arguments)
    assert {**find_class_and_arguments(name)[1], **parse_optim_args(name, text)} == expected


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"optimizer": "adamw"}, "did you mean adamw_"),
        ({"optimizer": "apollo_adamw"}, "apollo_torch"),
        ({"optimizer": "sgd", "optim_args": "momenta=1"}, "momentum, dampening"),
    ],
)
def test_an_unknown_optimizer_is_refused_from_python_too(fields: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        inspector.inspect(llama(), recipe=inspector.Recipe(**fields))  # type: ignore[arg-type]


def test_torch_chooses_for_meta_as_before_when_the_trace_is_over() -> None:
    before = _foreach_utils._get_foreach_kernels_supported_devices()
    traced(inspector.Recipe(seq_len=8))
    assert _foreach_utils._get_foreach_kernels_supported_devices() == before
    assert "meta" not in before
    weight = torch.nn.Parameter(torch.zeros(1, device="meta"))
    weight.grad = torch.zeros_like(weight)
    with pytest.raises(RuntimeError, match="fused"):
        torch.optim.AdamW([weight], fused=True).step()

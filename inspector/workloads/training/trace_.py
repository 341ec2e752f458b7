"""The trace stage: a model on meta and a recipe -> the tape of loading and two training steps.

This is the one door of `inspector.trace`: the pipeline calls `trace_training`. Two steps, because the first has no
optimizer state yet.

Covers every kind of model that `workloads/training/batch.py` has a batch for. What it cannot trace (no batch, control
flow that reads floating-point data) raises `NotTraceableError` with the cause.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from inspector.errors import InspectorError, UsageError, one_line, quoted
from inspector.hardware.platform import Platform, platform_of
from inspector.model.adapter.peft_names import find_owner
from inspector.records.memory import BatchInput, BlockShape, Unaccounted
from inspector.records.notice import Notice
from inspector.records.optimizer_names import checked_name, parse_optim_args
from inspector.records.recipe import Recipe
from inspector.records.tape import Category, Event, Phase
from inspector.trace.kernels import NOT_ACCOUNTED
from inspector.trace.rules.any_device import as_on_a_device
from inspector.trace.rules.autocast import autocast_rules
from inspector.trace.rules.cuda import cuda_rules
from inspector.trace.rules.flash_attn import flash_attention_package, use_attention
from inspector.trace.rules.moe_routing import loops_over_experts
from inspector.trace.shadow import LARGEST_SHADOW, one_thread
from inspector.trace.tracer import Tracer
from inspector.workloads.training.batch import BatchError, Input, batch_inputs, leaves_out_images, longest_row
from inspector.workloads.training.loops import plain_steps, trainer_steps
from inspector.workloads.training.optimizers import made_optimizer, managed_bytes, state_tensors
from inspector.workloads.training.precision import PRECISIONS
from inspector.workloads.training.quantized_load import (
    OUTLIERS,
    has_int8_weights,
    is_quantized,
    load_quantized,
    quantized_rules,
)

__all__ = [
    "STEPS",
    "NotTraceableError",
    "base_model",
    "block_shape",
    "load_order",
    "not_accounted",
    "platform_of",
    "prepare",
    "resolved",
    "run_steps",
    "step_notices",
    "trace_training",
    "traced_inputs",
]

STEPS = 2
# torch says it in two parts: a warning ("None of the inputs have requires_grad=True") and the failure of backward().
_NO_INPUT_REQUIRES_GRAD = (
    "reentrant checkpointing needs an input of the first block that requires gradients, and none does, so that nothing "
    "would train; drop --use-reentrant."
)
# What stops a real step in the same way, and what to do then.
_ADVICE = {
    "Input type (float) and bias type": "as a real step does: its inputs are float32; use --dtype float32",
    "'tuple' object has no attribute 'dtype'": "as a real step does: an adapter is on a router, which returns a tuple; "
    "name --targets that leave it out",
    "if no padding token is defined": "as a real step does: use --batch-size 1",
    "allocations and frees": "trace fewer micro-batches: with --gradient-accumulation 4 the peak lacks only the inputs "
    "of the others",
}
# Layers for which packages of their own have kernels: linear attention and state spaces in chunks.
_TORCH_CODE = re.compile(r"GatedDeltaNet|KimiDeltaAttention|Mamba2|BambaMixer|MambaLayer$|FalconH1Mixer")


class NotTraceableError(Exception):
    """This model's training step cannot be traced; the message says why."""


def not_accounted(model: Any, recipe: Recipe) -> tuple[Unaccounted, ...]:
    """Return what a real step of `recipe` on `model` may take and a trace does not know or does not count."""
    known = (*((OUTLIERS,) if has_int8_weights(base_model(model)) else ()), *NOT_ACCOUNTED)
    items = tuple(Unaccounted(what=what, why=why) for what, why in known)
    managed = managed_bytes(model, recipe)
    if not managed:
        return items
    why = f"{managed:,} bytes that the driver moves between host and GPU, outside the allocator of torch"
    return (Unaccounted(what="paged state of the optimizer", why=why), *items)


def resolved(model: Any, recipe: Recipe) -> Recipe:
    """Return the recipe as it runs on `model`: what depends on the rest filled in, rows no longer than can run.

    `seq_len` is None where the model takes no tokens, and `padding` then False. Raises UsageError where the optimizer
    or the precision is unknown, NotTraceableError where no batch is known for the model.
    """
    parse_optim_args(checked_name(recipe.optimizer), recipe.optim_args)
    if recipe.mixed_precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise UsageError(f"mixed precision {quoted(str(recipe.mixed_precision))} is not known: use one of {known}.")
    base = base_model(model)
    try:
        longest = longest_row(base)
        recipe = _bounded(recipe, longest, _virtual_tokens(model))
        batch_inputs(base, recipe)
    except BatchError as error:
        raise NotTraceableError(str(error)) from error
    except Exception as error:  # configurations hold values of any kind
        raise NotTraceableError(f"no batch for {type(base).__name__} ({_said(error)})") from error
    return recipe


def _bounded(recipe: Recipe, longest: int | None, virtual_tokens: int) -> Recipe:
    """Return the recipe with rows of at most `longest` tokens, those of PEFT's prompt methods included."""
    if longest == 0:
        return dataclasses.replace(recipe, seq_len=None, padding=False)
    padding = recipe.padding if recipe.padding is not None else recipe.batch_size > 1
    seq_len = recipe.seq_len
    if longest is not None and seq_len is not None:
        seq_len = min(seq_len, max(longest - virtual_tokens, 1))
    return dataclasses.replace(recipe, seq_len=seq_len, padding=padding)


def trace_training(model: Any, recipe: Recipe, platform: Platform, *, passes_alone: bool = False) -> list[Event]:
    """Return the tape of loading `model` and of two steps of a resolved `recipe` on `platform`.

    With `passes_alone` it ends where the optimizer of the first step begins. `model` is a transformers model or a
    PeftModel on meta, with `requires_grad` set on what trains; it is changed.
    """
    base = base_model(model)
    _refuse_scans(base)
    if recipe.batch_size * (recipe.seq_len or 1) > LARGEST_SHADOW:
        raise NotTraceableError(
            f"micro-batches of more than {LARGEST_SHADOW:,} tokens are not traced: use a smaller --batch-size"
        )
    if is_quantized(base) and base is model:
        raise NotTraceableError(
            "quantized weights cannot be trained themselves, and Trainer refuses a model without an adapter on them: "
            "add --lora r=16"
        )
    with flash_attention_package(platform, recipe.attention), one_thread():
        return _traced(model, base, recipe, platform, passes_alone)


class _PassesDoneError(Exception):
    """The first update has done its passes, whose tape this holds."""

    def __init__(self, tape: list[Event]) -> None:
        super().__init__()
        self.tape = tape


def _traced(model: Any, base: Any, recipe: Recipe, platform: Platform, passes_alone: bool) -> list[Event]:
    """Prepare the model and run the steps; what torch and the kernels refuse is refused here."""
    prepare(model, recipe)
    names = {module: name for name, module in base.named_modules()}
    tracer = Tracer(platform, names, balances_experts=loops_over_experts(base))
    tracer.watch(model, base.get_output_embeddings())
    undo = contextlib.ExitStack()
    if is_quantized(base):
        undo.enter_context(quantized_rules(platform))
        load_quantized(tracer, model, _is_added, functools.partial(find_owner, model))
    else:
        for name, tensor, category in load_order(model):
            tracer.hold([tensor], category, find_owner(model, name))
    try:
        batch = _batch(tracer, base, recipe)
        with undo, cuda_rules(platform, recipe.sdpa_backend), _autocast(recipe), as_on_a_device(), tracer:
            optimizer = made_optimizer(model, recipe)
            tracer.hold(state_tensors(optimizer), Category.OPTIMIZER)
            held = run_steps(
                model, batch, optimizer, _until_optimizer(tracer) if passes_alone else tracer.enter, recipe
            )
            # Taken while the batch, the optimizer and what the loop holds are alive, as they are between two steps.
            tape = tracer.tape()
            del held
            return tape
    except _PassesDoneError as done:
        return done.tape
    except InspectorError:
        raise
    except Exception as error:  # 400 model classes run their forward over configurations of any kind
        if recipe.use_reentrant and "does not require grad" in str(error):
            raise UsageError(_NO_INPUT_REQUIRES_GRAD) from error
        raise NotTraceableError(f"{type(base).__name__} stopped the trace ({_said(error)}){_advice(error)}") from error


def _until_optimizer(tracer: Tracer) -> Callable[[Phase, int], None]:
    """Return what enters a phase and ends the trace before the optimizer's first step."""

    def enter(phase: Phase, step: int) -> None:
        tracer.enter(phase, step)
        if phase is Phase.OPTIMIZER:
            raise _PassesDoneError(tracer.tape())

    return enter


def run_steps(
    model: nn.Module,
    batch: Mapping[str, Any],
    optimizer: torch.optim.Optimizer,
    on_phase: Callable[[Phase, int], None],
    recipe: Recipe,
) -> tuple[Any, ...]:
    """Run the steps of a resolved `recipe`, on tensors with or without data; `on_phase` is told of every phase.

    Returns what the loop still holds when the last step is over.
    """
    run = trainer_steps if recipe.loop == "trainer" else plain_steps
    return run(
        model,
        batch,
        optimizer,
        on_phase,
        steps=STEPS,
        max_grad_norm=recipe.max_grad_norm,
        gradient_accumulation=recipe.gradient_accumulation,
        mixed_precision=recipe.mixed_precision,
    )


def block_shape(model: Any) -> BlockShape | None:
    """Return what rules of thumb know of the text model, None where its configuration has no such sizes."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    try:
        config = base_model(model).config.get_text_config()
    except ValueError:  # MusicGen has two text parts, and neither stands for the whole
        return None
    sizes = [size for size in (getattr(config, name, None) for name in names) if isinstance(size, int)]
    if len(sizes) != len(names):
        return None
    hidden, layers, heads = sizes
    return BlockShape(hidden_size=hidden, layer_count=layers, head_count=heads)


def traced_inputs(model: Any, recipe: Recipe) -> tuple[BatchInput, ...]:
    """Return what a micro-batch of a resolved `recipe` for `model` consists of."""
    return tuple(
        BatchInput(name=name, shape=item.shape, dtype=str(item.dtype).removeprefix("torch."))
        for name, item in batch_inputs(base_model(model), recipe).items()
        if isinstance(item, Input)
    )


def step_notices(model: Any, asked: Recipe, recipe: Recipe) -> tuple[Notice, ...]:
    """Return what the user should know about running `recipe`, which is `asked` as it runs on `model`."""
    base = base_model(model)
    notices = []
    positions = _positions(base)
    if recipe.seq_len is not None and asked.seq_len is not None and recipe.seq_len < asked.seq_len:
        message = (
            f"Rows of {asked.seq_len:,} tokens cannot run on {type(base).__name__}, which has learned "
            f"{recipe.seq_len:,} positions: rows of {recipe.seq_len:,} were traced."
        )
        notices.append(Notice(code="seq-len-clamped", message=message))
    elif recipe.seq_len is not None and positions is not None and recipe.seq_len > positions:
        message = (
            f"Rows of {recipe.seq_len:,} tokens are longer than the {positions:,} positions that the model is made for."
        )
        notices.append(Notice(code="beyond-positions", message=message))
    if leaves_out_images(base):
        message = "The traced batch has text alone: images add what their tower keeps and the positions they take."
        notices.append(Notice(code="no-image", message=message))
    if loops_over_experts(base):
        message = "Experts run one after the other: the trace assumes that each takes the same number of tokens."
        notices.append(Notice(code="balanced-experts", message=message))
    scans = {type(module).__name__ for module in base.modules() if _TORCH_CODE.search(type(module).__name__)}
    if scans:
        message = (
            f"{', '.join(sorted(scans))}: traced as transformers' own torch code, which runs where no CUDA kernel is "
            "installed for it (flash-linear-attention, mamba-ssm)."
        )
        notices.append(Notice(code="torch-fallback", message=message))
    return tuple(notices)


def _said(error: Exception) -> str:
    """Return what a library said, its type first."""
    return one_line(f"{type(error).__name__}: {error}")


def _advice(error: Exception) -> str:
    """Return what to do where a real step stops in the same way."""
    return next((f", {advice}" for said, advice in _ADVICE.items() if said in str(error)), "")


def base_model(model: Any) -> Any:
    """Return the transformers model itself, without PEFT's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _positions(base: Any) -> int | None:
    """Return how many positions a model's text part says that it is made for."""
    with contextlib.suppress(ValueError):  # MusicGen has two text parts, and neither stands for the whole
        positions = getattr(base.config.get_text_config(), "max_position_embeddings", None)
        return positions if isinstance(positions, int) else None
    return None


def _virtual_tokens(model: Any) -> int:
    """Return how many positions PEFT's prompt methods put before each row."""
    return getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", None) or 0


def _refuse_scans(base: nn.Module) -> None:
    """Refuse layers whose torch code goes through a row position by position: such a step takes minutes to trace."""
    for module in base.modules():
        name = type(module).__name__
        if (name.endswith("MambaMixer") and "2" not in name) or name == "RwkvSelfAttention":
            raise NotTraceableError(
                f"{name} goes through each row position by position where no CUDA kernel is installed for it, and what "
                "that kernel keeps is not known here"
            )


def _autocast(recipe: Recipe) -> contextlib.AbstractContextManager[None]:
    """Return the rules that mixed precision needs: without it no op goes through them."""
    return contextlib.nullcontext() if recipe.mixed_precision == "no" else autocast_rules()


def prepare(model: Any, recipe: Recipe) -> None:
    """Set the model up for training as Trainer does: cache, checkpointing and attention as asked for."""
    base = base_model(model)
    model.train()
    base.config.use_cache = bool(recipe.use_cache)
    if recipe.attention != "sdpa":
        use_attention(base, recipe.attention)
    if recipe.gradient_checkpointing:
        _checkpoint(base, use_reentrant=recipe.use_reentrant)


def _checkpoint(base: Any, *, use_reentrant: bool) -> None:
    """Let blocks be computed again in the backward pass; raise UsageError where the class has no such thing."""
    try:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    except ValueError as error:
        raise UsageError(
            f"{type(base).__name__} runs without checkpointing alone ({one_line(error, 120)}); drop "
            "--gradient-checkpointing."
        ) from error


def load_order(model: nn.Module) -> Iterator[tuple[str, Tensor, Category]]:
    """Yield the parameters and buffers with their names in the order in which loading and attaching make them."""
    parameters = list(model.named_parameters())
    yield from ((name, tensor, Category.WEIGHTS) for name, tensor in parameters if not _is_added(name))
    yield from ((name, tensor, Category.BUFFERS) for name, tensor in model.named_buffers())
    yield from ((name, tensor, Category.ADAPTER) for name, tensor in parameters if _is_added(name))


def _is_added(name: str) -> bool:
    """Tell whether PEFT added a parameter: it names its adapter, "default", in the path."""
    return "default" in name.split(".") or name.startswith("prompt_encoder.")


def _batch(tracer: Tracer, base: Any, recipe: Recipe) -> dict[str, Any]:
    """Make the inputs of a micro-batch on meta; integers have values for whatever reads them."""
    batch: dict[str, Any] = {}
    for name, item in batch_inputs(base, recipe).items():
        batch[name] = item.on("meta") if isinstance(item, Input) else item
        if isinstance(item, Input) and not item.dtype.is_floating_point and math.prod(item.shape) <= LARGEST_SHADOW:
            tracer.shadows.set(batch[name], item.on("cpu"))
    tracer.hold((tensor for tensor in batch.values() if isinstance(tensor, Tensor)), Category.INPUTS)
    return batch

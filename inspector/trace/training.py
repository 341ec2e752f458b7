"""The trace stage: a model on meta and a recipe -> the tape of loading and two training steps.

This is the one door of `inspector.trace`: the pipeline calls `trace_training`. Two steps, because the first has no
optimizer state yet.

Covers decoders and encoders that take token ids. What it cannot trace (other inputs, control flow that reads
floating-point data, as expert routing does) raises `NotTraceableError` with the cause.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.trainer_pt_utils import get_parameter_names

from inspector.errors import InspectorError, UsageError, one_line
from inspector.records import Notice
from inspector.trace.cuda_rules import cuda_rules
from inspector.trace.flash_attention import flash_attention_package, use_attention
from inspector.trace.hidden_memory import NOT_ACCOUNTED
from inspector.trace.platform import Platform, platform_of
from inspector.trace.step import plain_steps, trainer_steps
from inspector.trace.tracer import Tracer
from inspector.training_records import BlockShape, Category, Event, Recipe, Unaccounted

__all__ = [
    "NotTraceableError",
    "block_shape",
    "not_accounted",
    "platform_of",
    "resolved",
    "step_notices",
    "trace_training",
]

_STEPS = 2
# torch says it in two parts: a warning ("None of the inputs have requires_grad=True") and the failure of backward().
_NO_INPUT_REQUIRES_GRAD = (
    "reentrant checkpointing needs an input of the first block that requires gradients, and none does, so that nothing "
    "would train; drop --use-reentrant."
)
# Model classes that take a batch of token ids with labels of the same shape.
_TOKEN_CLASSES = ("ForCausalLM", "LMHeadModel", "ForMaskedLM")
# What transformers.Trainer leaves without weight decay (trainer.py, get_decay_parameter_names).
_WITHOUT_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]


class NotTraceableError(Exception):
    """This model's training step cannot be traced; the message says why."""


def not_accounted() -> tuple[Unaccounted, ...]:
    """Return what a real step may take and a trace does not know."""
    return tuple(Unaccounted(what=what, why=why) for what, why in NOT_ACCOUNTED)


def resolved(recipe: Recipe) -> Recipe:
    """Return the recipe with what depends on the rest of it filled in."""
    padding = recipe.padding if recipe.padding is not None else recipe.batch_size > 1
    return dataclasses.replace(recipe, padding=padding)


def trace_training(model: Any, recipe: Recipe, platform: Platform) -> list[Event]:
    """Return the tape of loading `model` and of two steps of a resolved `recipe` on `platform`.

    `model` is a transformers model or a PeftModel on meta, with `requires_grad` set on what trains; it is changed.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not type(base).__name__.endswith(_TOKEN_CLASSES):
        raise NotTraceableError(f"only models that take token ids alone are traced, not {type(base).__name__}")
    if any("Mamba" in type(module).__name__ for module in base.modules()):
        raise NotTraceableError("the kernels of state-space layers are not known here")
    with flash_attention_package(platform, recipe.attention):
        return _traced(model, base, recipe, platform)


def _traced(model: Any, base: Any, recipe: Recipe, platform: Platform) -> list[Event]:
    """Prepare the model and run the steps; what torch and the kernels refuse is refused here."""
    _prepare(model, base, recipe)
    tracer = Tracer(platform, {module: name for name, module in base.named_modules()})
    tracer.watch(model, base.get_output_embeddings())
    _load(tracer, model)
    run = trainer_steps if recipe.loop == "trainer" else plain_steps
    try:
        with cuda_rules(platform, recipe.sdpa_backend), tracer:
            batch, optimizer = _batch(tracer, recipe), _optimizer(model, recipe)
            run(
                model,
                batch,
                optimizer,
                tracer.enter,
                steps=_STEPS,
                max_grad_norm=recipe.max_grad_norm,
                gradient_accumulation=recipe.gradient_accumulation,
            )
            # Taken while the batch and the optimizer are alive, as they are between two steps of a loop.
            return tracer.tape()
    except InspectorError:
        raise
    except Exception as error:  # 400 model classes run their forward over configurations of any kind
        if recipe.use_reentrant and "does not require grad" in str(error):
            raise UsageError(_NO_INPUT_REQUIRES_GRAD) from error
        cause = one_line(f"{type(error).__name__}: {error}")
        raise NotTraceableError(f"{type(base).__name__} stopped the trace ({cause})") from error


def block_shape(model: Any) -> BlockShape | None:
    """Return what rules of thumb know of the text model, None where its configuration has no such sizes."""
    config = model.config.get_text_config()
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    sizes = [size for size in (getattr(config, name, None) for name in names) if isinstance(size, int)]
    if len(sizes) != len(names):
        return None
    hidden, layers, heads = sizes
    return BlockShape(hidden_size=hidden, layer_count=layers, head_count=heads)


def step_notices(model: Any, recipe: Recipe) -> tuple[Notice, ...]:
    """Return what the user should know about running `recipe` on `model`."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(positions, int) or recipe.seq_len <= positions:
        return ()
    message = (
        f"Rows of {recipe.seq_len:,} tokens are longer than the {positions:,} positions that the model is made for."
    )
    return (Notice(code="beyond-positions", message=message),)


def _prepare(model: Any, base: Any, recipe: Recipe) -> None:
    """Set the model up for training as Trainer does: cache, checkpointing and attention as asked for."""
    model.train()
    base.config.use_cache = bool(recipe.use_cache)
    if recipe.attention != "sdpa":
        use_attention(base, recipe.attention)
    if recipe.gradient_checkpointing:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": recipe.use_reentrant})


def _load(tracer: Tracer, model: nn.Module) -> None:
    """Put the parameters and buffers on the tape in the order in which loading and attaching make them."""
    parameters = list(model.named_parameters())
    for added, category in ((False, Category.WEIGHTS), (True, Category.ADAPTER)):
        for name, tensor in parameters:
            if _is_added(name) is added:
                tracer.hold([tensor], category, _owner(name))
        if not added:
            for name, buffer in model.named_buffers():
                tracer.hold([buffer], Category.BUFFERS, _owner(name))


def _owner(name: str) -> str:
    """Return the path of the module that a parameter belongs to, without PEFT's wrappers."""
    path = name.removeprefix("base_model.model.").removeprefix("base_model.").rpartition(".")[0]
    return path.replace(".base_layer", "")


def _is_added(name: str) -> bool:
    """Tell whether PEFT added a parameter: it names its adapter, "default", in the path."""
    return "default" in name.split(".") or name.startswith("prompt_encoder.")


def _batch(tracer: Tracer, recipe: Recipe) -> dict[str, Tensor]:
    """Make the inputs of a micro-batch on meta, with values for whatever reads them."""
    shape = (recipe.batch_size, recipe.seq_len)
    meta = torch.device("meta")
    batch = {name: torch.zeros(shape, dtype=torch.int64, device=meta) for name in ("input_ids", "labels")}
    if recipe.padding:
        batch["attention_mask"] = torch.ones(shape, dtype=torch.int64, device=meta)
        mask = torch.ones(shape, dtype=torch.int64)
        mask[-1, -1] = 0  # one padded position is enough: what is allocated does not depend on how many there are
        tracer.shadows.set(batch["attention_mask"], mask)
    tracer.hold(batch.values(), Category.INPUTS)
    return batch


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Make the optimizer that transformers names; on CUDA torch's default is the foreach implementation."""
    groups = [{"params": group} for group in _parameter_groups(model, recipe.loop) if group]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, foreach=True)
    return torch.optim.AdamW(groups, foreach=True)


def _parameter_groups(model: nn.Module, loop: str) -> Iterable[list[nn.Parameter]]:
    """Return what trains, split into with and without weight decay where the Trainer does so."""
    trained = [(name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad]
    if loop == "plain":
        return [[tensor for _, tensor in trained]]
    decayed = set(get_parameter_names(model, [nn.LayerNorm], _WITHOUT_DECAY))
    return [[tensor for name, tensor in trained if (name in decayed) is decays] for decays in (True, False)]

"""How a model is set up to keep less of its forward pass: checkpoints, what they keep and where, noise on embeddings.

transformers switches checkpointing on (modeling_utils.py of 5.23, `activation_checkpointing_enable`): of all blocks or
of one in so many, with their inputs on the GPU or in pinned host memory. That a checkpointed block keeps the output of
attention is TRL's selective checkpointing (TRL 1.16, models/selective_activation_checkpointing.py): torch's own, with a
policy that saves the fused kernels of sdpa.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from typing import Any

import torch
import transformers
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from inspector.compat.transformers import find_neftune_hook
from inspector.errors import UsageError, one_line
from inspector.records.recipe import Offload, Recipe

__all__ = ["add_noise", "enable_checkpointing"]

# The kernels whose output TRL's policy saves.
_ATTENTION = frozenset(
    getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}_attention{suffix}").default
    for kernel, suffix in (("flash", ""), ("efficient", ""), ("cudnn", ""), ("flash", "_for_cpu"))
)


def enable_checkpointing(base: Any, recipe: Recipe) -> None:
    """Let blocks be computed again in the backward pass; raise UsageError where the class has no such thing."""
    keywords: dict[str, Any] = {"use_reentrant": bool(recipe.use_reentrant)}
    if recipe.checkpoint_keeps is not None:
        keywords["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _keep_attention)
    others: dict[str, Any] = {}
    if recipe.checkpoint_every not in (None, 1):
        others["every_n_layers"] = recipe.checkpoint_every
    if recipe.offload == Offload.CHECKPOINTS:
        others["offload"] = True
    _refuse_unknown(base, others)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the older name is the one that all releases of 5 have
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs=keywords, **others)
    except ValueError as error:
        raise UsageError(
            f"{type(base).__name__} runs without checkpointing alone ({one_line(error, 120)}); use "
            "`gradient_checkpointing=False`."
        ) from error


def add_noise(base: Any, alpha: float) -> None:
    """Put NEFTune's noise on the embeddings, as a Trainer does before its first step."""
    embeddings = base.get_input_embeddings()
    if embeddings is None:
        raise UsageError(f"`neftune` puts noise on embeddings of tokens, and {type(base).__name__} has none: drop it.")
    embeddings.neftune_noise_alpha = alpha
    embeddings.register_forward_hook(find_neftune_hook())


def _keep_attention(_context: Any, op: Any, *_: Any, **__: Any) -> CheckpointPolicy:
    """Save what the kernels of attention return, and compute all else again."""
    return CheckpointPolicy.MUST_SAVE if op in _ATTENTION else CheckpointPolicy.PREFER_RECOMPUTE


def _refuse_unknown(base: Any, keywords: dict[str, Any]) -> None:
    """Raise UsageError for what the installed transformers has no keyword for."""
    enable = getattr(base, "activation_checkpointing_enable", base.gradient_checkpointing_enable)
    known = inspect.signature(enable).parameters
    settings = {"every_n_layers": "checkpoint_every", "offload": "offload"}
    for name in keywords:
        if name not in known:
            raise UsageError(
                f"`{settings[name]}` needs a transformers whose checkpointing has {name}, as 5.23 has, and "
                f"{transformers.__version__} is installed; drop it."
            )

"""Bytes that follow from counts and dtypes alone: weights, gradients, optimizer state.

A gradient has the dtype of its parameter, and `torch.optim.AdamW` keeps both moments in the dtype of the parameter
(`torch.zeros_like(p)`, torch/optim/adam.py); its step counters live on the CPU and weigh nothing here. That holds for a
model trained in the dtype it is loaded in, without float32 master weights. Autocast, which casts
copies, changes none of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from inspector.records.memory import StaticBytes, StaticRecipe
from inspector.records.model import Census

__all__ = ["MOMENTS", "OPTIMIZER", "count_static_bytes"]

OPTIMIZER = "adamw_torch"
# Moments that AdamW keeps for each trained element: the running mean and the running variance of its gradient.
MOMENTS = 2


def count_static_bytes(
    base_dtypes: Mapping[str, int],
    census: Census,
    *,
    base_buffer_bytes: int,
    has_adapter: bool,
    base_frozen_bytes: int = 0,
) -> StaticBytes:
    """Return the static bytes of full fine-tuning and, with an adapter, of training that adapter.

    `base_dtypes` and `base_buffer_bytes` are those of the base model before the adapter; `census` counts the model
    after it, whose buffers may be more (VeRA's projections are). `base_frozen_bytes` are weights of the base that its
    class itself does not train.
    """
    base = sum(base_dtypes.values()) - base_frozen_bytes
    full = StaticRecipe(
        frozen_bytes=base_frozen_bytes,
        trained_bytes=base,
        gradients_bytes=base,
        optimizer_bytes=MOMENTS * base,
        buffers_bytes=base_buffer_bytes,
    )
    if not has_adapter:
        return StaticBytes(optimizer=OPTIMIZER, full=full)
    trained = sum(census.trainable_dtypes.values())
    adapter = StaticRecipe(
        frozen_bytes=census.bytes - trained,
        trained_bytes=trained,
        gradients_bytes=trained,
        optimizer_bytes=MOMENTS * trained,
        buffers_bytes=census.buffer_bytes,
    )
    return StaticBytes(optimizer=OPTIMIZER, full=full, adapter=adapter)

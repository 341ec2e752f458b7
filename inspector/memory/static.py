"""Bytes that follow from counts and dtypes alone: weights, gradients, optimizer state.

A gradient has the dtype of its parameter. The optimizer is that of the recipe, and its state what its own code makes
(`workloads.training.state`): AdamW keeps both moments in the dtype of the parameter. That holds for a model trained in
the dtype it is loaded in, without float32 master weights. Autocast, which casts copies, changes none of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from inspector.records.memory import StaticBytes, StaticRecipe
from inspector.records.model import Census

__all__ = ["count_static_bytes"]


def count_static_bytes(
    base_dtypes: Mapping[str, int],
    census: Census,
    *,
    optimizer: str,
    full_state_bytes: int,
    adapter_state_bytes: int | None,
    base_buffer_bytes: int,
    base_frozen_bytes: int = 0,
) -> StaticBytes:
    """Return the static bytes of full fine-tuning and, with an adapter, of training that adapter.

    `base_dtypes` and `base_buffer_bytes` are those of the base model before the adapter; `census` counts the model
    after it, whose buffers may be more (VeRA's projections are). `base_frozen_bytes` are weights of the base that its
    class itself does not train. The bytes of state are those of the `optimizer` named, None where there is no adapter.
    """
    base = sum(base_dtypes.values()) - base_frozen_bytes
    full = StaticRecipe(
        frozen_bytes=base_frozen_bytes,
        trained_bytes=base,
        gradients_bytes=base,
        optimizer_bytes=full_state_bytes,
        buffers_bytes=base_buffer_bytes,
    )
    if adapter_state_bytes is None:
        return StaticBytes(optimizer=optimizer, full=full)
    trained = sum(census.trainable_dtypes.values())
    adapter = StaticRecipe(
        frozen_bytes=census.bytes - trained,
        trained_bytes=trained,
        gradients_bytes=trained,
        optimizer_bytes=adapter_state_bytes,
        buffers_bytes=census.buffer_bytes,
    )
    return StaticBytes(optimizer=optimizer, full=full, adapter=adapter)

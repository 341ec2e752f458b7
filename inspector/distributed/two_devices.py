"""A card and its host, both on the meta device: where code asks which of the two a tensor lies on, and moves it.

`RankTracer` knows which storages are in host memory. What torch answers in C++ for two devices of its own, it does not
for one: `Tensor.device` says meta of both, and `to` finds nothing to do. So both ask the tracer here, `pin_memory`
makes a block of the host, and copies from one to the other take what CUDA takes for a conversion: one that does not
block is converted on the card, another on the host (aten/src/ATen/native/cuda/Copy.cu, torch 2.13).

Not covered: `cuda()`, and tensors of the CPU that are none on meta, which stay what they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inspector.distributed.tracer import RankTracer
from inspector.runtime.patches import replace_attribute

__all__ = ["pin", "tell_host_from_card"]

_HOST = torch.device("cpu")
_CARD = torch.device("meta")


def tell_host_from_card(tracer: RankTracer) -> None:
    """Have tensors say whether they are on the host, and move, until the innermost block of changes ends."""
    find_device, move = Tensor.device, Tensor.to

    def device(tensor: Tensor) -> torch.device:
        found: torch.device = find_device.__get__(tensor)
        return _HOST if found == _CARD and not tracer.runs_op and tracer.lies_on_host(tensor) else found

    def to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        target, dtype = _read_target(args, kwargs)
        if not tensor.is_meta or target is None:
            return move(tensor, *args, **kwargs)
        if (target == _HOST) == tracer.lies_on_host(tensor):
            return move(tensor, dtype or tensor.dtype)
        if target == _HOST:
            return move(tensor, *args, **kwargs)
        moved = torch.empty(tensor.shape, dtype=dtype or tensor.dtype, device=_CARD)
        return moved.copy_(tensor, non_blocking=bool(kwargs.get("non_blocking", False)))

    replace_attribute(Tensor, "device", property(device))
    replace_attribute(Tensor, "to", to)
    replace_attribute(Tensor, "pin_memory", lambda tensor: pin(tracer, tensor))
    replace_attribute(Tensor, "cpu", lambda tensor, *_args, **_kwargs: tensor.to("cpu"))
    tracer.keep_devices_apart()


def pin(tracer: RankTracer, tensor: Tensor) -> Tensor:
    """Return a copy of a tensor of the host in memory that CUDA can read, whose blocks are powers of two.

    Source: c10/core/CachingHostAllocator.h, `allocate` (torch 2.13).
    """
    with tracer.make_on_host(pinned=True):
        return torch.empty_like(tensor)


def _read_target(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[torch.device | None, torch.dtype | None]:
    """Return the device and the dtype that `Tensor.to` is asked for."""
    target: torch.device | None = None
    dtype: torch.dtype | None = None
    for item in (*args, kwargs.get("device"), kwargs.get("dtype"), kwargs.get("other")):
        if isinstance(item, Tensor):
            target, dtype = item.device, item.dtype
        elif isinstance(item, torch.dtype):
            dtype = item
        elif isinstance(item, (str, torch.device)):
            target = torch.device(str(getattr(item, "value", item)))
    return None if target is None else torch.device(target.type), dtype

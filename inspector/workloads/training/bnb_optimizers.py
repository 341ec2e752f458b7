"""The optimizers of bitsandbytes, as far as memory goes: what they allocate, in their order, without the library.

An update runs as one kernel in place and takes nothing beside the state (bitsandbytes 0.50,
backends/cuda/ops.py, `_optimizer_update_*_impl`), so the state is all there is to model (optim/optimizer.py,
`init_state`). It is float32, or one byte for each element with a float32 scale for each block of 256; then
all parameters share tables of 256 float32 that say what a byte means. Paged state lives in managed memory
(cudaMallocManaged), which moves between host and GPU and is none of torch's allocator; small state and scales never do.

Not covered: `max_unorm` and `skip_zeros`, which transformers does not set; the algorithms themselves.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, overload

import torch
from torch import Tensor, nn

from inspector.errors import UsageError

__all__ = ["BnbOptimizer", "State"]

# Defaults of bitsandbytes/optim/optimizer.py: smaller parameters have float32 state, blocks of one scale, and the size
# from which paged state is managed memory.
_SMALLEST_8BIT = 4096
_BLOCK = 256
_TABLE = 256
_SMALLEST_PAGED = 100_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What an optimizer keeps for each parameter: `buffers` tensors, of so many times its elements each.

    `bits` is 8 or 32. With `scales_first` the scales of the blocks are made before the buffers. `bfloat16` says whether
    there is a kernel for 32-bit state and gradients of that dtype (backends/cuda/ops.py, str2optimizer32bit).
    """

    buffers: tuple[int, ...]
    bits: int
    paged: bool = False
    scales_first: bool = False
    bfloat16: bool = True

    def choose_dtype(self, parameter: Tensor, *, wide: bool) -> torch.dtype:
        """Return the dtype of a parameter's state; `wide` is one for which 32 bits were asked."""
        return torch.float32 if self.bits == 32 or wide or parameter.numel() < _SMALLEST_8BIT else torch.uint8

    def is_managed(self, parameter: Tensor) -> bool:
        """Tell whether the state of a parameter is managed memory."""
        return self.paged and parameter.numel() >= _SMALLEST_PAGED

    def count_managed_bytes(self, parameter: Tensor, *, wide: bool) -> int:
        """Return how many bytes of managed memory the state of a parameter is."""
        if not self.is_managed(parameter):
            return 0
        return sum(self.buffers) * parameter.numel() * self.choose_dtype(parameter, wide=wide).itemsize


class BnbOptimizer(torch.optim.Optimizer):
    """Allocate what an optimizer of bitsandbytes does; `wide` are the parameters that have 32 bits in any case."""

    def __init__(self, groups: Iterable[Mapping[str, Any]], state: State, wide: Iterable[Tensor] = ()) -> None:
        super().__init__([dict(group) for group in groups], {})
        self._kept = state
        self._wide = {id(parameter) for parameter in wide}
        self._tables: list[Tensor] = []

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make the state of every parameter that has a gradient, as the first update does; later ones change it."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter)
        return loss

    def _update(self, parameter: nn.Parameter) -> None:
        """Update one parameter, which is made contiguous for it, as its gradient is (`update_step`)."""
        dtype = self._kept.choose_dtype(parameter, wide=id(parameter) in self._wide)
        if not self.state[parameter]:
            self.state[parameter]["state"] = self._make_state(parameter, dtype)
        assert parameter.grad is not None
        if dtype is torch.float32 and parameter.grad.dtype is torch.bfloat16 and not self._kept.bfloat16:
            raise UsageError(
                "bitsandbytes' RMSprop cannot update 32-bit state, which small parameters have always, with bfloat16 "
                "gradients; use `dtype=float16` or another `optimizer`."
            )
        parameter.data = parameter.data.contiguous()
        parameter.grad = parameter.grad.contiguous()

    def _make_state(self, parameter: Tensor, dtype: torch.dtype) -> list[Tensor]:
        """Return the state of a parameter (`init_state`)."""
        if dtype is torch.float32:
            return self._make_buffers(parameter, dtype)
        while len(self._tables) < len(self._kept.buffers):  # the signed table, then the unsigned one
            self._tables.append(torch.zeros(_TABLE, dtype=torch.float32, device=parameter.device))
        if self._kept.scales_first:
            return [*self._make_scales(parameter), *self._make_buffers(parameter, dtype)]
        return [*self._make_buffers(parameter, dtype), *self._make_scales(parameter)]

    def _make_buffers(self, parameter: Tensor, dtype: torch.dtype) -> list[Tensor]:
        """Return the buffers of a parameter, none where they are managed memory (`get_state_buffer`)."""
        if self._kept.is_managed(parameter):
            return []
        return [
            torch.zeros(times * parameter.numel(), dtype=dtype, device=parameter.device) for times in self._kept.buffers
        ]

    def _make_scales(self, parameter: Tensor) -> list[Tensor]:
        """Return the scales of the blocks of every buffer."""
        blocks = math.ceil(parameter.numel() / _BLOCK)
        return [
            torch.zeros(times * blocks, dtype=torch.float32, device=parameter.device) for times in self._kept.buffers
        ]

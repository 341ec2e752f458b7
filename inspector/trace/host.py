"""Tensors that wait in host memory for the backward pass: what they are on meta, where no byte is copied.

A real copy is a tensor of the CPU, which for a long sequence takes gigabytes here too. A `HostTensor` knows shape and
dtype alone, and the tracer notes how many bytes the real one has and when it ends.
"""

from __future__ import annotations

import weakref

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from inspector.compat.torch import dispatch_mode_stack
from inspector.trace.tracer import Tracer

__all__ = ["HostTensor", "SaveOnHost", "find_tracer"]


def find_tracer() -> Tracer | None:
    """Return the tracer at work, None where none is."""
    return next((mode for mode in dispatch_mode_stack() if isinstance(mode, Tracer)), None)


class HostTensor:
    """A copy of a tensor on the host. `elements` says how many it has where those are not the tensor's."""

    def __init__(self, tensor: Tensor, elements: int | None = None) -> None:
        self._like = tensor.shape, tensor.dtype, tensor.device
        size = (tensor.numel() if elements is None else elements) * tensor.element_size()
        tracer = find_tracer()
        if tracer is not None:
            weakref.finalize(self, tracer.release_from_host, tracer.hold_on_host(size)).atexit = False

    def copy_back(self) -> Tensor:
        """Return a new tensor on the device."""
        shape, dtype, device = self._like
        return torch.empty(shape, dtype=dtype, device=device)


class SaveOnHost(saved_tensors_hooks):
    """`torch.autograd.graph.save_on_cpu` on meta tensors (torch/autograd/graph.py).

    A tensor that is not contiguous is made so on the GPU before it is copied to the host, whose copy is contiguous
    (ATen/native/cuda/Copy.cu, `copy_requires_temporaries`).
    """

    def __init__(self, pin_memory: bool = False, device_type: str = "cuda") -> None:
        super().__init__(_pack, _unpack)


def _pack(tensor: Tensor) -> HostTensor:
    if not tensor.is_contiguous():
        tensor.contiguous()
    return HostTensor(tensor)


def _unpack(packed: HostTensor) -> Tensor:
    return packed.copy_back()

"""Which implementation torch takes for what it does to many tensors at once: on meta the same as on CUDA.

torch.optim and gradient clipping choose by the device of the parameters: foreach or fused kernels on CUDA, one tensor
after the other on meta. They ask two functions for the devices that have such kernels; for the time of a trace meta is
one of them. The kernels themselves run on meta as torch has them: a foreach op there is a loop of which a dispatch mode
sees the results alone, and those are what the CUDA kernel allocates. What that kernel takes beside them stands in
`kernels`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from inspector.compat.torch import foreach_device_functions
from inspector.runtime.patches import replace_attribute, restore_changes

__all__ = ["use_foreach_on_meta"]


@contextlib.contextmanager
def use_foreach_on_meta() -> Iterator[None]:
    """Let torch choose foreach and fused implementations for meta tensors as it does for CUDA."""
    with restore_changes():
        for module, name in foreach_device_functions():
            replace_attribute(module, name, _add_meta(getattr(module, name)))
        yield


def _add_meta(devices: Callable[[], list[str]]) -> Callable[[], list[str]]:
    """Return the function with meta among what it returns."""
    return lambda: [*devices(), "meta"]

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

from torch.optim import optimizer as _optimizers
from torch.utils import _foreach_utils

__all__ = ["foreach_as_on_cuda"]

# The functions, and where torch looks them up (torch/optim/optimizer.py imports both by name).
_ASKED = tuple(
    (module, f"_get_{kind}_kernels_supported_devices")
    for module in (_foreach_utils, _optimizers)
    for kind in ("foreach", "fused")
)


@contextlib.contextmanager
def foreach_as_on_cuda() -> Iterator[None]:
    """Let torch choose foreach and fused implementations for meta tensors as it does for CUDA."""
    with contextlib.ExitStack() as stack:
        for module, name in _ASKED:
            devices = getattr(module, name)
            setattr(module, name, _with_meta(devices))
            stack.callback(setattr, module, name, devices)
        yield


def _with_meta(devices: Callable[[], list[str]]) -> Callable[[], list[str]]:
    """Return the function with meta among what it returns."""
    return lambda: [*devices(), "meta"]

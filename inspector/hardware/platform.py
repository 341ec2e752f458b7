"""The GPU and the torch release whose memory is predicted: what decides which kernels run and what they take."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

from inspector.records.hardware import DEFAULT_CAPABILITY, Gpu

__all__ = ["Platform", "installed_torch", "platform_of"]


def installed_torch() -> tuple[int, int]:
    """Return (major, minor) of the installed torch."""
    major, minor = metadata.version("torch").split(".")[:2]
    return int(major), int(minor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """A GPU architecture and a torch release.

    `compute_capability` is (major, minor), `torch_version` (major, minor) of the torch that will run the step.
    `multiprocessors` and `threads_per_multiprocessor` decide how kernels split their work; the defaults are an A100's.
    """

    compute_capability: tuple[int, int] = DEFAULT_CAPABILITY
    multiprocessors: int = 108
    threads_per_multiprocessor: int = 2048
    torch_version: tuple[int, int]

    def __str__(self) -> str:
        """Name the architecture and the torch release."""
        major, minor = self.compute_capability
        return f"CUDA compute capability {major}.{minor}, torch {self.torch_version[0]}.{self.torch_version[1]}"

    @property
    def blas_workspace_bytes(self) -> int:
        """Return the workspace that each cuBLAS handle takes from the allocator and keeps.

        32 MiB on Hopper; on Blackwell too from torch 2.12 on, 2 x 4096 KiB + 8 x 16 KiB elsewhere
        (aten/src/ATen/cuda/CublasHandlePool.cpp; for 2.12 see pytorch PR 175344).
        """
        major, minor = self.compute_capability
        if (major, minor) == (9, 0) or (major >= 10 and self.torch_version >= (2, 12)):
            return 32 * 2**20
        return (2 * 4096 + 8 * 16) * 1024

    @property
    def blas_lt_workspace_bytes(self) -> int:
        """Return the workspace that each handle takes for cuBLASLt apart from the one of cuBLAS.

        1 MiB in 2.9 to 2.11; from 2.12 on cuBLASLt uses the workspace of cuBLAS (pytorch PR 156495, 175879).
        """
        return 2**20 if self.torch_version <= (2, 11) else 0

    @property
    def takes_lowest_address(self) -> bool:
        """Tell whether the allocator takes the lowest address among free blocks of equal size, not the oldest segment.

        So in 2.10 and 2.11, seen with both libraries over a stand-in for the driver; 2.13 goes by age. A T4's driver
        hands out descending addresses, which makes the two differ; other cards are taken to do the same.
        """
        return self.torch_version <= (2, 11)


def platform_of(gpu: Gpu | None) -> Platform:
    """Return the platform of `gpu` with the installed torch; what is not known of it, and of None, is an A100's."""
    torch_version = installed_torch()
    if gpu is None or gpu.compute_capability is None:
        return Platform(torch_version=torch_version)
    default = Platform(torch_version=torch_version)
    return Platform(
        compute_capability=gpu.compute_capability,
        multiprocessors=gpu.multiprocessors or default.multiprocessors,
        threads_per_multiprocessor=gpu.threads_per_multiprocessor or default.threads_per_multiprocessor,
        torch_version=torch_version,
    )

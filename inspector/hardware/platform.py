"""The GPU and the torch release whose memory is predicted: what decides which kernels run and what they take."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from importlib import metadata

from inspector.errors import UsageError, one_line, quoted
from inspector.records.hardware import DEFAULT_CAPABILITY, Gpu

__all__ = ["NEWEST_TORCH", "OLDEST_TORCH", "Platform", "build_platform", "find_installed_torch", "parse_torch"]


# The oldest release whose allocator and kernels are known here, and the newest that was looked at.
OLDEST_TORCH = (2, 9)
NEWEST_TORCH = (2, 13)


def find_installed_torch() -> tuple[int, int]:
    """Return (major, minor) of the installed torch, without importing it."""
    major, minor = metadata.version("torch").split(".")[:2]
    return int(major), int(minor)


def parse_torch(text: str) -> tuple[int, int]:
    """Read a release of torch, `2.10` or `2.10.0+cu128`; UsageError where it is none that is known."""
    match = re.fullmatch(r"(\d{1,2})\.(\d{1,3})(?:\.\d{1,3})?(?:(?:a|b|rc|\.dev|\+)[\w.]*)?", text.strip())
    known = f"give {OLDEST_TORCH[0]}.{OLDEST_TORCH[1]} to {NEWEST_TORCH[0]}.{NEWEST_TORCH[1]}."
    if match is None:
        raise UsageError(f"`torch` {quoted(text, 40)} is not a release: {known}")
    release = int(match[1]), int(match[2])
    if not OLDEST_TORCH <= release <= max(NEWEST_TORCH, find_installed_torch()):
        raise UsageError(f"what torch {one_line(text, 40)} allocates is not known here: {known}")
    return release


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """A GPU architecture and a torch release.

    `compute_capability` is (major, minor), `torch_version` (major, minor) of the torch that will run the step.
    `multiprocessors` and `threads_per_multiprocessor` decide how kernels split their work; the defaults are an A100's.
    `descending_addresses` says where the driver places a new segment: below the last one or above it.
    """

    compute_capability: tuple[int, int] = DEFAULT_CAPABILITY
    multiprocessors: int = 108
    threads_per_multiprocessor: int = 2048
    torch_version: tuple[int, int]
    descending_addresses: bool = True

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
    def prefers_cudnn(self) -> bool:
        """Tell whether sdpa tries cuDNN first: on Hopper and Blackwell's data-centre cards.

        It needs cuDNN 9.15.1, which the wheels of torch carry from 2.11 on.
        """
        return self.compute_capability in ((9, 0), (10, 0), (10, 3)) and self.torch_version >= (2, 11)

    @property
    def takes_lowest_address(self) -> bool:
        """Tell whether the allocator takes the lowest address among free blocks of equal size, not the oldest segment.

        So in 2.10 and 2.11, seen with both libraries over a stand-in for the driver; 2.13 goes by age.
        """
        return self.torch_version <= (2, 11)

    @property
    def takes_newest_segment(self) -> bool:
        """Tell whether the lowest address is that of the newest segment, which is when the order of addresses shows."""
        return self.takes_lowest_address and self.descending_addresses


def build_platform(gpu: Gpu | None, torch_version: tuple[int, int] | None = None) -> Platform:
    """Return the platform of `gpu` with a release of torch, by default the installed one.

    What is not known of the GPU, and of None, is an A100's; a driver is taken to place segments as a T4's does, below
    the last one.
    """
    default = Platform(torch_version=torch_version or find_installed_torch())
    if gpu is None or gpu.compute_capability is None:
        return default
    return dataclasses.replace(
        default,
        compute_capability=gpu.compute_capability,
        multiprocessors=gpu.multiprocessors or default.multiprocessors,
        threads_per_multiprocessor=gpu.threads_per_multiprocessor or default.threads_per_multiprocessor,
        descending_addresses=default.descending_addresses
        if gpu.descending_addresses is None
        else gpu.descending_addresses,
    )

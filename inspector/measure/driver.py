"""What the driver says of a GPU beside torch: its version, and the bytes that nvidia-smi shows for this process.

NVML comes with the driver (libnvidia-ml.so.1, nvml.dll); where it is not there, nothing is known and nothing fails.
Structures and names: nvml.h of CUDA 12 (nvmlProcessInfo_t, the _v3 functions; drivers from 510 on).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

__all__ = ["read_driver_version", "read_process_bytes"]

_LIBRARIES = ("libnvidia-ml.so.1", "nvml.dll")
_LONGEST_VERSION = 80
_MOST_PROCESSES = 256
_NOT_AVAILABLE = 2**64 - 1


class _ProcessInfo(ctypes.Structure):
    """nvmlProcessInfo_t."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used_bytes", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


def read_driver_version() -> str | None:
    """Return the version of the driver, None where it cannot be asked."""
    with _open_nvml() as library:
        text = ctypes.create_string_buffer(_LONGEST_VERSION)
        if library is None or library.nvmlSystemGetDriverVersion(text, _LONGEST_VERSION) != 0:
            return None
        return text.value.decode(errors="replace")


def read_process_bytes(uuid: str) -> int | None:
    """Return what this process takes of the GPU of a uuid, None where the driver does not say.

    In a container the driver may know the process by another number: it is then the one that is alone on the GPU.
    """
    with _open_nvml() as library:
        handle = ctypes.c_void_p()
        if library is None or library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode(), ctypes.byref(handle)) != 0:
            return None
        count = ctypes.c_uint(_MOST_PROCESSES)
        infos = (_ProcessInfo * _MOST_PROCESSES)()
        if library.nvmlDeviceGetComputeRunningProcesses_v3(handle, ctypes.byref(count), infos) != 0:
            return None
        listed = list(infos[: count.value])
        own = [info for info in listed if info.pid == os.getpid()] or (listed if len(listed) == 1 else [])
        return int(own[0].used_bytes) if own and own[0].used_bytes != _NOT_AVAILABLE else None


@contextlib.contextmanager
def _open_nvml() -> Iterator[ctypes.CDLL | None]:
    """Yield NVML for the time of a block, None where there is none."""
    library = _load_library()
    try:
        yield library
    finally:
        if library is not None:
            library.nvmlShutdown()


def _load_library() -> ctypes.CDLL | None:
    """Return NVML after its initialisation, None where it is missing or too old."""
    for name in _LIBRARIES:
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(name)
            if library.nvmlInit_v2() == 0 and hasattr(library, "nvmlDeviceGetComputeRunningProcesses_v3"):
                return library
    return None

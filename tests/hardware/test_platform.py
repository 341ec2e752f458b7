"""The platform of a trace: what is known of a GPU decides, and what is not is an A100's."""

from __future__ import annotations

import pytest

from inspector.hardware.catalogue import find_gpu
from inspector.hardware.platform import build_platform, find_installed_torch
from inspector.records.hardware import Gpu


@pytest.mark.parametrize(
    ("gpu", "capability", "multiprocessors", "threads", "workspace_bytes"),
    [
        (None, (8, 0), 108, 2048, 8_519_680),
        (find_gpu("t4").gpu, (7, 5), 40, 1024, 8_519_680),
        (find_gpu("4090").gpu, (8, 9), 128, 1536, 8_519_680),
        (find_gpu("h100-sxm").gpu, (9, 0), 132, 2048, 32 * 2**20),
        (find_gpu("mi300x").gpu, (8, 0), 108, 2048, 8_519_680),
    ],
)
def test_a_gpu_decides_what_is_known_of_it(
    gpu: Gpu | None, capability: tuple[int, int], multiprocessors: int, threads: int, workspace_bytes: int
) -> None:
    """Hopper's cuBLAS takes 32 MiB; a device without CUDA is traced as the default."""
    platform = build_platform(gpu)
    assert platform.compute_capability == capability
    assert (platform.multiprocessors, platform.threads_per_multiprocessor) == (multiprocessors, threads)
    assert platform.blas_workspace_bytes == workspace_bytes
    assert platform.torch_version == find_installed_torch()

"""The CUDA device at hand: whether there is one, what it is, which platform the prediction is for, and how to leave it.

The first question that needs the device makes torch's context on it; its allocator stays empty.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import traceback
from collections.abc import Iterator, Mapping, Sequence

import torch

from inspector.compat.torch import clear_cublas_workspaces
from inspector.errors import UsageError
from inspector.hardware.platform import Platform, find_installed_torch
from inspector.measure.driver import read_driver_version
from inspector.measure.quantized import forget_tables
from inspector.records.measurement import Device
from inspector.records.recipe import Recipe
from inspector.records.steps.optimizers import FAMILIES
from inspector.runtime.quiet import silence_output

__all__ = [
    "PREDICT_ALONE",
    "build_platform_of_device",
    "check_bitsandbytes",
    "check_packages",
    "describe_device",
    "empty_device",
    "find_cuda_device",
]

# What can be done where something that the step needs is not here.
PREDICT_ALONE = "drop `measure` for the prediction alone"
# The packages whose own code makes a loss on a GPU.
_PACKAGES: Mapping[str, Sequence[str]] = {
    "fused": ("trl", "triton"),
    "liger": ("liger-kernel", "triton"),
    "cce": ("cut-cross-entropy", "triton"),
}
# Two segments of this size show where the driver puts the second one; more than the allocator keeps together.
_PROBE_BYTES = 32 * 2**20


def find_cuda_device(card: int = 0) -> torch.device:
    """Return the current CUDA device, or make another `card` current; raises UsageError where there is none."""
    if torch.version.cuda is None:
        raise UsageError(
            f"measure runs the step on a CUDA GPU, and the installed torch {torch.__version__} is built without CUDA: "
            f"use a CUDA build of torch, or {PREDICT_ALONE}."
        )
    if not torch.cuda.is_available():
        raise UsageError(
            "measure runs the step on a CUDA GPU, and torch finds none here; check nvidia-smi and "
            f"CUDA_VISIBLE_DEVICES, or {PREDICT_ALONE}."
        )
    if card >= torch.cuda.device_count():
        raise UsageError(
            f"LOCAL_RANK is {card}, and torch finds {torch.cuda.device_count()} GPUs here: launch as many ranks as "
            "there are GPUs, or measure one rank alone with `rank`."
        )
    if card:
        torch.cuda.set_device(card)
    return torch.device("cuda", torch.cuda.current_device())


def check_packages(recipe: Recipe, quantization: str | None = None) -> None:
    """Raise UsageError where a package that recipe or quantization run on is not installed, or not for CUDA."""
    if recipe.attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise UsageError(
            "`attention` flash_attention_2 runs on the package flash-attn, which is not installed here: add it with "
            'pip install flash-attn, or use `attention="sdpa"`.'
        )
    for runs, packages in _list_packages_of_kernels(recipe):
        for package in packages:
            if importlib.util.find_spec(package.replace("-", "_")) is None:
                raise UsageError(
                    f"`{runs}` runs on the package {package}, which is not installed here: add it with pip install "
                    f"{package}, or {PREDICT_ALONE}."
                )
    if recipe.optimizer in FAMILIES["bitsandbytes"]:
        check_bitsandbytes(f"`optimizer` {recipe.optimizer} runs", 'use `optimizer="adamw_torch"`')
    if quantization not in (None, "none"):
        check_bitsandbytes(f"`quantization` {quantization} runs", PREDICT_ALONE)


def _list_packages_of_kernels(recipe: Recipe) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield what of a recipe runs on packages with kernels of Triton, and these, as they are called on PyPI."""
    if recipe.stage is None and (packages := _PACKAGES.get(str(recipe.loss))):
        yield f"loss={recipe.loss}", packages
    if recipe.liger:
        yield "liger", _PACKAGES["liger"]


def check_bitsandbytes(runs: str, otherwise: str) -> None:
    """Raise UsageError where bitsandbytes is not installed or has no library for the CUDA of torch."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(
            f"{runs} on the package bitsandbytes, which is not installed here: add it with pip install bitsandbytes, "
            f"or {otherwise}."
        )
    with silence_output():
        import bitsandbytes  # type: ignore[import-not-found]  # only where it is asked for
    if not bitsandbytes.cextension.lib.compiled_with_cuda:
        raise UsageError(
            f"{runs} on the package bitsandbytes, and the library of the installed {bitsandbytes.__version__} for CUDA "
            f"{torch.version.cuda} does not load: see what python -m bitsandbytes says of it, or {otherwise}."
        )


def describe_device(device: torch.device) -> Device:
    """Return the facts that torch and the driver give of a device."""
    facts = torch.cuda.get_device_properties(device)
    free, _ = torch.cuda.mem_get_info(device)
    return Device(
        name=facts.name,
        compute_capability=(facts.major, facts.minor),
        multiprocessors=facts.multi_processor_count,
        threads_per_multiprocessor=facts.max_threads_per_multi_processor,
        memory_bytes=facts.total_memory,
        free_bytes=free,
        descending_addresses=_has_descending_addresses(device, free),
        driver=read_driver_version(),
        cuda=torch.version.cuda,
    )


def build_platform_of_device(gpu: Device) -> Platform:
    """Return the platform of a device with the installed torch."""
    return Platform(
        compute_capability=gpu.compute_capability,
        multiprocessors=gpu.multiprocessors,
        threads_per_multiprocessor=gpu.threads_per_multiprocessor,
        torch_version=find_installed_torch(),
        descending_addresses=gpu.descending_addresses,
    )


@contextlib.contextmanager
def empty_device(device: torch.device) -> Iterator[None]:
    """Begin a block with nothing allocated, and leave nothing behind on the device, whatever happens inside.

    cuBLAS keeps a workspace for each handle in torch's allocator until they are cleared. An error keeps the frames that
    it passed through, and these the tensors of the step that stopped.
    """
    _free_memory(device)
    try:
        yield
    except BaseException as error:
        passed: BaseException | None = error
        while passed is not None:
            traceback.clear_frames(passed.__traceback__)
            passed = passed.__cause__ or passed.__context__
        raise
    finally:
        forget_tables()
        _free_memory(device)


def _free_memory(device: torch.device) -> None:
    """Give back to the driver all that nothing holds any more."""
    gc.collect()
    clear_cublas_workspaces()
    with torch.cuda.device(device):
        torch.cuda.empty_cache()


def _has_descending_addresses(device: torch.device, free_bytes: int) -> bool:
    """Tell whether the driver puts a new segment below the one before it."""
    if free_bytes < 4 * _PROBE_BYTES:
        return False
    first, second = (torch.empty(_PROBE_BYTES, dtype=torch.uint8, device=device) for _ in range(2))
    is_below = second.data_ptr() < first.data_ptr()
    del first, second
    torch.cuda.empty_cache()
    return is_below

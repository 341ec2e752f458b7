"""How an image is stored, as torch reads it from sizes and strides, and how a convolution stores what it makes.

Kernels copy what is not stored so. Sources: c10/core/MemoryFormat.h (`is_channels_last_strides_2d_s4`),
ATen/native/ConvUtils.h (`cudnn_conv_suggest_memory_format`), ATen/native/Convolution.cpp (`use_cudnn_depthwise`).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "LINES",
    "choose_convolution_format",
    "find_memory_format",
    "is_native_depthwise",
    "norms_rows",
    "view_as_images",
]

_MATRIX = 2
# Dimensions of a batch of lines.
LINES = 3
# Dimensions from the innermost one, by how many there are, and what torch calls an image that is stored so.
_CHANNELS_LAST = {
    4: ((1, 3, 2, 0), torch.channels_last),
    5: ((1, 4, 3, 2, 0), torch.channels_last_3d),
}


def find_memory_format(tensor: Tensor) -> torch.memory_format:
    """Return the memory format of what torch makes after a tensor: its channels are innermost, or it is contiguous."""
    order, name = _CHANNELS_LAST.get(tensor.dim(), ((), torch.contiguous_format))
    if not order or tensor.stride(1) == 0:
        return torch.contiguous_format
    least = 0
    for dimension in order:
        size, stride = tensor.shape[dimension], tensor.stride(dimension)
        if size == 0 or stride < least or (dimension == 0 and least == tensor.stride(1)):
            return torch.contiguous_format
        least = stride * max(size, 1)
    return name


def choose_convolution_format(values: Tensor, weight: Tensor) -> torch.memory_format:
    """Return the memory format in which cuDNN takes two tensors of a convolution, and makes the third."""
    if torch.float64 in (values.dtype, weight.dtype):
        return torch.contiguous_format
    formats = (find_memory_format(tensor) for tensor in (values, weight))
    return next((found for found in formats if found is not torch.contiguous_format), torch.contiguous_format)


def view_as_images(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return lines, which are made contiguous, and their weight as images of one row; others as they are."""
    if values.dim() != LINES:
        return values, weight
    return torch.empty_like(values, memory_format=torch.contiguous_format).unsqueeze(2), weight.unsqueeze(2)


def is_native_depthwise(values: Tensor, weight: Tensor, transposed: bool, groups: int) -> bool:
    """Tell whether torch's own kernel convolves each channel alone; cuDNN does where channels are innermost."""
    is_depthwise = not transposed and groups > 1 and values.shape[1] == groups and weight.shape[0] % groups == 0
    return is_depthwise and choose_convolution_format(values, weight) is torch.contiguous_format


def norms_rows(values: Tensor) -> bool:
    """Tell whether batch norm takes its input as rows of channels, by torch's own kernel and not by cuDNN's.

    Source: native/Normalization.cpp and cuda/Normalization.cu, as torch 2.13 answers it.
    """
    is_last = find_memory_format(values) is not torch.contiguous_format
    return values.dim() == _MATRIX or (is_last and values.dtype is torch.bfloat16)

"""The parameters and linear layers of bitsandbytes as far as memory goes, without the library.

Layers and parameters have the names of bitsandbytes 0.50, since transformers and PEFT recognize them by these; the
source is its nn/modules.py. `tests/workloads/test_quantized.py` holds what they allocate against the library itself.
"""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from inspector.compat.torch import make_subclass
from inspector.quantization.bitsandbytes.functional import (
    BLOCK,
    MatMul8bit,
    QuantState,
    copy_tensor,
    matmul_4bit,
    quantize_4bit,
)

__all__ = ["Int8Params", "Linear4bit", "Linear8bitLt", "Params4bit"]

# The name by which a layer holds the state of its weight.
_HELD = "quant_state"


class Params4bit(nn.Parameter):
    """A weight of which two elements share a byte."""

    blocksize: int
    compress_statistics: bool
    quant_type: str
    quant_storage: torch.dtype
    quant_state: QuantState | None
    bnb_quantized: bool
    module: nn.Module | None
    logical_shape: torch.Size

    def __new__(
        cls,
        data: Tensor,
        requires_grad: bool = False,
        *,
        compress_statistics: bool = True,
        quant_type: str = "fp4",
        quant_storage: torch.dtype = torch.uint8,
    ) -> Params4bit:
        """Make a parameter that is still to be quantized."""
        self: Params4bit = make_subclass(cls, data, requires_grad)
        self.blocksize = BLOCK
        self.compress_statistics = compress_statistics
        self.quant_type = quant_type
        self.quant_storage = quant_storage
        self.quant_state = None
        self.bnb_quantized = False
        self.logical_shape = data.shape
        return self

    @property
    def logical_count(self) -> int:
        """Return how many weights the packed bytes stand for."""
        return math.prod(self.logical_shape)

    def state_tensors(self) -> list[Tensor]:
        """Return the tensors that belong to the packed weight."""
        return self.quant_state.list_tensors() if self.quant_state is not None else []

    def __deepcopy__(self, memo: dict[int, Any]) -> Params4bit:
        """Copy the state and then the weight, which PEFT does to look at a layer apart."""
        state = None if self.quant_state is None else self.quant_state.copy()
        copied = Params4bit(copy_tensor(self.data), self.requires_grad)
        copied.__dict__.update(self.__dict__)
        copied.quant_state = state
        return copied

    def quantize_from(self, weight: Tensor) -> None:
        """Pack a weight that is on the device (`Params4bit._quantize`)."""
        self.data, self.quant_state = quantize_4bit(
            weight, self.quant_type, self.quant_storage, nested=self.compress_statistics
        )
        self.bnb_quantized = True


class Int8Params(nn.Parameter):
    """A weight of one byte an element, with a scale for each row."""

    CB: Tensor | None
    SCB: Tensor | None
    has_fp16_weights: bool

    def __new__(
        cls, data: Tensor, requires_grad: bool = False, *, has_fp16_weights: bool = False, **_unused: Any
    ) -> Int8Params:
        """Make a parameter that is still to be quantized."""
        self: Int8Params = make_subclass(cls, data, requires_grad)
        self.CB = None
        self.SCB = None
        self.has_fp16_weights = has_fp16_weights
        return self

    @property
    def logical_count(self) -> int:
        """Return how many weights there are."""
        return self.numel()

    def state_tensors(self) -> list[Tensor]:
        """Return the scales of the rows."""
        return [self.SCB] if self.SCB is not None else []

    def __deepcopy__(self, memo: dict[int, Any]) -> Int8Params:
        """Copy the weight with its scales."""
        copied = Int8Params(copy.deepcopy(self.data, memo), self.requires_grad)
        copied.__dict__.update(self.__dict__)
        copied.SCB = copy.deepcopy(self.SCB, memo)
        return copied

    def quantize_from(self, weight: Tensor) -> None:
        """Quantize a weight that is on the device: transformers moves it to the CPU and a copy back, in float16."""
        copy = torch.empty_like(weight, dtype=torch.float16)
        scales = torch.empty(weight.shape[0], dtype=torch.float32, device=copy.device)
        self.data = torch.empty(weight.shape, dtype=torch.int8, device=copy.device)
        self.SCB = scales


class Linear4bit(nn.Linear):
    """A linear layer whose weight is dequantized for each product."""

    weight: Params4bit

    def __init__(
        self,
        input_features: int,
        output_features: int,
        bias: bool = True,
        compute_dtype: torch.dtype | None = None,
        compress_statistics: bool = True,
        quant_type: str = "fp4",
        quant_storage: torch.dtype = torch.uint8,
    ) -> None:
        super().__init__(input_features, output_features, bias)
        self.weight = Params4bit(
            self.weight.data,
            compress_statistics=compress_statistics,
            quant_type=quant_type,
            quant_storage=quant_storage,
        )
        self.compute_dtype = compute_dtype

    def __deepcopy__(self, memo: dict[int, Any]) -> Linear4bit:
        """Copy the layer: the state of its weight twice, since the layer holds it too and the copies are not shared."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        own = {name: value for name, value in self.__dict__.items() if name != _HELD}
        copied.__dict__.update(copy.deepcopy(own, memo))
        if self.weight.quant_state is not None:
            copied.__dict__[_HELD] = self.weight.quant_state.copy()
        return copied

    def hold_state(self) -> None:
        """Hold the state of the weight, as the library's layer does once its weight is packed."""
        self.__dict__[_HELD] = self.weight.quant_state

    def forward(self, x: Tensor) -> Tensor:
        """Multiply in the compute dtype, and return the dtype of the input."""
        asked = x.dtype
        if self.compute_dtype is not None:
            x = x.to(self.compute_dtype)
        bias = self.bias
        if bias is not None:
            if bias.dtype != x.dtype:
                bias.data = bias.data.to(x.dtype)
            bias = bias.to(self.compute_dtype)  # type: ignore[assignment]  # the cast of a parameter is a tensor
        # A weight that was sharded comes back as a plain parameter; the layer holds its state then.
        state = getattr(self.weight, _HELD, None) or self.__dict__.get(_HELD)
        assert state is not None, "weights are quantized before a step runs"
        return matmul_4bit(x, self.weight, state, bias).to(asked)


class Linear8bitLt(nn.Linear):
    """A linear layer whose inputs are quantized for each product, as LLM.int8() does."""

    weight: Int8Params

    def __init__(
        self,
        input_features: int,
        output_features: int,
        bias: bool = True,
        has_fp16_weights: bool = True,
        threshold: float = 0.0,
        index: Any = None,
    ) -> None:
        super().__init__(input_features, output_features, bias)
        self.state = SimpleNamespace(threshold=threshold, has_fp16_weights=has_fp16_weights, SCB=None, CB=None)
        self.index = index
        self.weight = Int8Params(self.weight.data, has_fp16_weights=has_fp16_weights)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply in int8, and return the dtype of the input."""
        if self.bias is not None and self.bias.dtype != x.dtype:
            self.bias.data = self.bias.data.to(x.dtype)
        product: Tensor = MatMul8bit.apply(x, self.weight, self.bias, self.state.threshold)  # type: ignore[no-untyped-call]
        return product

"""The layers of GPTQModel and torchao that train an adapter on packed weights, as far as memory goes.

transformers loads AWQ and GPTQ by GPTQModel, whose kernels for inference (Marlin, Machete, ExLlama) refuse
`model.train()`: a user who trains loads with `backend="auto_trainable"`, and the layers that this takes on CUDA are
modelled. Kernels run into nothing: tensors are made as there, on meta.

- AWQ: `AwqGEMMTritonLinear` (nn_modules/qlinear/gemm_awq_triton.py). More than 128 tokens are multiplied by the weight
  unpacked into float16, which dies with the product; fewer go through one kernel that adds up in float32. The backward
  pass unpacks again. The model is in float16 (transformers/quantizers/quantizer_awq.py, `update_dtype`).
- GPTQ: `TritonV2Linear`, which in training is `TorchLinear` (nn_modules/qlinear/tritonv2.py and torch.py): a compiled
  function unpacks the weight, and the product by it is torch's own. Autograd keeps each unpacked weight for the
  backward pass wherever the input needs a gradient.

- torchao's int8 weights with a scale for each output: `F.linear` on an `Int8Tensor` is plain torch code
  (quantization/quantize_/workflows/int8/int8_tensor.py), which casts the weight for the product and scales its result.
  Autograd keeps the cast weight as with GPTQ.

Source: gptqmodel 7.7.0 and torchao 0.18.0 from PyPI. Not covered: what the compiled unpacking of GPTQ takes beside its
result, AWQ's CUDA extension (where nvcc is installed), 3-bit and planar GPTQ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from inspector.dtypes import BY_SAFETENSORS_NAME
from inspector.quantization.layout import Part

__all__ = ["AwqLinear", "GptqLinear", "Int8Linear"]

# Up to here one kernel multiplies by packed weights (quantization/awq/modules/triton/scheduler.py, `legacy_plan`).
_MOST_FUSED_ROWS = 128


class _PackedLinear(nn.Module):
    """A layer with the tensors that a checkpoint has for its weight, under their names."""

    bias: nn.Parameter | None

    def __init__(self, layer: nn.Linear, parts: Sequence[Part]) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        for part in parts:
            assert part.shape is not None, "these formats have no text"
            dtype = getattr(torch, str(BY_SAFETENSORS_NAME[part.dtype].torch))
            tensor = torch.empty(part.shape, dtype=dtype, device="meta")
            self.register_parameter(part.suffix.removeprefix("."), nn.Parameter(tensor, requires_grad=False))
        self.register_parameter("bias", layer.bias)


class AwqLinear(_PackedLinear):
    """A layer of AWQ in training."""

    qweight: Tensor
    scales: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Multiply in half precision, and return the dtype of the input."""
        asked = x.dtype
        if asked not in (torch.float16, torch.bfloat16):
            x = x.half()
        product: Tensor = _AwqProduct.apply(x.contiguous(), self.qweight, self.scales, self.bias)  # type: ignore[no-untyped-call]
        return product.to(asked)


class _AwqProduct(torch.autograd.Function):
    """`AwqGemmTritonFn`: nothing is kept but the packed weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply by the unpacked weight, or in one kernel."""
        ctx.save_for_backward(packed, scales)
        ctx.shape = x.shape
        rows = x.reshape(-1, x.shape[-1])
        if rows.shape[0] > _MOST_FUSED_ROWS:
            weight = _unpack(packed, scales, x.dtype)
            product = torch.matmul(rows, weight)
            del weight
        else:
            sums = torch.zeros((rows.shape[0], scales.shape[1]), dtype=torch.float32, device=x.device)
            product = sums.to(x.dtype)
            del sums
        product = product if bias is None else product + bias
        return product.reshape(*x.shape[:-1], scales.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        """Unpack the weight again for the gradient of the input."""
        packed, scales = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        weight = _unpack(packed, scales, gradient.dtype)
        rows = gradient.reshape(-1, gradient.shape[-1])
        return torch.matmul(rows, weight.transpose(-1, -2)).reshape(ctx.shape), None, None, None


def _unpack(packed: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Make the unpacked weight of [inputs, outputs] (`awq_dequantize_triton`)."""
    return torch.empty((packed.shape[0], scales.shape[1]), dtype=dtype, device=packed.device)


class GptqLinear(_PackedLinear):
    """A layer of GPTQ in training."""

    qweight: Tensor

    def __init__(self, layer: nn.Linear, parts: Sequence[Part]) -> None:
        super().__init__(layer, parts)
        # How far a value is shifted, once along each side (qlinear/__init__.py, `_init_wf_unsqueeze_buffers`).
        count = layer.in_features // self.qweight.shape[0]
        for name, shape in (("wf_unsqueeze_zero", (1, 1, count)), ("wf_unsqueeze_neg_one", (1, count, 1))):
            self.register_buffer(name, torch.empty(shape, dtype=torch.int32, device="meta"), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by the unpacked weight, which autograd keeps where the input needs a gradient."""
        shape = (*x.shape[:-1], self.out_features)
        rows = x.reshape(-1, x.shape[-1])
        weight = torch.empty((self.in_features, self.out_features), dtype=rows.dtype, device=rows.device)
        product = torch.matmul(rows, weight).reshape(shape)
        del weight
        if self.bias is not None:
            product.add_(self.bias)
        return product


class Int8Linear(_PackedLinear):
    """A layer whose weight is torchao's Int8Tensor, without quantized inputs."""

    _weight_qdata: Tensor
    _weight_scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by the weight cast to the input's dtype, which autograd keeps where the input needs a gradient."""
        product = torch.mm(x.reshape(-1, x.shape[-1]), self._weight_qdata.t().to(x.dtype))
        scaled = product * self._weight_scale.to(product.dtype).flatten()
        scaled = scaled.reshape(*x.shape[:-1], self.out_features)
        if self.bias is not None:
            scaled += self.bias
        return scaled

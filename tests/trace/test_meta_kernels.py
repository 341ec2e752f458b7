"""What an op returns on meta is what it returns with data: shape, strides, bytes."""

from __future__ import annotations

import pytest
import torch
import transformers

import inspector
from inspector.hardware.platform import Platform, find_installed_torch
from inspector.trace.meta_kernels import META_KERNELS
from tests.model.tiny import mixtral
from tests.workloads.tracing import trace

OP = torch.ops.aten._grouped_mm.default


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("first", "second"),
    [((24, 16), (3, 16, 10)), ((16, 24), (24, 32)), ((3, 24, 16), (3, 16, 32))],
    ids=["rows", "gradient of the weights", "batched"],
)
def test_grouped_products_are_as_the_cpu_makes_them(
    first: tuple[int, ...], second: tuple[int, ...], dtype: torch.dtype
) -> None:
    offsets = None if len(first) == len(second) == 3 else torch.tensor([8, 16, 24], dtype=torch.int32)
    # The second operand is a transposed weight; its rows are contiguous in memory.
    real = [torch.zeros(first, dtype=dtype), torch.zeros(*second[:-2], second[-1], second[-2], dtype=dtype).mT]
    if len(first) == len(second) == 2:
        real = [torch.zeros(24, 16, dtype=dtype).mT, torch.zeros(second, dtype=dtype)]
    expected = OP(*real, offsets)
    result = META_KERNELS[OP](*(item.to("meta") for item in real), offsets)
    assert (result.shape, result.stride(), result.dtype) == (expected.shape, expected.stride(), expected.dtype)
    assert result.untyped_storage().nbytes() == expected.untyped_storage().nbytes()


@pytest.mark.parametrize(
    ("capability", "op"),
    [((8, 0), "aten._grouped_mm.default"), ((7, 5), "transformers.grouped_mm_fallback.default")],
)
def test_experts_take_the_op_that_transformers_chooses_for_the_gpu(capability: tuple[int, int], op: str) -> None:
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(mixtral(), dtype=torch.bfloat16)
    tape = trace(
        model,
        inspector.Recipe(seq_len=16),
        Platform(compute_capability=capability, torch_version=find_installed_torch()),
    )
    grouped = {event.op for event in tape if "grouped_mm" in event.op}
    assert grouped - {"transformers.grouped_mm_fallback_backward.default"} == {op}

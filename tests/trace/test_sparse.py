"""Sparse matrices of adapters are traced as torch's CUDA code allocates for them."""

from __future__ import annotations

import pytest
import torch

import inspector
from inspector.hardware.platform import build_platform
from inspector.records.tape import EventKind
from inspector.trace.rules.sparse import stand_in_for_sparse_matrices
from inspector.trace.tracer import Tracer
from tests.model.tiny import llama

_ROWS, _COLUMNS, _COUNT = 64, 48, 500
# What torch 2.13's CUDA build asks its allocator for (on the stand-ins of tests/evidence/stand_in), a weight in
# bfloat16 and values in float32: 64-bit places; a copy of the weight; the sum in float32; the backward pass.
_RECORDED = [
    *(2000, 8000, 6144),
    *(12288, 12288, 4000, -4000, -12288, -12288),
    *(1280, 1280, 6144, 960, 12288, -6144, 4, 2000, 8000, 2000, -2000, -4, -8000, -12288, 2000),
]


def test_adding_a_sparse_matrix_with_trained_values_allocates_what_cuda_does() -> None:
    with stand_in_for_sparse_matrices(), Tracer(build_platform(None)) as tracer, torch.device("meta"):
        weight = torch.empty(_ROWS, _COLUMNS, dtype=torch.bfloat16)
        values = torch.nn.Parameter(torch.empty(_COUNT))
        places = torch.empty(2, _COUNT, dtype=torch.int32)
        given = torch.empty(10, _COLUMNS, dtype=torch.bfloat16, requires_grad=True)
        begun = len(tracer.tape())
        sparse = torch.sparse_coo_tensor(places, values * 1.0, (_ROWS, _COLUMNS))
        changed = weight.clone()
        changed += sparse
        result = torch.nn.functional.linear(given, changed)
        gradient = torch.ones_like(result)
        result.backward(gradient)
        events = tracer.tape()[begun:]
    workspaces = {event.block for event in events if "workspace" in event.op}
    sizes = [
        event.bytes if event.kind is EventKind.ALLOCATE else -event.bytes
        for event in events
        if event.block not in workspaces
    ]
    assert sizes[: len(_RECORDED)] == _RECORDED


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_shira_is_traced(dtype: str) -> None:
    adapter = {"peft_type": "SHIRA", "r": 2, "target_modules": ["q_proj"]}
    report = inspector.inspect(llama(dtype=dtype), peft=adapter, recipe={"seq_len": 16})
    assert report.training is not None


def test_frod_says_that_its_products_are_not_known() -> None:
    report = inspector.inspect(
        llama(), peft={"peft_type": "FROD", "target_modules": ["q_proj"]}, recipe={"seq_len": 16}
    )
    (notice,) = [notice for notice in report.warnings if notice.code == "not-traced"]
    assert "products with sparse matrices" in notice.message

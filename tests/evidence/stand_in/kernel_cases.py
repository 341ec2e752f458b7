"""Ops whose allocations are recorded on torch's CUDA build and held against the trace: name -> what runs.

A case is a generator: up to its first yield it makes its inputs, between the first and the second runs what counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Case = Callable[[str], Iterator[None]]

CASES: dict[str, Case] = {}

BFLOAT16, FLOAT16, FLOAT32 = torch.bfloat16, torch.float16, torch.float32
NAMES = {BFLOAT16: "bfloat16", FLOAT16: "float16", FLOAT32: "float32"}


def values(device: str, *shape: int, dtype: torch.dtype = BFLOAT16, grad: bool = False) -> Tensor:
    """Return a tensor of any values."""
    return torch.empty(shape, dtype=dtype, device=device).requires_grad_(grad)


def numbers(device: str, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """Return zeros, or no truths."""
    return torch.zeros(shape, dtype=dtype, device=device)


def forward(name: str, run: Callable[..., Any], *make: Callable[[str], Tensor]) -> None:
    """Add a case that applies `run` to inputs; what it returns lives to the end."""
    add_forward(CASES, name, run, *make)


def add_forward(cases: dict[str, Case], name: str, run: Callable[..., Any], *make: Callable[[str], Tensor]) -> None:
    """Add such a case to others."""

    def case(device: str) -> Iterator[None]:
        inputs = [one(device) for one in make]
        yield
        result = run(*inputs)
        yield
        del result

    _add(name, case, cases)


def backward(name: str, run: Callable[..., Tensor], *make: Callable[[str], Tensor]) -> None:
    """Add a case that runs an op and its backward pass."""
    add_backward(CASES, name, run, *make)


def add_backward(cases: dict[str, Case], name: str, run: Callable[..., Tensor], *make: Callable[[str], Tensor]) -> None:
    """Add such a case to others."""

    def case(device: str) -> Iterator[None]:
        inputs = [one(device) for one in make]
        yield
        result = run(*inputs)
        result.backward(torch.empty_like(result, memory_format=torch.contiguous_format))
        del result
        yield

    _add(name, case, cases)


def _add(name: str, case: Case, cases: dict[str, Case] = CASES) -> None:
    assert name not in cases, name
    cases[name] = case


def _of(*shape: int, dtype: torch.dtype = BFLOAT16, grad: bool = False) -> Callable[[str], Tensor]:
    return lambda device: values(device, *shape, dtype=dtype, grad=grad)


def _zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Callable[[str], Tensor]:
    return lambda device: numbers(device, *shape, dtype=dtype)


# --- reductions -------------------------------------------------------------------------------------------------------

REDUCED: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((1024, 1536), (0,)),
    ((4096, 4096), (0,)),
    ((512, 4096), (0,)),
    ((1, 1024, 896), (0, 1)),
    ((4, 2048, 896), (0, 1)),
    ((1024, 100), (0,)),
    ((5000, 33), (0,)),
    ((1024, 32000), (-1,)),
    ((16, 131072), (-1,)),
    ((16777216,), (0,)),
    ((100, 100), (0, 1)),
    ((2048, 14, 64), (0, 1)),
    ((64, 1024, 32), (1,)),
    ((2, 8, 7, 1024, 64), (2,)),
]
for shape, dims in REDUCED:
    for dtype in (BFLOAT16, FLOAT32):
        forward(f"sum {NAMES[dtype]} {shape} {dims}", lambda x, dims=dims: x.sum(dims), _of(*shape, dtype=dtype))
    forward(f"mean {shape} {dims}", lambda x, dims=dims: x.mean(dims), _of(*shape))
    forward(f"amax {shape} {dims}", lambda x, dims=dims: x.amax(dims), _of(*shape))
    forward(f"sum of truths {shape} {dims}", lambda x, dims=dims: x.sum(dims), _zeros(*shape, dtype=torch.bool))
    forward(f"all {shape} {dims}", lambda x, dims=dims: x.all(dims[0]), _zeros(*shape, dtype=torch.bool))
    forward(f"any {shape}", lambda x: x.any(), _zeros(*shape, dtype=torch.bool))
    forward(f"argmax {shape} {dims}", lambda x, dims=dims: x.argmax(dims[0]), _of(*shape, dtype=FLOAT32))
    forward(f"norm {shape}", torch.linalg.vector_norm, _of(*shape, dtype=FLOAT32))
forward("sum of a transpose", lambda x: x.transpose(0, 1).sum(0), _of(3000, 1024))
forward("sum of a slice", lambda x: x[:, 1:].sum(0), _of(4096, 1025))
forward("sum of permuted dims", lambda x: x.permute(2, 0, 1, 3).sum((1, 2)), _of(8, 512, 12, 64))
forward("sum in float32", lambda x: x.sum(0, dtype=FLOAT32), _of(4096, 512))

# --- scans, sorts, selections -----------------------------------------------------------------------------------------

for count in (1024, 12000, 16384, 131072, 1000000):
    forward(f"cumsum {count}", lambda x: x.cumsum(0), _zeros(count))
    forward(f"cumsum of truths {count}", lambda x: x.cumsum(-1), _zeros(1, count, dtype=torch.bool))
    forward(f"cumsum of two rows {count}", lambda x: x.cumsum(-1), _zeros(2, count))
    forward(f"sort {count}", lambda x: x.sort(), _zeros(count))
    forward(f"argsort {count}", lambda x: torch.argsort(x, stable=True), _zeros(count))
for shape, chosen in (((1024, 64), 6), ((512, 8), 2), ((2048, 256), 8)):
    backward(f"topk {shape}", lambda x, chosen=chosen: x.topk(chosen, dim=-1)[0], _of(*shape, dtype=FLOAT32, grad=True))

# --- embeddings and indexing ------------------------------------------------------------------------------------------

for count in (1024, 3072, 3073, 8192, 40000):
    for dtype in (BFLOAT16, FLOAT32):
        backward(
            f"embedding {NAMES[dtype]} {count}",
            lambda ids, weight: functional.embedding(ids, weight),
            _zeros(1, count),
            _of(32000, 64, dtype=dtype, grad=True),
        )
    backward(f"index {count}", lambda x, ids: x[ids], _of(4096, 64, grad=True), _zeros(count))
    backward(f"index_select {count}", lambda x, ids: x.index_select(0, ids), _of(4096, 64, grad=True), _zeros(count))
backward("gather", lambda x, ids: x.gather(1, ids), _of(1024, 512, grad=True), _zeros(1024, 16))
backward(
    "masked_fill", lambda x, m: x.masked_fill(m, 0.0), _of(512, 512, grad=True), _zeros(512, 512, dtype=torch.bool)
)
backward("repeat_interleave", lambda x: x.repeat_interleave(4, 1), _of(2, 8, 512, 64, grad=True))
backward(
    "expand", lambda x: x[:, :, None].expand(2, 8, 4, 512, 64).reshape(2, 32, 512, 64), _of(2, 8, 512, 64, grad=True)
)
backward("list as index", lambda x: x[:, [-1]], _of(64, 8, 64, grad=True))

# --- attention --------------------------------------------------------------------------------------------------------


def _attention(
    shape: tuple[int, int, int, int, int], dtype: torch.dtype, mask: torch.dtype | None, dropout_p: float
) -> Case:
    batch, heads, key_heads, rows, size = shape

    def case(device: str) -> Iterator[None]:
        leaves = [
            values(device, batch, rows, count, size, dtype=dtype, grad=True) for count in (heads, key_heads, key_heads)
        ]
        query, key, value = (leaf.transpose(1, 2) for leaf in leaves)
        bias = None if mask is None else numbers(device, batch, 1, rows, rows, dtype=mask)
        if mask is not None and key_heads != heads:
            key, value = (item.repeat_interleave(heads // key_heads, 1) for item in (key, value))
        grad = values(device, batch, rows, heads, size, dtype=dtype)
        yield
        output = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=bias,
            dropout_p=dropout_p,
            is_causal=bias is None,
            enable_gqa=key_heads != heads and bias is None,
        )
        output = output.transpose(1, 2).contiguous()
        del query, key, value
        output.backward(grad)
        yield

    return case


for heads_and_rows in (
    (1, 14, 2, 1024, 64),
    (2, 16, 16, 512, 64),
    (1, 40, 8, 1024, 128),
    (1, 8, 8, 128, 128),
    (1, 4, 1, 512, 256),
    (1, 16, 16, 77, 80),
    (1, 16, 16, 1000, 96),
):
    for dtype in (BFLOAT16, FLOAT16, FLOAT32):
        for mask, dropout_p in ((None, 0.0), (None, 0.1), (torch.bool, 0.0), (dtype, 0.0)):
            words = "no mask" if mask is None else "truths" if mask is torch.bool else "additive"
            _add(
                f"attention {heads_and_rows} {NAMES[dtype]} {words} {dropout_p}",
                _attention(heads_and_rows, dtype, mask, dropout_p),
            )

# --- norms, losses, pointwise ops -------------------------------------------------------------------------------------


def _norm(rows: int, columns: int, dtype: torch.dtype) -> Case:
    def case(device: str) -> Iterator[None]:
        inputs, grad = (
            values(device, 1, rows, columns, dtype=dtype, grad=True),
            values(device, 1, rows, columns, dtype=dtype),
        )
        norm = torch.nn.LayerNorm(columns, dtype=dtype, device=device)
        yield
        norm(inputs).backward(grad)
        yield

    return case


for rows, columns in ((1024, 768), (8192, 768), (70000, 256), (131072, 64)):
    for dtype in (BFLOAT16, FLOAT32):
        _add(f"layer norm {rows} x {columns} {NAMES[dtype]}", _norm(rows, columns, dtype))
for dtype in (BFLOAT16, FLOAT16, FLOAT32):
    backward(
        f"cross entropy {NAMES[dtype]}",
        lambda x, y: functional.cross_entropy(x.float(), y),
        _of(1024, 32000, dtype=dtype, grad=True),
        _zeros(1024),
    )
    backward(
        f"smoothed cross entropy {NAMES[dtype]}",
        lambda x, y: functional.cross_entropy(x, y, reduction="sum", label_smoothing=0.1) / 3,
        _of(1024, 32000, dtype=dtype, grad=True),
        _zeros(1024),
    )
    backward(
        f"softmax {NAMES[dtype]}",
        lambda x: functional.softmax(x, -1, dtype=FLOAT32),
        _of(14, 512, 512, dtype=dtype, grad=True),
    )
    backward(f"dropout {NAMES[dtype]}", lambda x: functional.dropout(x, 0.1), _of(1024, 1000, dtype=dtype, grad=True))
    for function in (functional.gelu, functional.silu, functional.softplus, torch.tanh, torch.rsqrt):
        backward(f"{function.__name__} {NAMES[dtype]}", function, _of(1024, 512, dtype=dtype, grad=True))
    backward(
        f"pow {NAMES[dtype]}", lambda x: x.float().pow(2).mean(-1, keepdim=True), _of(1024, 512, dtype=dtype, grad=True)
    )
backward("group norm", lambda x: functional.group_norm(x, 8), _of(4, 64, 32, 32, dtype=FLOAT32, grad=True))
backward(
    "group norm with weights",
    lambda x, w, b: functional.group_norm(x, 8, w, b),
    *(_of(*shape, dtype=FLOAT32, grad=True) for shape in ((4, 64, 32, 32), (64,), (64,))),
)
backward(
    "linear with bias", functional.linear, _of(1, 1024, 256, grad=True), _of(512, 256, grad=True), _of(512, grad=True)
)

# --- many tensors at once ---------------------------------------------------------------------------------------------


def _clipping(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> Case:
    def case(device: str) -> Iterator[None]:
        parameters = [values(device, *shape, dtype=dtype, grad=True) for shape in shapes]
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)
        yield
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        yield

    return case


for dtype in (BFLOAT16, FLOAT32):
    _add(f"clipping of one {NAMES[dtype]}", _clipping([(1000,)], dtype))
    _add(f"clipping of three {NAMES[dtype]}", _clipping([(896, 896), (128,), (4864, 896)], dtype))
    _add(f"clipping of 300 {NAMES[dtype]}", _clipping([(700, 100)] * 3 + [(5,)] * 297, dtype))

"""What chooses a token of a vocabulary, recorded as `kernel_cases` are, on torch 2.13 alone: name -> what runs.

Sizes lie on both sides of every branch: rows that one thread block sorts or looks through, few long ones, many. Behind
single ops come transformers' own classes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from transformers.generation import logits_process

from tests.evidence.stand_in.kernel_cases import FLOAT32, Case, add_forward, values

SAMPLING: dict[str, Case] = {}

_FEW = ((1, 1000), (4, 4096), (1, 5000), (1, 151936), (2, 151936), (8, 50257))
_VOCABULARIES = (*_FEW, (64, 32000), (127, 5000), (300, 32000))
_CHOSEN = (
    *((2, 19999), (2, 20000), (30, 10000), (60, 8000), (100, 5000)),
    *((500, 3000), (1000, 800), (4001, 399), (4001, 400), (65536, 512), (131072, 512)),
)
_OPS: dict[str, Callable[..., object]] = {
    "sort": torch.sort,
    "topk": lambda x: torch.topk(x, 50),
    "cumsum": lambda x: x.cumsum(-1),
    "softmax": lambda x: x.softmax(-1),
    "multinomial": lambda x: torch.multinomial(x, 1),
}
_PROCESSORS: dict[str, Callable[[], logits_process.LogitsProcessor]] = {
    "temperature": functools.partial(logits_process.TemperatureLogitsWarper, 0.7),
    "top_k": functools.partial(logits_process.TopKLogitsWarper, 50),
    "top_p": functools.partial(logits_process.TopPLogitsWarper, 0.9),
    "min_p": functools.partial(logits_process.MinPLogitsWarper, 0.1),
    "typical_p": functools.partial(logits_process.TypicalLogitsWarper, 0.9),
    "epsilon_cutoff": functools.partial(logits_process.EpsilonLogitsWarper, 3e-4),
    "repetition_penalty": functools.partial(logits_process.RepetitionPenaltyLogitsProcessor, 1.1),
    "renormalize_logits": logits_process.LogitNormalization,
    "remove_invalid_values": logits_process.InfNanRemoveLogitsProcessor,
}


def _of(*shape: int) -> functools.partial[Tensor]:
    return functools.partial(_make, shape)


def _make(shape: tuple[int, ...], device: str) -> Tensor:
    return values(device, *shape, dtype=FLOAT32)


def _tokens(rows: int, device: str) -> Tensor:
    return torch.zeros(rows, 77, dtype=torch.int64, device=device)


for shape in _VOCABULARIES:
    for name, run in _OPS.items():
        add_forward(SAMPLING, f"{name} {shape}", run, _of(*shape))
for shape in _CHOSEN:
    add_forward(SAMPLING, f"topk of many {shape}", lambda x: torch.topk(x, 8), _of(*shape))
add_forward(SAMPLING, "topk of a slice", lambda x: x[:, 1:].topk(4), _of(4, 30001))
for rows, count in ((1, 151936), (2, 151936), (64, 32000), (256, 5000)):
    for name, make in _PROCESSORS.items():

        def process(ids: Tensor, scores: Tensor, make: Callable[[], logits_process.LogitsProcessor] = make) -> Tensor:
            processed: Tensor = make()(ids, scores)
            return processed

        add_forward(SAMPLING, f"{name} {(rows, count)}", process, functools.partial(_tokens, rows), _of(rows, count))

"""Generation of answers as GRPO's trainer runs it with transformers: the prompts at once, then a token after the other.

The prompts run first; of the tokens the last one runs, whose cache is that of the whole row. In between the same
operations run on a shorter cache, so that no token takes more: what is allocated at most is that of the prompts or that
of the last token. What the allocator reserves meanwhile depends on all of them, and is not traced.

Source: `GRPOTrainer._generate_single_turn` of TRL 1.16, `_prefill` and `_sample` of transformers 5.23
(generation/utils.py), `multinomial` of ATen (native/Distributions.cpp, which samples by exponentials). The forward of
the transformers model itself runs: behind PEFT's wrapper accelerate puts no autocast around it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

__all__ = ["generate"]


def generate(forward: Callable[..., Any], config: Any, prompts: Tensor, mask: Tensor, completion_len: int) -> Tensor:
    """Return rows of prompts (rows, prompt) and answers, all tokens of which are alike."""
    rows, prompt_len = prompts.shape
    cache = DynamicCache(config=config)
    positions = (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 0)
    outputs = forward(
        input_ids=prompts.clone(memory_format=torch.contiguous_format),
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    token = _sample(outputs.logits)
    if completion_len > 1:
        _grow(cache, prompt_len + completion_len - 2)
        length = prompt_len + completion_len - 1
        mask = torch.cat((mask, mask.new_ones((rows, length - prompt_len))), dim=-1)
        outputs = forward(
            input_ids=token.unsqueeze(1).clone(memory_format=torch.contiguous_format),
            attention_mask=mask,
            position_ids=positions[:, -1:] + (length - prompt_len),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        token = _sample(outputs.logits)
    return torch.cat((prompts, token.unsqueeze(1).expand(rows, completion_len)), dim=-1)


def _sample(logits: Tensor) -> Tensor:
    """Draw a token for each row."""
    scores = logits[:, -1].to(copy=True, dtype=torch.float32)
    probabilities = torch.nn.functional.softmax(scores, dim=-1)
    draws = torch.empty_like(probabilities).exponential_(1)
    torch.div(probabilities, draws, out=draws)
    return draws.argmax(dim=-1, keepdim=True).squeeze(1)


def _grow(cache: DynamicCache, length: int) -> None:
    """Bring a cache to a length, where its layers grow."""
    layers: list[Any] = cache.layers
    for layer in layers:
        if not isinstance(getattr(layer, "keys", None), Tensor):
            continue
        wanted = length
        if getattr(layer, "is_sliding", False):
            layer.cumulative_length = length
            wanted = min(length, layer.sliding_window - 1)
        for name in ("keys", "values"):
            states = getattr(layer, name)
            shape = (*states.shape[:-2], wanted, states.shape[-1])
            del states
            setattr(layer, name, None)
            setattr(layer, name, torch.zeros(shape, dtype=layer.dtype, device=layer.device))

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


def generate(
    forward: Callable[..., Any], config: Any, prompts: Tensor, attention_mask: Tensor, completion_len: int
) -> Tensor:
    """Return rows of prompts (rows, prompt) and answers.

    What the names of `_sample` hold lives through the pass that follows, as it does there.
    """
    rows = len(prompts)
    cache = DynamicCache(config=config)
    position_ids = attention_mask.long().cumsum(-1) - 1
    # `generate` itself holds the positions of the prompts as long as it runs.
    prompt_positions = position_ids.masked_fill(attention_mask == 0, 0)
    position_ids = new_positions = prompt_positions
    input_ids = new_ids = prompts
    for length in dict.fromkeys((prompts.shape[1], prompts.shape[1] + completion_len - 1)):  # with the first, the last
        if length > input_ids.shape[1]:
            _grow(cache, length - 1)
            input_ids, position_ids, attention_mask = (
                torch.cat((item, item[:, -1:].expand(rows, length - item.shape[1])), dim=-1)
                for item in (input_ids, position_ids, attention_mask)
            )
            new_ids = input_ids[:, -1:]
            new_positions = position_ids[:, -1:].clone(memory_format=torch.contiguous_format)
        outputs = forward(
            input_ids=new_ids.clone(memory_format=torch.contiguous_format),
            attention_mask=attention_mask,
            position_ids=new_positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        next_token_logits = outputs.logits[:, -1].to(copy=True, dtype=torch.float32)
        probabilities = torch.nn.functional.softmax(next_token_logits, dim=-1)
        next_tokens = _draw(probabilities)
        del outputs
    return torch.cat((input_ids, next_tokens.unsqueeze(1)), dim=-1)


def _draw(probabilities: Tensor) -> Tensor:
    """Draw a token for each row, as `torch.multinomial` does on a GPU."""
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

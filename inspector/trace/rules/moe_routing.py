"""Which expert takes which token, where a step asks: routing follows floating-point data, which a trace has none of.

Most expert models multiply the tokens of all experts at once, and what is allocated does not depend on the routing. A
loop over experts reads it. Experts are then assumed to be balanced: tokens take them in turn.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from inspector.compat.transformers import experts_implementation

__all__ = ["balance_choice", "loops_over_experts"]

aten = torch.ops.aten


def loops_over_experts(model: nn.Module) -> bool:
    """Tell whether a model runs its experts one after the other, each with the tokens that are routed to it.

    transformers' classes do, unless a decorator gives them another implementation, which the configuration then names
    (transformers/integrations/moe.py).
    """
    for module in model.modules():
        if type(module).__name__.endswith("TopKGating") and "tolist" in type(module).forward.__code__.co_names:
            return True  # JetMoE counts the tokens of each expert on the host
        if "Experts" not in type(module).__name__:
            continue
        is_decorated = hasattr(module, "is_transposed") and hasattr(module, "has_gate")
        if is_decorated:
            if experts_implementation(module.config) == "eager":
                return True
        elif "nonzero" in type(module).forward.__code__.co_names:
            return True
    return False


def balance_choice(func: Any, args: tuple[Any, ...], result: Any) -> tuple[Tensor, Tensor] | None:
    """Return the indices that an op chose along the last dimension, and the choice that takes all in turn.

    None for other ops: routers choose with topk or argmax. Some ask which tokens an additive mask hides: none.
    """
    if func is aten._to_copy.default and result.dtype is torch.bool and result.dim() == 1 and result.is_meta:
        return (result, torch.zeros(result.shape, dtype=torch.bool)) if args[0].is_floating_point() else None
    if func is aten.topk.default:
        indices = result[1]
    elif func is aten.argmax.default:
        indices = result
    else:
        return None
    count = args[0].shape[-1]
    return indices, torch.arange(indices.numel()).remainder(count).reshape(indices.shape)

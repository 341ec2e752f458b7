"""The rules of thumb that everybody quotes, beside the exact figure, with each difference as a sentence.

The rules for weights and optimizer assume half-precision weights and gradients (2 bytes an element each) and two
float32 moments of Adam (8 bytes an element). The exact figure is that of `inspector.memory.static` with AdamW, whatever
the recipe's optimizer is; what the two disagree on is a dtype, or something that the rule does not count, and the
differences add up to the last byte.

The rules for activations know a block's hidden size and number of heads, no more. Beside them stands what the traced
forward pass leaves alive for the backward pass. They are not given for checkpointing, which they do not describe.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping

from inspector.dtypes import dtype_bytes
from inspector.records.memory import (
    ACTIVATION_RULES,
    BlockShape,
    StaticBytes,
    StaticRecipe,
    Textbook,
    TextbookDifference,
    TextbookRule,
)
from inspector.records.model import Census
from inspector.records.recipe import Recipe

__all__ = ["list_activation_rules", "list_textbook_rules"]

_HALF_BYTES = 2
_FLOAT32_BYTES = 4
# Moments that AdamW keeps for each trained element, in its dtype: the running mean and variance of its gradient
# (`torch.zeros_like(p)`, torch/optim/adam.py).
_MOMENTS = 2

# The rule's parts are those of the transformers documentation: 8 bytes an element for the two moments of AdamW, weights
# and gradients at the size of their dtype. ZeRO (arXiv:1910.02054, section 3.1) counts 4 more for a float32 copy of the
# weights, which a step in pure half precision does not have.
_SOURCE = (
    "2 + 2 + 8 bytes an element: https://huggingface.co/docs/transformers/model_memory_anatomy; "
    "with a float32 copy of the weights it would be 16 (ZeRO, arXiv:1910.02054, section 3.1)"
)


# Per block, with 16-bit activations: 34·S·B·H and, where the attention matrix is kept, 5·a·S²·B (equation 1). Kernels
# that do not keep it are what selective recomputation leaves, 34·S·B·H (section 5).
_KORTHIKANTI = "Korthikanti et al., arXiv:2205.05198, equation 1 (without the attention matrix: section 5)"
_KORTHIKANTI_KNOWS = "The rule is for GPT's block in 16 bit: an MLP of 4·H, no gate, three dropout masks."
_QUOTED = "commonly quoted for half precision with flash attention; no published derivation is known"
_QUOTED_KNOWS = "The rule takes nothing but hidden size and layers."
_TRACED = (
    "The exact figure is what this model and adapter keep in their dtypes after the forward pass, without the loss."
)


def list_activation_rules(recipe: Recipe, shape: BlockShape, traced_bytes: int) -> tuple[TextbookRule, ...]:
    """Return the rules for activations beside what a traced forward pass keeps of them; none with checkpointing."""
    if recipe.gradient_checkpointing or recipe.seq_len is None:
        return ()
    tokens, layers = recipe.batch_size * recipe.seq_len, shape.layer_count
    korthikanti, quoted = 34 * tokens * shape.hidden_size * layers, 22 * tokens * shape.hidden_size * layers
    korthikanti_formula, quoted_formula = "34·B·S·H·L", "22·B·S·H·L"
    if recipe.attention == "eager" or recipe.sdpa_backend == "math":  # the attention matrix is kept
        korthikanti += 5 * shape.head_count * tokens * recipe.seq_len * layers
        quoted += 2 * tokens * recipe.seq_len * layers * _HALF_BYTES
        korthikanti_formula += " + 5·a·B·S²·L"
        quoted_formula += " + 2·B·S²·L·2"
    published, as_quoted = ACTIVATION_RULES
    return (
        _build_activation_rule(
            published, korthikanti_formula, korthikanti, traced_bytes, (_KORTHIKANTI, _KORTHIKANTI_KNOWS)
        ),
        _build_activation_rule(as_quoted, quoted_formula, quoted, traced_bytes, (_QUOTED, _QUOTED_KNOWS)),
    )


def _build_activation_rule(name: str, formula: str, rule: int, traced: int, of: tuple[str, str]) -> TextbookRule:
    """Return one rule with its source and what it knows of a model."""
    source, knows = of
    differences = _drop_zeros((f"{knows} {_TRACED}", traced - rule))
    return TextbookRule(
        name=name, formula=formula, bytes=rule, source=source, exact_bytes=traced, differences=differences
    )


def list_textbook_rules(
    static: StaticBytes, census: Census, base_dtypes: Mapping[str, int], base_frozen_dtypes: Mapping[str, int]
) -> Textbook:
    """Return the rules that apply, each with its exact counterpart and the differences between the two."""
    frozen = sum(size // dtype_bytes(name) for name, size in base_frozen_dtypes.items())
    rules = [_compare_full_rule(_train_with_adamw(static.full), census.base, frozen, base_dtypes)]
    if static.adapter is not None:
        rules.append(_compare_adapter_rule(_train_with_adamw(static.adapter), census))
    return Textbook(rules=tuple(rules))


def _train_with_adamw(exact: StaticRecipe) -> StaticRecipe:
    """Return the bytes of a recipe with AdamW, which the rules are of; its step counters weigh nothing."""
    return dataclasses.replace(exact, optimizer_bytes=_MOMENTS * exact.trained_bytes)


def _compare_full_rule(exact: StaticRecipe, base: int, frozen: int, base_dtypes: Mapping[str, int]) -> TextbookRule:
    """Compare 12P with full fine-tuning in the dtype of the checkpoint; `frozen` elements its class does not train."""
    kept = _describe_dtypes(base_dtypes)
    trained = base - frozen
    return TextbookRule(
        name="full fine-tuning",
        formula="12·P",
        bytes=12 * base,
        source=_SOURCE,
        exact_bytes=exact.total_bytes,
        differences=_drop_zeros(
            (
                f"Weights are {kept}; the rule takes 2 bytes an element.",
                exact.frozen_bytes + exact.trained_bytes - _HALF_BYTES * base,
            ),
            (
                f"Gradients are {kept} like their weights; the rule takes 2.",
                exact.gradients_bytes - _HALF_BYTES * trained,
            ),
            *_compare_moments_and_buffers(exact, trained, kept),
            (
                "The model's class itself freezes some weights, which get no gradient and no moments; the rule gives "
                "them both.",
                -(12 - _HALF_BYTES) * frozen,
            ),
        ),
    )


def _compare_adapter_rule(exact: StaticRecipe, census: Census) -> TextbookRule:
    """Compare 12·P_a + 2P with training the adapter that PEFT attached."""
    trained = census.trainable
    kept = _describe_dtypes(census.trainable_dtypes)
    frozen = _describe_dtypes(Counter(census.dtypes) - Counter(census.trainable_dtypes))
    also_frozen = "Parts of the adapter are frozen; the rule leaves them out."
    also_trained = "Parts of the base train; the rule counts their weights with the frozen ones as well."
    return TextbookRule(
        name="adapter",
        formula="12·P_a + 2·P",
        bytes=12 * trained + _HALF_BYTES * census.base,
        source=_SOURCE,
        exact_bytes=exact.total_bytes,
        differences=_drop_zeros(
            (
                f"Frozen weights are {frozen}; the rule takes 2 bytes an element.",
                exact.frozen_bytes - _HALF_BYTES * census.frozen,
            ),
            (
                also_frozen if census.frozen > census.base else also_trained,
                _HALF_BYTES * (census.frozen - census.base),
            ),
            (
                f"PEFT keeps the trained weights {kept}; the rule takes 2 bytes an element.",
                exact.trained_bytes - _HALF_BYTES * trained,
            ),
            (
                f"Their gradients are {kept} too; the rule takes 2 bytes an element.",
                exact.gradients_bytes - _HALF_BYTES * trained,
            ),
            *_compare_moments_and_buffers(exact, trained, kept),
        ),
    )


def _compare_moments_and_buffers(exact: StaticRecipe, trained: int, kept: str) -> tuple[tuple[str, int], ...]:
    """Return the two differences that every rule has: the dtype of the moments, and buffers."""
    rule = _MOMENTS * _FLOAT32_BYTES * trained
    return (
        (
            f"AdamW's moments are {kept} like the weights they belong to; the rule takes two float32.",
            exact.optimizer_bytes - rule,
        ),
        ("Buffers are in memory too; the rule leaves them out.", exact.buffers_bytes),
    )


def _describe_dtypes(dtypes: Mapping[str, int]) -> str:
    """Say in which dtypes elements are kept, the largest share first."""
    return "in " + " and ".join(dtypes) if dtypes else "absent"


def _drop_zeros(*differences: tuple[str, int]) -> tuple[TextbookDifference, ...]:
    """Keep the differences that are not zero."""
    return tuple(TextbookDifference(cause=cause, bytes=size) for cause, size in differences if size)

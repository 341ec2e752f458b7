"""What is drawn in which colour, on light and on dark ground: blocks by their category, methods, verdicts."""

from __future__ import annotations

from collections.abc import Mapping

from inspector.records.fit import Method
from inspector.records.tape import Category

__all__ = ["CATEGORIES", "COLORS", "COLORS_OF_METHODS"]

# In the order in which they are stacked: what stays throughout at the bottom, what comes and goes at the top.
COLORS: Mapping[Category, str] = {
    Category.WEIGHTS: "#4c78d8",
    Category.ADAPTER: "#57b8a5",
    Category.BUFFERS: "#a87b5d",
    Category.OPTIMIZER: "#a77bf3",
    Category.GRADIENTS: "#f4756a",
    Category.OTHER: "#9da3ad",
    Category.INPUTS: "#8fb8f2",
    Category.ATTENTION_MASK: "#c9a5d6",
    Category.KV_CACHE: "#3fa7c4",
    Category.GATHERED: "#7b9be0",
    Category.COMMUNICATION: "#c4b454",
    Category.ACTIVATIONS: "#eeb23b",
    Category.LOGITS_AND_LOSS: "#56b366",
    Category.TEMPORARIES: "#f58fbd",
}
CATEGORIES = tuple(COLORS)
COLORS_OF_METHODS: Mapping[Method, str] = {
    Method.FULL: "#f4756a",
    Method.ADAPTER: "#4c78d8",
    Method.QUANTIZED_ADAPTER: "#56b366",
    Method.GENERATE: "#4c78d8",
    Method.QUANTIZED_GENERATE: "#56b366",
}

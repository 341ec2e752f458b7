"""What one rank of tensor parallelism holds of the weights, by the names of the parameters.

vLLM and SGLang cut the same layers alike (model_executor/layers/linear.py): columns of projections out of the stream,
rows of those into it, the vocabulary of embeddings padded to 64, the inner size of experts; keys and values of fewer
heads than ranks are replicated, and so is everything else. A parameter whose name says nothing may be whole on each
rank or cut: it widens the span.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from inspector.records.engines.serving import Span
from inspector.records.model import Role

__all__ = ["WeightTensor", "find_share"]

_VOCABULARY_PADDING = 64
_KEYS_AND_VALUES = re.compile(r"\.(k_proj|v_proj|k|v)\.(weight|bias)$")
_COLUMNS = re.compile(
    r"\.(q_proj|qkv_proj|query_key_value|c_attn|q_b_proj|kv_b_proj|gate_proj|up_proj|gate_up_proj|fc1|c_fc|"
    r"dense_h_to_4h|w1|w3|in_proj|in_proj_qkvz|in_proj_ba|Wqkv)\.(weight|bias)$"
)
_ROWS = re.compile(r"\.(o_proj|out_proj|down_proj|c_proj|dense|dense_4h_to_h|fc2|w2)\.weight$")
_WHOLE = re.compile(
    r"(norm|layernorm|ln_\w+|layer_norm)\w*\.(weight|bias)$|\.(router|gate|mlp\.gate)\.|q_a_proj|kv_a_proj|"
    r"\.(o_proj|out_proj|down_proj|c_proj|dense|dense_4h_to_h|fc2|w2)\.bias$|sinks$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightTensor:
    """A parameter: its name, shape, bytes, and what it is for."""

    name: str
    shape: tuple[int, ...]
    bytes: int
    role: Role


def find_share(tensors: Iterable[WeightTensor], ranks: int, kv_heads: int) -> Span:
    """Return the bytes of the parameters on one rank; `kv_heads` is how many heads have keys and values."""
    low = high = 0
    for tensor in tensors:
        least, most = _share(tensor, ranks, kv_heads)
        low, high = low + least, high + most
    return Span(low=low, high=high)


def _share(tensor: WeightTensor, ranks: int, kv_heads: int) -> tuple[int, int]:
    """Return the least and the most bytes of one parameter on one rank."""
    size = tensor.bytes
    if ranks == 1:
        return size, size
    if tensor.role in (Role.EMBEDDING, Role.LM_HEAD) and len(tensor.shape) == 2:
        return (_share_vocabulary(tensor, ranks),) * 2
    if tensor.role is Role.EXPERTS or _COLUMNS.search(tensor.name) or _ROWS.search(tensor.name):
        return (size // ranks,) * 2
    if _KEYS_AND_VALUES.search(tensor.name):
        return (size // min(ranks, max(kv_heads, 1)),) * 2
    if tensor.role is Role.NORM or _WHOLE.search(tensor.name):
        return size, size
    return size // ranks, size


def _share_vocabulary(tensor: WeightTensor, ranks: int) -> int:
    """Return the bytes of a rank's rows of an embedding (`VocabParallelEmbedding`)."""
    rows = tensor.shape[0]
    padded = -(-rows // _VOCABULARY_PADDING) * _VOCABULARY_PADDING
    return -(-padded // ranks) * tensor.bytes // rows

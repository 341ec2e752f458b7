"""A GGUF file -> the counts and facts of a report: parameters by role and bytes by ggml's types, from its table."""

from __future__ import annotations

from collections import Counter

from inspector.errors import one_line
from inspector.records.checkpoint import CheckpointFacts
from inspector.records.engines.gguf import GgufModel, GgufTensor
from inspector.records.model import Census, ModelFacts, Role
from inspector.records.source import SourceFiles

__all__ = ["count_gguf", "describe_gguf", "describe_gguf_files"]

# Tables of rotations, which transformers keeps as buffers.
_BUFFERS = ("rope_freqs.", "rope_factors_")
# By the name of a tensor without its layer, the first that fits (gguf-py's TENSOR_NAMES).
_ROLES = (
    ("_exps.", Role.EXPERTS),
    ("norm", Role.NORM),
    ("token_embd", Role.EMBEDDING),
    ("position_embd", Role.EMBEDDING),
    ("token_types", Role.EMBEDDING),
    ("attn_", Role.ATTENTION),
    ("ffn_", Role.MLP),
    ("output.", Role.LM_HEAD),
)


def describe_gguf(files: SourceFiles) -> ModelFacts:
    """Return which model a file holds; its class is the architecture of llama.cpp, its dtype the type of most bytes."""
    assert files.gguf is not None
    architecture = one_line(files.gguf.metadata.get("general.architecture", "?"), 40)
    sizes = _count_bytes(files.gguf)
    return ModelFacts(
        id=files.id,
        revision=files.revision,
        model_class=architecture,
        model_type=architecture,
        dtype=max(sizes, key=lambda kind: sizes[kind]) if sizes else "?",
        source=files.served_from,
    )


def count_gguf(model: GgufModel) -> Census:
    """Return the parameters of a file."""
    groups: Counter[Role] = Counter()
    for tensor in model.tensors:
        if not tensor.name.startswith(_BUFFERS):
            groups[_find_role(tensor)] += tensor.elements
    buffers = [tensor for tensor in model.tensors if tensor.name.startswith(_BUFFERS)]
    total = sum(groups.values())
    return Census(
        base=total,
        total=total,
        trainable=0,
        buffers=sum(tensor.elements for tensor in buffers),
        buffer_bytes=sum(tensor.bytes for tensor in buffers),
        groups={role: groups[role] for role in Role if groups[role]},
        dtypes=_count_bytes(model),
        trainable_dtypes={},
    )


def describe_gguf_files(model: GgufModel) -> CheckpointFacts:
    """Return how large the files of a model are, and what is in them."""
    return CheckpointFacts(
        format="gguf",
        bytes=model.file_bytes,
        files=len(model.files),
        download_bytes=model.file_bytes,
        tensors=len(model.tensors),
        tensor_bytes=sum(tensor.bytes for tensor in model.tensors),
    )


def _count_bytes(model: GgufModel) -> dict[str, int]:
    """Return the bytes of the parameters by type."""
    sizes: Counter[str] = Counter()
    for tensor in model.tensors:
        if not tensor.name.startswith(_BUFFERS):
            sizes[tensor.type] += tensor.bytes
    return dict(sizes)


def _find_role(tensor: GgufTensor) -> Role:
    """Return what a tensor is for."""
    own = tensor.name.split(".", 2)[-1] if tensor.name.startswith("blk.") else tensor.name
    return next((role for part, role in _ROLES if part in own), Role.OTHER)

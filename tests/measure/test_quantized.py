"""The checkpoint that does not exist, from which `inspect measure` loads a quantized model.

What the libraries make of it on a GPU is in tests/evidence/truth/stand_in/quantized.json.
"""

from __future__ import annotations

import torch
import transformers

from inspector.measure.quantized import _build_checkpoint
from inspector.model.skeleton import build_skeleton


def entries(*, tied: bool) -> dict[str, torch.Tensor]:
    """Return the checkpoint of a tiny Qwen2, whose layers have biases."""
    config = transformers.Qwen2Config(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        tie_word_embeddings=tied,
    )
    return dict(_build_checkpoint(build_skeleton(config, transformers.Qwen2ForCausalLM, torch.bfloat16, "tiny"), {}))


def test_all_matrices_are_pieces_of_one_block_as_large_as_the_largest() -> None:
    """The host never holds the model: 64 × 32 elements of the embedding, in bfloat16."""
    matrices = [item for item in entries(tied=False).values() if item.dim() > 1]
    assert len(matrices) == 2 + 2 * 7
    assert {item.untyped_storage().data_ptr() for item in matrices} == {matrices[0].untyped_storage().data_ptr()}
    assert matrices[0].untyped_storage().nbytes() == 64 * 32 * 2
    assert all(item.is_contiguous() and item.std() > 0 for item in matrices)


def test_tied_weights_are_stored_once_and_vectors_are_what_a_fresh_model_has() -> None:
    found = entries(tied=True)
    assert "lm_head.weight" not in found
    assert found.keys() < entries(tied=False).keys()
    assert torch.equal(found["model.norm.weight"], torch.ones(32, dtype=torch.bfloat16))
    assert torch.equal(found["model.layers.1.self_attn.k_proj.bias"], torch.zeros(16, dtype=torch.bfloat16))

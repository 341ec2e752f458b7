"""BOFT's butterfly factors: what stands in for PEFT's CUDA extension computes, costs and counts what that does."""

from __future__ import annotations

import warnings
from typing import Any

import peft
import pytest
import torch
from peft.tuners.boft import layer as boft
from torch.utils import cpp_extension
from transformers import LlamaForCausalLM

import inspector
from inspector.model.adapter.butterfly import count_without_extension, stand_in_for_extension
from tests.model.tiny import llama


def fields(factors: int) -> dict[str, Any]:
    """Return a BOFT configuration with blocks of 4."""
    return {"boft_block_size": 4, "boft_n_butterfly_factor": factors, "target_modules": ["q_proj", "v_proj"]}


def forbid(*_: object, **__: object) -> None:
    """Fail where a build would start."""
    raise AssertionError("started a build")


@pytest.mark.parametrize("factors", [1, 2])
def test_no_compiler_is_started(factors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpp_extension, "load", forbid)
    monkeypatch.setattr(boft, "_FBD_CUDA", None)
    report = inspector.inspect(llama(), peft={"peft_type": "BOFT", **fields(factors)}, recipe={"seq_len": 8})
    assert report.training is not None


def test_blocks_and_their_gradients_are_those_of_a_block_diagonal_matrix() -> None:
    blocks = torch.arange(2.0 * 3 * 4 * 4).reshape(2, 3, 4, 4).requires_grad_()
    with stand_in_for_extension():
        matrices = boft.FastBlockDiag.apply(blocks)
    expected = torch.stack([torch.block_diag(*part) for part in blocks])
    assert torch.equal(matrices, expected)
    weights = torch.randn(matrices.shape, generator=torch.Generator().manual_seed(0))
    with stand_in_for_extension():
        (found,) = torch.autograd.grad((matrices * weights).sum(), blocks)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), blocks)
    assert torch.equal(found, wanted)


def test_peft_finds_its_own_extension_again_afterwards() -> None:
    before = boft.get_fbd_cuda
    with stand_in_for_extension():
        assert boft.get_fbd_cuda is not before
    assert boft.get_fbd_cuda is before


@pytest.mark.parametrize("factors", [2, 3])
def test_both_counts_are_those_of_peft_on_real_weights(factors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = llama(dtype="float32")
    counted = inspector.inspect(config, peft={"peft_type": "BOFT", **fields(factors)}, count_only=True)
    with stand_in_for_extension():
        built = peft.get_peft_model(LlamaForCausalLM(config), peft.BOFTConfig(**fields(factors)))
    assert counted.parameters.trainable == built.get_nb_trainable_parameters()[0]
    monkeypatch.setattr(boft, "get_fbd_cuda", lambda: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fallen_back = peft.get_peft_model(LlamaForCausalLM(config), peft.BOFTConfig(**fields(factors)))
    assert count_without_extension(built) == fallen_back.get_nb_trainable_parameters()[0]
    assert count_without_extension(fallen_back) is None
    (notice,) = [notice for notice in counted.warnings if notice.code == "butterfly-extension"]
    assert f"trains {count_without_extension(built):,} parameters" in notice.message

"""The stand-ins for losses and kernels allocate and free what the libraries' own code does, event by event.

Skipped where a library is not installed; they need no GPU. `pip install --no-deps triton` unpacks to about 1 GB.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from inspector.records.recipe import Recipe
from tests.workloads.real_losses import (
    Cce,
    Liger,
    TrlSft,
    build_small,
    list_events,
    run_cuda_branches,
    run_liger_on_cuda,
    trace_with_installed_packages,
    trace_with_real_loss,
    use_plain_sort,
)

# More positions than a tile of 4,096 holds.
LONG: dict[str, Any] = {"batch_size": 3, "seq_len": 2048}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "float32 under autocast, padded": ({"name": "qwen2"}, {**LONG, "mixed_precision": "bf16"}),
    "float32": ({"name": "llama"}, {**LONG, "padding": False}),
    "bfloat16, checkpointed": ({"name": "llama", "dtype": torch.bfloat16}, {**LONG, "gradient_checkpointing": True}),
    "bfloat16, one short row": ({"name": "qwen2", "dtype": torch.bfloat16}, {"seq_len": 64}),
    "LoRA on bfloat16 under autocast": (
        {"name": "llama", "lora": True, "dtype": torch.bfloat16},
        {**LONG, "mixed_precision": "bf16"},
    ),
    "tied, capped logits": ({"name": "gemma2", "head_dim": 16, "dtype": torch.bfloat16}, {**LONG}),
    "a head with a bias": ({"name": "phi", "num_key_value_heads": 4}, {**LONG, "mixed_precision": "bf16"}),
    "accumulation": ({"name": "qwen2"}, {"seq_len": 32, "gradient_accumulation": 2, "mixed_precision": "bf16"}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:.*gradient.checkpointing.*:FutureWarning")
def test_the_loss_of_trls_sft_allocates_and_frees_what_trl_does(case: str) -> None:
    utils = pytest.importorskip("trl.trainer.utils")
    made, settings = CASES[case]
    if hasattr(utils, "add_fused_lm_head"):  # 1.15 and newer
        kernels = pytest.importorskip("trl.kernels.chunked_logprob")
        loss, functions = "fused", [kernels._use_triton, kernels._addmm_fp32]
    elif hasattr(pytest.importorskip("trl.trainer.sft_trainer"), "_patch_chunked_ce_lm_head"):  # 1.4 to 1.14
        loss, functions = "chunked", []
    else:
        pytest.skip("this TRL makes all logits")
    recipe = Recipe(loss=loss, attention_mask=True, **settings)
    with run_cuda_branches(*functions):
        real = trace_with_real_loss(build_small(**made), recipe, TrlSft())
    assert list_events(build_small(**made), recipe) == real


HALF: dict[str, Any] = {"dtype": torch.bfloat16}
# Models of the types whose layers are known, each with a recipe.
PATCHED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama": ({**HALF, "lora": True}, {"batch_size": 2, "seq_len": 512, "mixed_precision": "bf16"}),
    "ministral": ({**HALF, "head_dim": 16}, {"seq_len": 64, "padding": False}),
    "mistral": (HALF, {"seq_len": 64, "gradient_accumulation": 2}),
    "smollm3": ({**HALF, "pad_token_id": 0}, {"seq_len": 64}),
    "qwen2": ({}, {**LONG, "mixed_precision": "bf16"}),
    "qwen3": ({**HALF, "head_dim": 16}, {"batch_size": 2, "seq_len": 512, "gradient_checkpointing": True}),
    "phi3": ({**HALF, "pad_token_id": 0}, {"batch_size": 2, "seq_len": 512}),
    "gemma": ({**HALF, "head_dim": 16}, {"batch_size": 2, "seq_len": 512}),
    "gemma2": ({**HALF, "head_dim": 16}, {"batch_size": 2, "seq_len": 512}),
    "gemma3_text": ({**HALF, "head_dim": 16}, {"batch_size": 2, "seq_len": 512}),
}
NO_LAYERS = dict.fromkeys(("rope", "rms_norm", "swiglu", "geglu"), False)


@pytest.mark.parametrize("name", PATCHED)
@pytest.mark.parametrize(
    ("asked", "real"),
    [({"liger": "auto"}, {}), ({"loss": "liger"}, NO_LAYERS), ({"liger": "rms_norm"}, {**NO_LAYERS, "rms_norm": True})],
    ids=["all", "loss", "norms"],
)
@pytest.mark.filterwarnings("ignore")
def test_ligers_kernels_allocate_and_free_what_liger_does(
    name: str, asked: dict[str, Any], real: dict[str, bool]
) -> None:
    pytest.importorskip("liger_kernel")
    made, settings = PATCHED[name]
    kernels = real if "loss" in asked or "auto" in asked.values() else {**real, "fused_linear_cross_entropy": False}
    with run_liger_on_cuda(name.removesuffix("_text")):
        theirs = trace_with_real_loss(build_small(name, **made), Recipe(**settings), Liger(**kernels))
    assert list_events(build_small(name, **made), Recipe(**settings, **asked)) == theirs


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3"])
@pytest.mark.filterwarnings("ignore:.*gradient.checkpointing.*:FutureWarning")
def test_cut_cross_entropy_allocates_and_frees_what_the_package_does(name: str) -> None:
    pytest.importorskip("cut_cross_entropy")
    made, settings = PATCHED[name]
    with run_cuda_branches():
        real = trace_with_real_loss(build_small(name, **made), Recipe(**settings), Cce())
    assert list_events(build_small(name, **made), Recipe(loss="cce", **settings)) == real


@pytest.mark.parametrize("asked", [{"liger": "auto"}, {"loss": "liger"}, {"liger": "rope,swiglu"}])
@pytest.mark.filterwarnings("ignore")
def test_measure_runs_ligers_own_kernels_and_they_take_what_is_traced(asked: dict[str, Any]) -> None:
    pytest.importorskip("liger_kernel")
    made, settings = PATCHED["qwen2"]
    with run_liger_on_cuda("qwen2"):
        theirs = trace_with_installed_packages(build_small("qwen2", **made), Recipe(**settings, **asked))
    assert list_events(build_small("qwen2", **made), Recipe(**settings, **asked)) == theirs


@pytest.mark.parametrize(("loss", "package"), [("fused", "trl.kernels.chunked_logprob"), ("cce", "cut_cross_entropy")])
@pytest.mark.filterwarnings("ignore")
def test_measure_runs_the_loss_of_its_package_and_it_takes_what_is_traced(loss: str, package: str) -> None:
    module = pytest.importorskip(package)
    if loss == "cce":
        use_plain_sort()
    functions = [module._use_triton, module._addmm_fp32] if loss == "fused" else []
    made, settings = PATCHED["llama"]
    recipe = Recipe(loss=loss, attention_mask=True, **settings)
    with run_cuda_branches(*functions):
        theirs = trace_with_installed_packages(build_small("llama", **made), recipe)
    assert list_events(build_small("llama", **made), recipe) == theirs

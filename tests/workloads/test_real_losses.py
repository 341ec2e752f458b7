"""The stand-ins for losses and kernels allocate and free what the libraries' own code does, event by event.

Skipped where a library is not installed; they need no GPU. `pip install --no-deps triton` unpacks to about 1 GB.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from inspector.records.recipe import Recipe
from tests.workloads.real_losses import TrlSft, build_small, list_events, run_cuda_branches, trace_with_real_loss

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

"""The steps of the stages are those of TRL's trainers: torch's profiler watches both on the CPU, event by event."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("trl")
pytest.importorskip("datasets")

from inspector.records.recipe import Recipe
from tests.workloads.trl_steps import IS_FUSED, record_ours, record_trainers, use_kernels_of_a_gpu

PAIR = {"prompt": "w5 w6 w7", "chosen": " w8 w9", "rejected": " w9 w8"}


@pytest.mark.skipif(IS_FUSED, reason="this release makes no logits")
@pytest.mark.parametrize("adapter", [True, False], ids=["adapter", "second model"])
@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(stage="dpo", batch_size=2, seq_len=24, prompt_len=10, optimizer="adamw_torch"),
        Recipe(
            stage="dpo",
            seq_len=24,
            mixed_precision="bf16",
            gradient_checkpointing=True,
            gradient_accumulation=2,
            optimizer="adamw_torch",
        ),
    ],
    ids=["float32", "bf16, checkpointed, two micro-batches"],
)
@pytest.mark.filterwarnings("ignore")
def test_a_dpo_update_allocates_and_frees_what_ours_does(
    recipe: Recipe, adapter: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_kernels_of_a_gpu(monkeypatch)
    ours = record_ours("qwen2", recipe, adapter=adapter)
    assert ours == record_trainers("DPO", "qwen2", recipe, tmp_path, adapter=adapter, rows=PAIR)

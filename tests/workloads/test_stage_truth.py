"""The steps of the stages are those of TRL's trainers: torch's profiler watches both on the CPU, event by event.

They run where TRL is installed, with that release's loss: 1.13 and 1.14 make all logits, 1.15 and newer none.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("trl")
pytest.importorskip("datasets")
pytest.importorskip("triton")

from inspector.records.recipe import Recipe  # without TRL there is nothing to import
from tests.workloads.trl_steps import (
    IS_FUSED,
    record_grpo_trainers,
    record_ours,
    record_trainers,
    use_kernels_of_a_gpu,
)

PAIR = {"prompt": "w5 w6 w7", "chosen": "w8 w9", "rejected": "w9 w8"}
ANSWER = {"prompt": "w5 w6 w7", "completion": "w8 w9", "label": True}
LOSS = "fused" if IS_FUSED else "stock"
PLAIN = {"batch_size": 2, "seq_len": 24, "prompt_len": 10, "optimizer": "adamw_torch"}
USUAL = {
    "batch_size": 2,
    "seq_len": 24,
    "mixed_precision": "bf16",
    "gradient_checkpointing": True,
    "gradient_accumulation": 2,
    "optimizer": "adamw_torch",
}


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let TRL take its way on a GPU."""
    use_kernels_of_a_gpu(monkeypatch)


@pytest.mark.parametrize(("stage", "trainer", "row"), [("dpo", "DPO", PAIR), ("kto", "KTO", ANSWER)])
@pytest.mark.parametrize(("recipe", "adapter"), [(PLAIN, True), (USUAL, True), (USUAL, False)])
@pytest.mark.filterwarnings("ignore")
def test_an_update_with_a_reference_allocates_and_frees_what_trls_does(
    stage: str, trainer: str, row: dict[str, object], recipe: dict[str, object], adapter: bool, tmp_path: Path
) -> None:
    asked = Recipe(stage=stage, loss=LOSS, **recipe)  # type: ignore[arg-type]
    ours = record_ours("qwen2", asked, adapter=adapter)
    assert ours == record_trainers(trainer, "qwen2", asked, tmp_path, adapter=adapter, rows=row)


@pytest.mark.parametrize(("stage", "trainer"), [("orpo", "ORPO"), ("cpo", "CPO"), ("reward", "Reward")])
@pytest.mark.parametrize("adapter", [True, False], ids=["adapter", "full"])
@pytest.mark.filterwarnings("ignore")
def test_an_update_without_a_reference_allocates_and_frees_what_trls_does(
    stage: str, trainer: str, adapter: bool, tmp_path: Path
) -> None:
    asked = Recipe(stage=stage, **USUAL)  # type: ignore[arg-type]
    ours = record_ours("qwen2", asked, adapter=adapter)
    assert ours == record_trainers(trainer, "qwen2", asked, tmp_path, adapter=adapter, rows=PAIR)


@pytest.mark.parametrize(("reference", "beta"), [(None, 0.0), ("adapter", 0.04)], ids=["no reference", "reference"])
@pytest.mark.filterwarnings("ignore")
def test_an_update_of_grpo_allocates_and_frees_what_trls_does(
    reference: str | None, beta: float, tmp_path: Path
) -> None:
    usual = {**USUAL, "batch_size": 4, "gradient_accumulation": 1, "prompt_len": 10, "padding": False}
    asked = Recipe(stage="grpo", loss=LOSS, reference=reference, **usual)  # type: ignore[arg-type]
    ours = record_ours("qwen2", asked, adapter=True)
    assert ours == record_grpo_trainers("qwen2", asked, tmp_path, adapter=True, beta=beta)

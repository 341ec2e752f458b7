"""Losses of causal language models that make few logits: their figures, and which models they are for.

tests/workloads/test_real_losses.py holds them against the libraries' own code.
"""

from __future__ import annotations

from typing import Any

import peft
import pytest

import inspector
from inspector.errors import UsageError
from inspector.measure.measuring import check_machine
from inspector.records.recipe import Recipe
from inspector.records.report import Report
from inspector.records.request import LoraOptions
from inspector.records.tape import Category, EventKind, Phase
from tests.trace.small_models import build
from tests.workloads.real_losses import A100, build_small
from tests.workloads.tracing import resolve, trace


def inspect(model: str, **settings: Any) -> Report:
    """Inspect a model of the catalogue."""
    return inspector.inspect(model, offline=True, advice=False, **settings)


# Qwen2.5-0.5B as `trl sft` trains it by default: float32 weights, bf16 autocast, checkpointing, 8 x 1,024, AdamW fused.
@pytest.mark.parametrize(("loss", "peak"), [("fused", 8_695_627_776), ("stock", 21_942_079_488)])
def test_the_peak_of_trls_default_step_is_that_of_its_own_code(loss: str, peak: int) -> None:
    recipe = Recipe(
        batch_size=8, seq_len=1024, mixed_precision="bf16", gradient_checkpointing=True, padding=True, loss=loss
    )
    report = inspect("Qwen/Qwen2.5-0.5B", dtype="float32", recipe=recipe)
    assert report.memory is not None
    assert report.memory.peak_allocated_bytes == peak
    assert report.to_dict()["training"]["recipe"]["loss"] == loss


def test_the_peak_of_a_qlora_with_the_fused_head_is_that_of_trls_own_code() -> None:
    recipe = Recipe(
        seq_len=2048, mixed_precision="bf16", gradient_checkpointing=True, attention_mask=True, loss="fused"
    )
    report = inspect(
        "Qwen/Qwen2.5-7B",
        quantization="nf4",
        double_quant=True,
        peft=LoraOptions(r=16, targets="all-linear"),
        preparation="none",
        adapter_dtype="bfloat16",
        recipe=recipe,
    )
    assert report.memory is not None
    assert report.memory.peak_allocated_bytes == 6_893_551_104


def largest(loss: str, phase: Phase, **changes: Any) -> int:
    """Return the largest block that the second step makes in a phase."""
    recipe = Recipe(seq_len=1024, loss=loss, **changes)
    tape = trace(build_small("qwen2"), recipe, A100)
    made = [event for event in tape if event.kind is EventKind.ALLOCATE and event.step == 2 and event.phase is phase]
    return max(event.bytes for event in made)


def test_logits_are_never_larger_than_a_tile_or_a_chunk() -> None:
    # 1,023 positions of 40,000 tokens in float32, a tile of 1,023 x 32,768, 256 positions of 40,000 tokens.
    assert largest("stock", Phase.FORWARD) == 1024 * 40_000 * 4
    assert largest("fused", Phase.FORWARD) == 1023 * 32_768 * 4
    assert largest("chunked", Phase.FORWARD) == 256 * 40_000 * 4


@pytest.mark.parametrize("loss", ["fused", "chunked"])
def test_what_a_loss_makes_is_logits_and_loss_of_the_head(loss: str) -> None:
    tape = trace(build_small("qwen2"), Recipe(seq_len=300, loss=loss), A100)
    made = [event for event in tape if event.kind is EventKind.ALLOCATE and event.phase is Phase.FORWARD]
    tiles = [event for event in made if event.bytes > 256 * 32_768 and event.category is not Category.OTHER]
    assert tiles
    assert {(event.category, event.module) for event in tiles} == {(Category.LOGITS_AND_LOSS, "lm_head")}


@pytest.mark.parametrize("loss", ["fused", "chunked"])
def test_a_model_that_is_no_causal_language_model_is_refused_by_a_loss_of_one(loss: str) -> None:
    refusal = rf"`loss={loss}` is of causal language models with a head, and \w+ is none"
    for name in ("vit", "bert", "t5"):
        with pytest.raises(UsageError, match=refusal):
            trace(build("meta", name)[0], Recipe(seq_len=8, loss=loss), A100)


def test_an_adapter_on_the_head_is_refused_as_trl_refuses_it() -> None:
    model = peft.get_peft_model(build_small("qwen2"), peft.LoraConfig(r=4, target_modules=["lm_head"]))
    with pytest.raises(UsageError, match="leave the head out of `target_modules`"):
        trace(model, Recipe(seq_len=8, loss="fused"), A100)


def test_a_copy_of_the_head_that_is_trained_whole_has_a_gradient_under_the_fused_head() -> None:
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = peft.get_peft_model(build_small("qwen2", tie_word_embeddings=False), config)
    tape = trace(model, Recipe(seq_len=8, loss="fused"), A100)
    assert any(event.category is Category.GRADIENTS and event.bytes == 40_000 * 64 * 4 for event in tape)


def test_the_stock_loss_is_taken_where_none_is_asked_for() -> None:
    assert resolve(build_small("qwen2"), Recipe(seq_len=8)).loss == "stock"


def test_a_stand_in_for_kernels_is_not_measured() -> None:
    with pytest.raises(UsageError, match="`loss=fused` is traced as a stand-in that computes nothing"):
        check_machine(Recipe(loss="fused"))

"""Losses of causal language models that make few logits: their figures, and which models they are for.

tests/workloads/test_real_losses.py holds them against the libraries' own code.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import Any

import peft
import pytest
import torch

import inspector
from inspector.errors import UsageError
from inspector.hardware.platform import Platform
from inspector.measure.devices import check_packages
from inspector.measure.measuring import check_machine
from inspector.records.recipe import Recipe
from inspector.records.report import Report
from inspector.records.request import LoraOptions
from inspector.records.tape import Category, EventKind, Phase
from inspector.workloads.registry import TRAINING, load_workload
from inspector.workloads.training.lm_losses.releases import find_release_notices
from tests.trace.small_models import build
from tests.workloads.real_losses import A100, build_small
from tests.workloads.tracing import resolve, trace


def inspect(model: str, **settings: Any) -> Report:
    """Inspect a model of the catalogue on the card that the figures are of."""
    return inspector.inspect(model, gpu="a100-80gb", offline=True, advice=False, **settings)


# Qwen2.5-0.5B as `trl sft` trains it by default: float32 weights, bf16 autocast, checkpointing, 8 x 1,024, AdamW fused.
# TRL 1.16 takes 8,698,511,360 on torch's CUDA code (row sft-whole-model of tests/evidence/truth/stand_in/trl.json); it
# would be 8,695,627,776 if cuBLAS took no workspace for products that are written into a tile.
@pytest.mark.parametrize(("loss", "peak"), [("fused", 8_698_511_360), ("stock", 21_942_079_488)])
def test_the_peak_of_trls_default_step_is_that_of_its_own_code(loss: str, peak: int) -> None:
    recipe = Recipe(
        batch_size=8, seq_len=1024, mixed_precision="bf16", gradient_checkpointing=True, padding=True, loss=loss
    )
    report = inspect("Qwen/Qwen2.5-0.5B", dtype="float32", recipe=recipe)
    assert report.memory is not None
    assert report.memory.peak_allocated_bytes == peak
    assert report.to_dict()["training"]["recipe"]["loss"] == loss


# Qwen2.5-0.5B in bfloat16, 4 x 1,024, a Trainer with `use_liger_kernel`: its loss alone, and all of its kernels.
@pytest.mark.parametrize(
    ("adapter", "is_checkpointed", "kernels", "peak"),
    [
        (False, False, {"loss": "liger"}, 9_007_904_256),
        (False, False, {"liger": "auto"}, 7_315_043_840),
        (True, True, {"loss": "liger"}, 1_754_455_552),
        (True, True, {"liger": "auto"}, 1_685_249_536),
    ],
    ids=["full, loss", "full", "LoRA, checkpointed, loss", "LoRA, checkpointed"],
)
@pytest.mark.one_of(3)
def test_the_peak_with_liger_is_that_of_ligers_own_code(
    adapter: bool, is_checkpointed: bool, kernels: dict[str, Any], peak: int
) -> None:
    recipe = Recipe(
        batch_size=4,
        seq_len=1024,
        padding=False,
        gradient_checkpointing=is_checkpointed,
        optimizer="adamw_torch" if adapter else "adamw_torch_fused",
        **kernels,
    )
    lora = LoraOptions(r=16, targets="all-linear") if adapter else None
    report = inspect("Qwen/Qwen2.5-0.5B", peft=lora, recipe=recipe)
    assert report.memory is not None
    assert report.memory.peak_allocated_bytes == peak
    assert report.memory.recipe.loss == "liger"


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


@pytest.mark.parametrize("loss", ["fused", "chunked", "liger"])
def test_what_a_loss_makes_is_logits_and_loss_of_the_head(loss: str) -> None:
    tape = trace(build_small("qwen2"), Recipe(seq_len=300, loss=loss), A100)
    made = [event for event in tape if event.kind is EventKind.ALLOCATE and event.phase is Phase.FORWARD]
    tiles = [event for event in made if event.bytes > 256 * 32_768 and event.category is not Category.OTHER]
    assert tiles
    ours = {Category.LOGITS_AND_LOSS, *([Category.GRADIENTS] if loss == "liger" else [])}  # Liger makes the head's here
    assert {(event.category, event.module) for event in tiles} == {(category, "lm_head") for category in ours}


@pytest.mark.parametrize("loss", ["fused", "chunked", "liger", "cce"])
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


def test_a_stand_in_without_a_package_of_its_own_is_not_measured() -> None:
    for recipe, name in (
        (Recipe(stage="dpo", loss="fused"), "loss=fused"),
        (Recipe(lora_kernels="qkv"), "lora_kernels"),
    ):
        with pytest.raises(UsageError, match=f"`{name}`.* is traced as a stand-in that computes nothing"):
            check_machine(recipe)


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ({"loss": "fused"}, "`loss=fused` runs on the package trl"),
        ({"loss": "liger"}, "`loss=liger` runs on the package liger-kernel"),
        ({"loss": "cce"}, "`loss=cce` runs on the package cut-cross-entropy"),
        ({"liger": "rope"}, "`liger` runs on the package liger-kernel"),
    ],
)
def test_measuring_a_loss_names_the_package_that_is_missing(
    recipe: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match=says):
        check_packages(Recipe(**recipe))


def test_ligers_kernels_are_those_of_the_type_of_a_model() -> None:
    for name, kernels in (("qwen2", ["rope", "rms_norm", "swiglu"]), ("gemma2", ["rope", "rms_norm", "geglu"])):
        recipe = resolve(build_small(name, head_dim=16), Recipe(seq_len=8, liger="auto"))
        assert [str(kernel) for kernel in recipe.liger or ()] == kernels
        assert recipe.loss == "liger"


def test_a_kernel_that_a_type_has_no_use_for_changes_nothing() -> None:
    assert resolve(build_small("qwen2"), Recipe(seq_len=8, liger="geglu,rope")).liger == ("rope",)


def test_a_loss_that_was_asked_for_stays_beside_ligers_kernels() -> None:
    assert resolve(build_small("qwen2"), Recipe(seq_len=8, liger="auto", loss="fused")).loss == "fused"


def test_ligers_kernels_of_a_type_that_is_not_known_are_named_as_not_counted() -> None:
    recipe = Recipe(seq_len=8, liger="auto")
    model = build("meta", "gpt_neox")[0]
    workload = load_workload(TRAINING)
    settled = workload.resolve(model, recipe)
    facts = workload.describe(model, recipe, settled, A100)
    assert (settled.liger, settled.loss) == (None, "liger")
    assert "Liger's kernels of layers" in [item.what for item in facts.not_accounted]
    assert resolve(model, Recipe(seq_len=8, liger="rope")).liger is None


def test_the_gradient_of_a_norm_has_a_row_for_each_multiprocessor() -> None:
    recipe = Recipe(seq_len=8, liger="rms_norm")
    for count in (108, 24):
        platform = Platform(torch_version=(2, 13), multiprocessors=count)
        tape = trace(build_small("qwen2"), recipe, platform)
        assert any(event.bytes == count * 64 * 4 and event.phase is Phase.BACKWARD for event in tape)


def test_cut_cross_entropy_makes_no_logits_and_names_what_its_first_step_takes() -> None:
    model = build_small("qwen2", dtype=torch.bfloat16)
    recipe = Recipe(seq_len=1024, loss="cce")
    facts = load_workload(TRAINING).describe(model, recipe, resolve(model, recipe), A100)
    assert "autotuning of cut-cross-entropy" in [item.what for item in facts.not_accounted]
    made = [event for event in trace(model, recipe, A100) if event.category is Category.LOGITS_AND_LOSS]
    assert max(event.bytes for event in made) == 8 * 40_000  # tokens in the order of their logits


def test_cut_cross_entropy_refuses_hidden_states_in_float32() -> None:
    with pytest.raises(UsageError, match="takes hidden states in float16 and bfloat16, not float32"):
        trace(build_small("qwen2"), Recipe(seq_len=8, loss="cce"), A100)


@pytest.mark.parametrize(
    ("recipe", "package", "installed", "says"),
    [
        ({"loss": "fused"}, "trl", "1.17.0", "as TRL 1.16 computes it; trl 1.17.0 is installed here"),
        ({"stage": "dpo", "loss": "fused"}, "trl", "1.14.1", "as TRL 1.16 computes it; trl 1.14.1"),
        ({"stage": "dpo"}, "trl", "1.16.0", "as TRL 1.14 computes it; trl 1.16.0"),
        ({"loss": "liger", "liger": "rope"}, "liger-kernel", "0.9.0", "as Liger 0.8.5 computes it; liger-kernel 0.9.0"),
        ({"loss": "fused"}, "trl", "1.16.0", None),
        ({}, "trl", "1.17.0", None),
    ],
)
def test_another_release_of_the_package_of_a_loss_is_told(
    recipe: dict[str, Any], package: str, installed: str, says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_version(name: str) -> str:
        if name == package:
            return installed
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", find_version)
    told = [notice.message for notice in find_release_notices(Recipe(**recipe))]
    assert len(told) == (says is not None)
    assert all(says in message for message in told if says is not None)

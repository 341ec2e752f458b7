"""Documents that share a row: the batch is the collators' own, and the step on it is the one with data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import inspector
from inspector.errors import UsageError
from inspector.records.recipe import Recipe
from inspector.workloads.batch import Input
from inspector.workloads.packed_rows import make_packed_inputs
from tests.model.tiny import llama
from tests.trace.cpu_truth import assert_aligned, meta_step, real_step
from tests.workloads.trainer_events import Recorder, list_our_events

# Two sequences of three documents, of 11, 11 and 10 tokens: none is a multiple of another.
RECIPE = Recipe(batch_size=2, seq_len=32, packing=3)
LENGTHS = [11, 11, 10, 11, 11, 10]


def build(device: str, **changes: Any) -> nn.Module:
    """Return a small decoder."""
    torch.manual_seed(0)
    with torch.device(device):
        model: nn.Module = transformers.LlamaForCausalLM._from_config(
            llama(num_hidden_layers=2, dtype="float32", use_cache=False, **changes)
        )
    return model.train()


def batch_on(device: str, model: nn.Module, recipe: Recipe = RECIPE) -> dict[str, Any]:
    """Return the packed batch of a recipe."""
    inputs = make_packed_inputs(model, recipe)
    return {name: item.on(device) if isinstance(item, Input) else item for name, item in inputs.items()}


def rows() -> list[dict[str, list[int]]]:
    """Return the documents as a data set has them."""
    token = batch_on("cpu", build("meta"))["input_ids"][0, 0].item()
    return [{"input_ids": [token] * length, "labels": [token] * length} for length in LENGTHS]


def test_the_batch_is_that_of_transformers_collator() -> None:
    collator = transformers.DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_seq_idx=True)
    real = collator(rows())
    ours = batch_on("cpu", build("meta"))
    assert set(ours) == set(real)
    for name, value in real.items():
        if isinstance(value, torch.Tensor):
            assert ours[name].dtype == value.dtype, name
            assert torch.equal(ours[name], value), name
        else:
            assert ours[name] == value, name


def test_the_batch_is_that_of_trls_collator() -> None:
    collators = pytest.importorskip("trl.trainer.sft_trainer")
    real = collators.DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)(rows())
    ours = batch_on("cpu", build("meta"))
    assert list(ours) == [*list(real)[:5], "max_length_q", "max_length_k", "seq_idx"]
    for name, value in real.items():
        same = torch.equal(ours[name], value) if isinstance(value, torch.Tensor) else ours[name] == value
        assert same, name


def test_a_packed_step_allocates_and_frees_what_it_does_with_data() -> None:
    """The mask of all pairs of tokens is made from the positions."""

    def make(device: str) -> tuple[nn.Module, dict[str, Any]]:
        model = build(device, attn_implementation="eager")
        return model, batch_on(device, model)

    real, inside = real_step(make)
    values = {name: item for name, item in make("cpu")[1].items() if isinstance(item, torch.Tensor)}
    assert_aligned(real, inside, meta_step(make, values=values))


@pytest.mark.filterwarnings("ignore")
def test_a_trainers_packed_update_allocates_and_frees_what_ours_does(tmp_path: Path) -> None:
    recorder = Recorder()
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=len(LENGTHS), max_steps=3, report_to=[],
        save_strategy="no", logging_strategy="no", disable_tqdm=True, train_sampling_strategy="sequential",
    )  # fmt: skip
    transformers.Trainer(
        model=build("cpu"),
        args=arguments,
        train_dataset=rows() * 4,
        callbacks=[recorder],
        data_collator=transformers.DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_seq_idx=True),
    ).train()
    model = build("cpu")
    ours = list_our_events(model, batch_on("cpu", model), RECIPE)
    assert ours == recorder.list_events()


def test_documents_share_a_row_without_a_mask_and_flash_attention_sees_where_they_begin() -> None:
    config = llama(dtype="bfloat16")
    report = inspector.inspect(config, recipe=Recipe(packing="4x64", attention="flash_attention_2"))
    assert report.training is not None
    assert (report.training.recipe.seq_len, report.training.recipe.packing) == (256, 4)
    shapes = {item.name: item.shape for item in report.training.inputs or ()}
    assert shapes["input_ids"] == shapes["position_ids"] == shapes["seq_idx"] == (1, 256)
    assert shapes["cu_seq_lens_q"] == (5,)
    assert "attention_mask" not in shapes


def test_documents_are_as_long_as_a_model_has_positions_and_their_row_is_longer() -> None:
    config = transformers.GPT2Config(n_layer=1, n_embd=64, n_head=2, vocab_size=128, n_positions=32)
    report = inspector.inspect(config, recipe=Recipe(packing="4x32"), model_class="GPT2LMHeadModel")
    assert report.training is not None
    assert report.training.recipe.seq_len == 128
    assert [notice.code for notice in report.warnings] == ["dtype-assumed"]
    with pytest.raises(inspector.UsageError, match="`seq_len` is 160, and the model has learned positions for 128"):
        inspector.inspect(config, recipe=Recipe(packing="4x40"), model_class="GPT2LMHeadModel")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"packing": "four"}, "give COUNTxLENGTH, as 4x1024 for 4 documents of 1,024 tokens"),
        ({"packing": 0}, "`packing` is 0"),
        ({"packing": "4x512", "seq_len": 512}, "is a sequence of 2048 tokens, and `seq_len` is 512: drop one"),
        ({"packing": 4, "padding": True}, "without padding: drop `padding`, or `packing`"),
        ({"packing": 64, "seq_len": 32}, "has no room for as many documents"),
    ],
    ids=str,
)
def test_documents_that_do_not_fit_a_sequence_are_one_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Recipe(**fields)


@pytest.mark.parametrize("kind", ["bert", "t5", "bloom"])
def test_a_model_that_cannot_keep_documents_apart_is_refused(kind: str) -> None:
    small: dict[str, Any] = {"num_hidden_layers": 1, "num_layers": 1, "n_layer": 1, "vocab_size": 128}
    classes = {"bert": "BertForSequenceClassification", "t5": "T5ForConditionalGeneration", "bloom": "BloomForCausalLM"}
    config = transformers.AutoConfig.for_model(kind, **small)
    report = inspector.inspect(config, recipe=Recipe(packing="2x16"), model_class=classes[kind])
    assert report.training is None
    assert any("packed" in notice.message for notice in report.warnings)

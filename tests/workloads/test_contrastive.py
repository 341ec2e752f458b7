"""In-batch negatives: what is traced is the step that sentence-transformers runs, and only bare encoders get it."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

import inspector
from inspector.workloads.batch import Input, is_bare_encoder, make_batch_inputs
from tests.trace.small_models import COMMON, NO_DROPOUT
from tests.workloads.trainer_events import (
    assert_same_events,
    in_any_order_of_frees,
    list_our_events,
    list_trainer_events,
)

SMALL_ENCODER: dict[str, Any] = {**COMMON, **NO_DROPOUT, "max_position_embeddings": 64}
RECIPE = inspector.Recipe(batch_size=4, seq_len=24)


class SentenceModel(nn.Module):
    """An encoder and a mean over tokens, written after sentence-transformers' `Transformer` and `Pooling`."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the tokens and the embeddings to the features."""
        output = self.encoder(**features, return_dict=True)
        features["token_embeddings"] = tokens = output["last_hidden_state"]
        del output
        mask = features["attention_mask"].unsqueeze(-1).to(tokens.dtype)
        accumulated = torch.float32 if tokens.dtype is torch.bfloat16 else tokens.dtype
        total = (tokens * mask).sum(dim=1, dtype=accumulated)
        count = torch.clamp(mask.sum(dim=1, dtype=accumulated), min=1e-9)
        mean = (total / count).to(tokens.dtype)
        del total
        features["sentence_embedding"] = torch.cat([mean], dim=-1)
        return features


class PairTrainer(transformers.Trainer):
    """A Trainer whose loss is written after `MultipleNegativesRankingLoss` of two columns."""

    def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Tensor:
        """Return the loss of a batch of pairs."""
        features = [
            {name.removeprefix(column): item for name, item in inputs.items() if name.startswith(column)}
            for column in ("anchor_", "positive_")
        ]
        return rank([model(one)["sentence_embedding"] for one in features])


def rank(embeddings: list[Tensor]) -> Tensor:
    """Return the loss of embedded pairs."""
    queries, documents = embeddings[0], torch.cat(embeddings[1:], dim=0)
    places, rows = torch.arange(0, len(queries)), torch.arange(len(queries))
    local_queries, local_documents = queries[places], embeddings[1][places]
    a, b = local_queries.float(), documents.float()
    a, b = nn.functional.normalize(a, p=2, dim=-1), nn.functional.normalize(b, p=2, dim=-1)
    similarities = torch.mm(a, b.transpose(0, 1))
    similarities = similarities * 20.0
    positives = similarities[rows, places]
    scores = torch.cat([similarities], dim=1)
    loss = -(positives - torch.logsumexp(scores, dim=1)).mean()
    del local_documents, similarities, positives
    return loss


def build_encoder(kind: str, **fields: Any) -> Any:
    """Return a small bare encoder."""
    torch.manual_seed(0)
    if kind == "t5":
        sizes: dict[str, Any] = {
            "d_model": 32,
            "d_ff": 64,
            "d_kv": 8,
            "num_heads": 4,
            "num_layers": 2,
            "vocab_size": 128,
            "dropout_rate": 0.0,
        }
        return transformers.T5EncoderModel(transformers.T5Config(**sizes, **fields)).train()
    config = transformers.AutoConfig.for_model(kind, **SMALL_ENCODER, **fields)
    return transformers.AutoModel.from_config(config).train()


def make_batch(model: Any, recipe: inspector.Recipe) -> dict[str, Any]:
    """Return a batch of pairs; with padding each text has a padded position, wherever the Trainer's sampler puts it."""
    inputs = {name: item for name, item in make_batch_inputs(model, recipe).items() if isinstance(item, Input)}
    batch = {name: item.on("cpu") for name, item in inputs.items()}
    for name, item in inputs.items():
        if item.last is not None:
            batch[name][:, -1] = item.last
    return batch


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("bert", {}),
        ("bert", {"padding": True, "gradient_accumulation": 2}),
        ("xlm-roberta", {"mixed_precision": "bf16"}),
    ],
    ids=["plain", "accumulation", "bf16"],
)
@pytest.mark.filterwarnings("ignore")
def test_an_update_on_pairs_allocates_and_frees_what_a_trainer_with_the_ranking_loss_does(
    kind: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    recipe = dataclasses.replace(RECIPE, **changes)

    def list_both(attempt: int) -> tuple[list[int], list[int]]:
        ours = build_encoder(kind)
        batch = make_batch(ours, recipe)
        folder = tmp_path / str(attempt)
        theirs = list_trainer_events(SentenceModel(build_encoder(kind)), batch, recipe, folder, PairTrainer)
        return in_any_order_of_frees(list_our_events(ours, batch, recipe, with_batches=True)), in_any_order_of_frees(
            theirs
        )

    assert_same_events(list_both)


def build_on_meta(kind: str, auto: str = "AutoModel", **fields: Any) -> Any:
    """Return a small model of a type on meta."""
    with torch.device("meta"):
        return getattr(transformers, auto).from_config(transformers.AutoConfig.for_model(kind, **fields))


BARE = ("bert", "roberta", "xlm-roberta", "mpnet", "distilbert", "electra", "albert", "deberta-v2", "modernbert")


@pytest.mark.parametrize("kind", BARE)
def test_a_bare_encoder_gets_pairs_with_what_its_tokenizer_gives(kind: str) -> None:
    layers: dict[str, Any] = {"n_layers": 1} if kind == "distilbert" else {"num_hidden_layers": 1}
    model = build_on_meta(kind, **layers)
    batch = make_batch_inputs(model, dataclasses.replace(RECIPE, padding=True))
    tokenizer = getattr(transformers, str(TOKENIZER_MAPPING_NAMES[kind]))
    given = {name for name in tokenizer.model_input_names if name in inspect.signature(model.forward).parameters}
    assert set(batch) == {f"{column}_{name}" for column in ("anchor", "positive") for name in given}
    assert batch["positive_attention_mask"] == Input(shape=(4, 24), value=1, last=0)
    assert make_batch_inputs(model, RECIPE)["positive_attention_mask"] == Input(shape=(4, 24), value=1)


@pytest.mark.parametrize(
    ("kind", "auto", "fields"),
    [
        ("bert", "AutoModelForMaskedLM", SMALL_ENCODER),
        ("bert", "AutoModel", {**SMALL_ENCODER, "is_decoder": True}),
        ("llama", "AutoModel", COMMON),
        ("bart", "AutoModel", {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1}),
        ("vit", "AutoModel", {"num_hidden_layers": 1}),
    ],
    ids=["with a head", "decoder", "llama", "bart", "images"],
)
def test_no_other_model_is_taken_for_a_bare_encoder(kind: str, auto: str, fields: dict[str, Any]) -> None:
    assert not is_bare_encoder(build_on_meta(kind, auto, **fields))


# What config.json of BAAI/bge-small-en-v1.5 has, but for the number of its layers.
BGE_SMALL: dict[str, Any] = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_attention_heads": 12,
    "num_hidden_layers": 2,
    "max_position_embeddings": 512,
}


@pytest.mark.parametrize("peft", [None, inspector.LoraOptions(r=8, targets="all-linear")], ids=["full", "lora"])
@pytest.mark.parametrize(
    "changes",
    [{"gradient_checkpointing": True, "gradient_accumulation": 2}, {"mixed_precision": "bf16"}, {"loop": "plain"}],
    ids=["checkpointing", "bf16", "plain"],
)
def test_an_embedding_model_has_a_step_and_a_verdict_under_every_recipe(
    peft: inspector.LoraOptions | None, changes: dict[str, Any]
) -> None:
    config = transformers.BertConfig(architectures=["BertModel"], **BGE_SMALL)
    recipe = inspector.Recipe(batch_size=32, seq_len=64, **changes)
    report = inspector.inspect(config, peft=peft, recipe=recipe, gpu="t4", advice=False)
    assert report.training is not None
    assert report.fit is not None
    assert report.fit[0].fits
    assert "batch size 32 pairs, sequence length 64, with padding, in-batch negatives" in " ".join(str(report).split())
    (message,) = (item.message for item in report.warnings if item.code == "in-batch-negatives")
    assert "`batch_size` counts pairs." in message
    assert "One pair has no negatives" not in message
    assert [item.name for item in report.training.inputs or ()][3:] == [
        "positive_input_ids",
        "positive_token_type_ids",
        "positive_attention_mask",
    ]


def test_a_pass_without_gradients_of_an_embedding_model_is_on_single_texts() -> None:
    config = transformers.BertConfig(architectures=["BertModel"], **BGE_SMALL)
    report = inspector.inspect(config, workload="forward", recipe=inspector.Recipe(batch_size=2, seq_len=16))
    assert report.memory is not None
    assert [item.name for item in report.memory.inputs or ()] == ["input_ids", "attention_mask"]
    assert "in-batch-negatives" not in {item.code for item in report.warnings}


def test_one_pair_and_texts_that_would_be_packed_are_named() -> None:
    config = transformers.BertConfig(architectures=["BertModel"], dtype="bfloat16", **BGE_SMALL)
    recipe = inspector.Recipe(seq_len=16, attention="flash_attention_2")
    messages = {item.code: item.message for item in inspector.inspect(config, recipe=recipe).warnings}
    assert "One pair has no negatives" in messages["in-batch-negatives"]
    assert "packs the texts" in messages["rows-not-packed"]


def test_the_pooling_of_the_repository_is_traced_where_it_says_one(tmp_path: Path) -> None:
    transformers.BertConfig(architectures=["BertModel"], dtype="float32", **BGE_SMALL).save_pretrained(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    found = {}
    for pooling in ("cls", "mean", "lasttoken"):
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))
        report = inspector.inspect(tmp_path, recipe=inspector.Recipe(batch_size=64, gradient_checkpointing=True))
        (message,) = (item.message for item in report.warnings if item.code == "in-batch-negatives")
        assert report.training is not None
        found[pooling] = message, report.training.peak_allocated_bytes
    assert "Its cls pooling is that of 1_Pooling/config.json." in found["cls"][0]
    assert "Its mean pooling is that of" in found["mean"][0]
    assert "asks for lasttoken: the mean of its tokens was traced in its place" in found["lasttoken"][0]
    assert found["mean"][1] == found["lasttoken"][1] != found["cls"][1]

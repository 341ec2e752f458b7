"""In-batch negatives: what is traced is the step that sentence-transformers runs, and only bare encoders get it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import inspector
from inspector.workloads.batch import Input, make_batch_inputs
from tests.trace.small_models import COMMON, NO_DROPOUT
from tests.workloads.trainer_events import in_any_order_of_frees, list_our_events, list_trainer_events

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


def build_encoder(kind: str) -> Any:
    """Return a small bare encoder."""
    torch.manual_seed(0)
    return transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **SMALL_ENCODER)).train()


def make_batch(model: Any, recipe: inspector.Recipe) -> dict[str, Any]:
    """Return a batch of pairs; with padding each text has a padded position, wherever the Trainer's sampler puts it."""
    inputs = {name: item for name, item in make_batch_inputs(model, recipe).items() if isinstance(item, Input)}
    batch = {name: item.on("cpu") for name, item in inputs.items()}
    for name, item in inputs.items():
        if item.last is not None:
            batch[name][:, -1] = item.last
    return batch


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"padding": True, "gradient_accumulation": 2}, {"mixed_precision": "bf16"}],
    ids=["plain", "accumulation", "bf16"],
)
@pytest.mark.filterwarnings("ignore")
def test_an_update_on_pairs_allocates_and_frees_what_a_trainer_with_the_ranking_loss_does(
    kind: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    recipe = dataclasses.replace(RECIPE, **changes)
    ours = build_encoder(kind)
    batch = make_batch(ours, recipe)
    theirs = list_trainer_events(SentenceModel(build_encoder(kind)), batch, recipe, tmp_path, PairTrainer)
    assert in_any_order_of_frees(list_our_events(ours, batch, recipe)) == in_any_order_of_frees(theirs)

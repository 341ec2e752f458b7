"""In-batch negatives: the loss that a bare encoder is trained with, as sentence-transformers runs it.

A batch is pairs of texts. Two forward passes embed anchors and positives: the encoder, then one vector for each text,
the mean of its tokens. The cosine of each anchor with each positive, times 20, is its score, and the right positive is
the one of the same row. Every statement is that of the library, in its order and with what it keeps alive meanwhile:
the tokens of both passes live until the loss is there, because the library writes them into the features it was given.

Source: sentence-transformers 6.2, `BaseTrainer.compute_loss` and `collect_features` (base/trainer.py), `embed_columns`
(base/losses/merged_forward.py), `Transformer.forward`, `Pooling._forward_padded`, `cos_sim` (util/similarity.py) and
`MultipleNegativesRankingLoss` with its defaults; tests/workloads/test_contrastive.py holds it against a real
SentenceTransformerTrainer where the library is installed.

Not covered: other poolings than the mean, modules behind the pooling (`Normalize`, `Dense`, which make a vector for
each text), and batches packed into one sequence, which the library makes for flash attention.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from inspector.workloads.batch import PAIR_COLUMNS

__all__ = ["InBatchNegatives"]

_Features = dict[str, Any]
_SCALE = 20.0
_HALF = (torch.float16, torch.bfloat16)


class InBatchNegatives:
    """The loss of a bare encoder; the model that the loop calls embeds one column of the batch."""

    def build_forward(self, model: nn.Module) -> Callable[..., Any]:
        """Return what embeds features: sentence-transformers' model, which is the encoder and what pools its tokens."""
        return functools.partial(_embed, model)

    def compute_loss(
        self, forward: Callable[..., Any], batch: Mapping[str, Any], count: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return the loss; nothing is left of the passes then."""
        columns = [_collect_features(batch, column) for column in PAIR_COLUMNS]
        return _compare([forward(features)["sentence_embedding"] for features in columns]), None

    def counts_labels(self, model: nn.Module, batch: Mapping[str, Any]) -> bool:
        """Return whether the loss is divided by a count of labels: there are none, so that it is a mean."""
        return False


def _collect_features(batch: Mapping[str, Any], column: str) -> _Features:
    """Return the features of one column, by the names that the encoder has for them."""
    prefix = f"{column}_"
    return {name[len(prefix) :]: item for name, item in batch.items() if name.startswith(prefix)}


def _embed(model: nn.Module, features: _Features) -> _Features:
    """Write the tokens and the vector of each text into the features, and return them."""
    features["token_embeddings"] = model(**features, return_dict=True)["last_hidden_state"]
    features["sentence_embedding"] = torch.cat(
        [_pool_mean(features["token_embeddings"], features["attention_mask"])], dim=-1
    )
    return features


def _pool_mean(tokens: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the mean of each text's tokens, summed in float32 at least."""
    if attention_mask.size(-1) != tokens.size(1):  # a prompt method of PEFT put positions before the text
        attention_mask = torch.ones(tokens.shape[:-1], device=tokens.device, dtype=torch.int64)
    wide = torch.float32 if tokens.dtype in _HALF else tokens.dtype
    mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
    total = (tokens * mask).sum(dim=1, dtype=wide)
    length = mask.sum(dim=1, dtype=wide)
    length = torch.clamp(length, min=1e-9)
    mean = total / length
    return mean.to(tokens.dtype)


def _compare(embeddings: list[Tensor]) -> Tensor:
    """Return the loss of embedded pairs."""
    anchors, positives = embeddings
    count = anchors.size(0)
    candidates = torch.cat([positives], dim=0)
    of_anchors = torch.arange(0, count, device=anchors.device)
    rows = torch.arange(count, device=anchors.device)
    own_anchors = anchors[of_anchors]
    own_positives = positives[of_anchors]  # for the directions that are off by default
    scores = _find_cosines(own_anchors, candidates)
    scores = scores * _SCALE
    right = scores[rows, of_anchors]
    joint = torch.cat([scores], dim=1)
    normaliser = torch.logsumexp(joint, dim=1)
    loss: Tensor = -(right - normaliser).mean()
    del own_positives
    return loss


def _find_cosines(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosine of each row with each row, in float32 at least."""
    wide = [item.to(torch.float32) if item.dtype in _HALF else item for item in (first, second)]
    first, second = (functional.normalize(item, p=2, dim=-1) for item in wide)
    return torch.mm(first, second.transpose(0, 1))

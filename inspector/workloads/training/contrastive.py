"""In-batch negatives: the loss that a bare encoder is trained with, as sentence-transformers runs it.

A batch is pairs of texts. Two forward passes embed anchors and positives: the encoder, then one vector for each text,
the mean of its tokens or the first one. The cosine of each anchor with each positive, times 20, is its score, and the
right positive is the one of the same row. Every statement is that of the library, in its order and with what it keeps
alive meanwhile: the tokens of both passes live until the loss is there, because the library writes them into the
features it was given.

Source: sentence-transformers 6.2, `BaseTrainer.compute_loss` and `collect_features` (base/trainer.py), `embed_columns`
(base/losses/merged_forward.py), `Transformer.forward`, `Pooling._forward_padded`, `cos_sim` (util/similarity.py) and
`MultipleNegativesRankingLoss` with its defaults; tests/workloads/test_sentence_transformers.py holds it against a real
SentenceTransformerTrainer where the library is installed.

What runs behind the pooling is in `sentence_modules`. Not covered: other poolings, and batches packed into one
sequence, which the library makes for flash attention.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from inspector.records.notice import Notice
from inspector.records.recipe import Attention, Recipe
from inspector.workloads.base import base_model
from inspector.workloads.batch import PAIR_COLUMNS
from inspector.workloads.training.sentence_modules import describe_sentence_modules, run_sentence_modules

__all__ = ["InBatchNegatives", "find_pair_notices"]

_Features = dict[str, Any]
_SCALE = 20.0
_HALF = (torch.float16, torch.bfloat16)


class InBatchNegatives:
    """The loss of a bare encoder; the model that the loop calls embeds one column of the batch.

    `pooling` is how one vector is made of a text's tokens: the mean, where it is not a way that is known here.
    """

    of_a_batch: ClassVar[str | None] = "another loss: fewer negatives"

    def __init__(self, pooling: Any = None) -> None:
        self._pool = _POOLINGS.get(pooling, _pool_mean)

    def build_forward(self, model: nn.Module) -> Callable[..., Any]:
        """Return what embeds features: sentence-transformers' model, which is the encoder and what pools its tokens."""
        return functools.partial(_embed, model, self._pool)

    def compute_loss(
        self, forward: Callable[..., Any], batch: Mapping[str, Any], count: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return the loss; nothing is left of the passes then."""
        columns = [_collect_features(batch, column) for column in PAIR_COLUMNS]
        return _compare([forward(features)["sentence_embedding"] for features in columns]), None

    def counts_labels(self, model: nn.Module, batch: Mapping[str, Any]) -> bool:
        """Return whether the loss is divided by a count of labels: there are none, so that it is a mean."""
        return False


def find_pair_notices(base: Any, recipe: Recipe) -> Iterator[Notice]:
    """Yield what is assumed of the training of a bare encoder."""
    alone = " One pair has no negatives: use a larger `batch_size`." if recipe.batch_size == 1 else ""
    message = (
        f"{type(base).__name__} has no loss of its own: it was traced as sentence-transformers trains it, on pairs of "
        f"texts with in-batch negatives (MultipleNegativesRankingLoss). {_describe_pooling(base)}"
        f"{describe_sentence_modules(base)} `batch_size` counts pairs.{alone}"
    )
    yield Notice(code="in-batch-negatives", message=message)
    if recipe.attention == Attention.FLASH_ATTENTION_2:
        message = (
            "For flash attention sentence-transformers packs the texts of a batch into one sequence without padding: "
            "texts padded to one length were traced, as with unpad_inputs=False."
        )
        yield Notice(code="rows-not-packed", message=message)


def _describe_pooling(base: Any) -> str:
    """Return what stands for a text, and how that is known."""
    pooling = getattr(base.config, "sentence_pooling", None)
    if pooling is None:
        return "The mean of its tokens is assumed to stand for a text."
    if pooling in _POOLINGS:
        return f"Its {pooling} pooling is that of 1_Pooling/config.json."
    return f"1_Pooling/config.json asks for {pooling}: the mean of its tokens was traced in its place."


def _collect_features(batch: Mapping[str, Any], column: str) -> _Features:
    """Return the features of one column, by the names that the encoder has for them."""
    prefix = f"{column}_"
    return {name[len(prefix) :]: item for name, item in batch.items() if name.startswith(prefix)}


def _embed(model: nn.Module, pool: Callable[[Tensor, Tensor], Tensor], features: _Features) -> _Features:
    """Write the tokens and the vector of each text into the features, and return them."""
    features["token_embeddings"] = tokens = model(**features, return_dict=True)["last_hidden_state"]
    attention_mask = features["attention_mask"]
    if attention_mask.size(-1) != tokens.size(1):  # a prompt method of PEFT put positions before the text
        attention_mask = torch.ones(tokens.shape[:-1], device=tokens.device, dtype=torch.int64)
    features["sentence_embedding"] = torch.cat([pool(tokens, attention_mask)], dim=-1)
    return run_sentence_modules(base_model(model), features)


def _pool_mean(tokens: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the mean of each text's tokens, summed in float32 at least."""
    wide = torch.float32 if tokens.dtype in _HALF else tokens.dtype
    mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
    total = (tokens * mask).sum(dim=1, dtype=wide)
    length = mask.sum(dim=1, dtype=wide)
    length = torch.clamp(length, min=1e-9)
    mean = total / length
    return mean.to(tokens.dtype)


def _pool_first(tokens: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the first token of each text that is not padding."""
    places = attention_mask.to(torch.int).argmax(dim=1)
    places = places.unsqueeze(-1).unsqueeze(1).expand(-1, 1, tokens.shape[-1])
    return torch.gather(tokens, 1, places).squeeze(1)


# By the names of sentence-transformers' Pooling.
_POOLINGS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": _pool_mean, "cls": _pool_first}


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

"""A real SentenceTransformerTrainer against the step that is traced, where sentence-transformers is installed.

It is no dependency of the project. With sentence-transformers 6.2.0 all of it passed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import transformers

import inspector
from inspector.records.source import SentenceModule
from inspector.workloads.training.checkpointing import enable_checkpointing
from inspector.workloads.training.sentence_modules import add_sentence_modules
from tests.workloads.test_contrastive import RECIPE, build_encoder, make_batch
from tests.workloads.trainer_events import Recorder, find_arguments, in_any_order_of_frees, list_our_events

NOT_INSTALLED = "needs sentence-transformers and datasets, which the project does not depend on"
WORDS = [f"w{number}" for number in range(100)]


def build_tokenizer(kind: str) -> Any:
    """Return the tokenizer of a kind of encoder with a small vocabulary."""
    if kind == "bert":
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        return transformers.BertTokenizer({word: place for place, word in enumerate([*special, *WORDS])})
    if kind == "t5":
        special = ["<pad>", "</s>", "<unk>", "<extra>"]
        return transformers.T5Tokenizer(
            [*((word, 0.0) for word in special), *((f"▁{word}", -1.0) for word in WORDS)], extra_ids=0
        )
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    return transformers.XLMRobertaTokenizer(
        [*((word, 0.0) for word in special), *((f"▁{word}", -1.0) for word in WORDS)]
    )


def list_their_events(
    kind: str,
    recipe: inspector.Recipe,
    folder: Path,
    adapter: peft.LoraConfig | None = None,
    pooling: str = "mean",
    behind: Sequence[SentenceModule] = (),
) -> list[int]:
    """Return what a SentenceTransformerTrainer with the ranking loss allocates and frees in its second update."""
    datasets = pytest.importorskip("datasets", reason=NOT_INSTALLED)
    library: Any = pytest.importorskip("sentence_transformers", reason=NOT_INSTALLED)
    losses: Any = pytest.importorskip("sentence_transformers.losses", reason=NOT_INSTALLED)
    build_encoder(kind).save_pretrained(folder / "encoder")
    build_tokenizer(kind).save_pretrained(folder / "encoder")
    models: Any = pytest.importorskip("sentence_transformers.models", reason=NOT_INSTALLED)
    encoder = models.Transformer(str(folder / "encoder"))
    pool = models.Pooling(encoder.get_embedding_dimension(), pooling)
    more = [
        models.Normalize()
        if item.kind == "Normalize"
        else models.Dense(item.in_features, item.out_features, bias=item.bias)
        for item in behind
    ]
    model = library.SentenceTransformer(modules=[encoder, pool, *more], device="cpu")
    if adapter is not None:
        model.add_adapter(adapter)
    assert recipe.seq_len is not None
    text = " ".join(WORDS[: recipe.seq_len - (1 if kind == "t5" else 2)])  # beside special tokens
    texts = [text] * (recipe.batch_size * 4 * recipe.gradient_accumulation)
    recorder = Recorder()
    library.SentenceTransformerTrainer(
        model=model,
        args=library.SentenceTransformerTrainingArguments(
            **find_arguments(recipe, recipe.batch_size, folder),
            gradient_checkpointing=bool(recipe.gradient_checkpointing),
        ),
        train_dataset=datasets.Dataset.from_dict({"anchor": texts, "positive": texts}),
        loss=losses.MultipleNegativesRankingLoss(model),
        callbacks=[recorder],
    ).train()
    return recorder.list_events()


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
@pytest.mark.parametrize(
    "changes", [{}, {"gradient_accumulation": 2}, {"mixed_precision": "bf16"}], ids=["plain", "accumulation", "bf16"]
)
@pytest.mark.filterwarnings("ignore")
def test_an_update_of_a_sentence_transformer_trainer_allocates_and_frees_what_ours_does(
    kind: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    recipe = dataclasses.replace(RECIPE, **changes)
    theirs = list_their_events(kind, recipe, tmp_path)
    model = build_encoder(kind)
    ours = list_our_events(model, make_batch(model, recipe), recipe)
    if recipe.mixed_precision == "no":
        assert ours == theirs
    else:
        assert in_any_order_of_frees(ours) == in_any_order_of_frees(theirs)


@pytest.mark.filterwarnings("ignore")
def test_an_update_of_an_adapter_with_checkpointing_allocates_and_frees_what_ours_does(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, gradient_checkpointing=True)
    config = peft.LoraConfig(r=8, target_modules=["query", "value"], task_type="FEATURE_EXTRACTION")
    theirs = list_their_events("bert", recipe, tmp_path, config)
    base = build_encoder("bert")
    batch = make_batch(base, recipe)
    enable_checkpointing(base, dataclasses.replace(recipe, use_reentrant=False))
    assert list_our_events(peft.get_peft_model(base, config).train(), batch, recipe) == theirs


@pytest.mark.filterwarnings("ignore")
def test_an_update_with_the_first_token_of_each_text_allocates_and_frees_what_ours_does(tmp_path: Path) -> None:
    theirs = list_their_events("bert", RECIPE, tmp_path, pooling="cls")
    model = build_encoder("bert", sentence_pooling="cls")
    assert list_our_events(model, make_batch(model, RECIPE), RECIPE) == theirs


BEHIND = (
    SentenceModule(kind="Dense", in_features=64, out_features=48, activation="Tanh", bias=True),
    SentenceModule(kind="Dense", in_features=48, out_features=16, activation="Tanh"),
    SentenceModule(kind="Normalize"),
)


@pytest.mark.parametrize("has_adapter", [False, True], ids=["whole", "adapter"])
@pytest.mark.filterwarnings("ignore")
def test_an_update_with_modules_behind_the_pooling_allocates_and_frees_what_ours_does(
    has_adapter: bool, tmp_path: Path
) -> None:
    """They are trained also where the encoder has an adapter."""
    adapter = peft.LoraConfig(r=8, target_modules=["query"], task_type="FEATURE_EXTRACTION") if has_adapter else None
    theirs = list_their_events("bert", RECIPE, tmp_path, adapter, behind=BEHIND)
    base = build_encoder("bert", sentence_modules=BEHIND)
    batch = make_batch(base, RECIPE)
    model = base if adapter is None else peft.get_peft_model(base, adapter).train()
    add_sentence_modules(base)
    assert in_any_order_of_frees(list_our_events(model, batch, RECIPE)) == in_any_order_of_frees(theirs)


@pytest.mark.filterwarnings("ignore")
def test_an_update_of_an_encoder_of_t5_allocates_and_frees_what_ours_does(tmp_path: Path) -> None:
    theirs = list_their_events("t5", RECIPE, tmp_path)
    model = build_encoder("t5")
    assert list_our_events(model, make_batch(model, RECIPE), RECIPE) == theirs

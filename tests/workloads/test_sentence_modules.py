"""What sentence-transformers runs behind a pooling, and encoders that are no class of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

import inspector
from inspector.records.checkpoint import StoredFile
from inspector.records.tape import Category
from inspector.source.recognize.sentence_modules import find_sentence_modules
from tests.trace.small_models import COMMON

ENCODER = transformers.BertConfig(architectures=["BertModel"], dtype="float32", **COMMON)
RECIPE = inspector.Recipe(batch_size=4, seq_len=16)
KIND = "sentence_transformers.models"
DENSE = {
    "in_features": 64,
    "out_features": 1000,
    "bias": False,
    "activation_function": "torch.nn.modules.linear.Identity",
}


def write_modules(folder: Path, dense: dict[str, Any], *behind: str) -> None:
    """Write an encoder whose modules.json has these classes behind the pooling, each in a folder of its place."""
    ENCODER.save_pretrained(folder)
    names = ["Transformer", "Pooling", *behind]
    listed: list[dict[str, Any]] = [
        {"idx": place, "path": f"{place}_{name}", "type": f"{KIND}.{name}"} for place, name in enumerate(names)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    for item in listed:
        (folder / item["path"]).mkdir(exist_ok=True)
        (folder / item["path"] / "config.json").write_text(json.dumps(dense if item["type"].endswith("Dense") else {}))


def read_step(folder: Path, **options: Any) -> tuple[dict[str, int], str]:
    """Return what is alive at the peak by category, and what is said of the loss."""
    report = inspector.inspect(folder, recipe=RECIPE, gpu="a100-80gb", advice=False, **options)
    assert report.memory is not None, report.warnings
    (message,) = (item.message for item in report.warnings if item.code == "in-batch-negatives")
    return {category.value: size for category, size in report.memory.peak.breakdown.items()}, message


def test_a_dense_behind_the_pooling_is_loaded_and_trained_and_is_no_part_of_p(tmp_path: Path) -> None:
    """64,000 weights of 4 bytes, two moments of each, and a step count, which takes a block of 512 bytes."""
    write_modules(tmp_path, DENSE)
    bare, said = read_step(tmp_path)
    assert "Behind it" not in said
    write_modules(tmp_path, DENSE, "Dense", "Normalize")
    with_dense, said = read_step(tmp_path)
    assert with_dense["weights"] - bare["weights"] == 64_000 * 4
    assert with_dense["optimizer"] - bare["optimizer"] == 2 * 64_000 * 4 + 512
    assert "Behind it run Dense 64 to 1,000 and Normalize of modules.json: 64,000 parameters that are trained" in said
    # The library freezes the encoder alone where that has an adapter.
    lora = inspector.LoraOptions(r=2, targets=["query"])
    adapter = inspector.inspect(tmp_path, recipe=RECIPE, peft=lora, gpu="a100-80gb", advice=False)
    assert adapter.memory is not None
    state = 2 * 4 * (adapter.parameters.trainable + 64_000)
    assert state <= adapter.memory.peak.breakdown[Category.OPTIMIZER] <= state + 20 * 512


def test_what_is_not_known_behind_the_pooling_is_named(tmp_path: Path) -> None:
    write_modules(tmp_path, {**DENSE, "use_residual": True}, "Dense", "LayerNorm")
    assert "Not traced: Dense, LayerNorm." in read_step(tmp_path)[1]


@pytest.mark.parametrize(
    "content",
    [b"{}", b"[", b'[{"type": "x.Pooling"}, {"type": "x.Dense", "path": "../secret"}]', b"[" + b"{}," * 40 + b"{}]"],
)
def test_modules_that_make_no_sense_are_left_out(content: bytes) -> None:
    class Reader:
        def read_whole(self, name: str, most_bytes: int) -> bytes:
            assert name == "modules.json"
            return content

        def read_part(self, name: str, start: int, length: int) -> tuple[bytes, int | None]:
            raise AssertionError(name)

    assert find_sentence_modules([StoredFile(name="modules.json", bytes=1)], Reader()) == ()


T5: dict[str, Any] = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_heads": 4, "num_layers": 2, "vocab_size": 128}
GEMMA: dict[str, Any] = {**COMMON, "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 8}


@pytest.mark.parametrize(
    "config",
    [
        transformers.T5Config(architectures=["T5EncoderModel"], **T5),
        transformers.Gemma3TextConfig(architectures=["Gemma3TextModel"], use_bidirectional_attention=True, **GEMMA),
    ],
    ids=["the encoder of T5", "a decoder in which every token sees all others"],
)
def test_other_encoders_are_traced_with_in_batch_negatives(config: Any) -> None:
    report = inspector.inspect(config, recipe=RECIPE, gpu="t4", advice=False)
    assert report.training is not None, report.warnings
    assert "in-batch-negatives" in {item.code for item in report.warnings}


def test_a_decoder_without_a_head_is_no_encoder() -> None:
    config = transformers.Gemma3TextConfig(architectures=["Gemma3TextModel"], **GEMMA)
    assert inspector.inspect(config, recipe=RECIPE, gpu="t4", advice=False).memory is None

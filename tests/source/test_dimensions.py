"""What is said of a model while its libraries load."""

from __future__ import annotations

from typing import Any

import pytest

from inspector.pipeline import run
from inspector.records.request import Request
from inspector.records.source import ServedFrom, SourceFiles
from inspector.source.dimensions import describe_files


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"model_type": "qwen2", "num_hidden_layers": 64, "hidden_size": 5120, "vocab_size": 152064},
            "org/name from the Hub, qwen2, 64 layers, hidden size 5,120, vocabulary 152,064",
        ),
        (
            {"model_type": "gpt2", "n_layer": 12, "n_embd": 768},
            "org/name from the Hub, gpt2, 12 layers, hidden size 768",
        ),
        (
            {"model_type": "llava", "text_config": {"num_hidden_layers": 2, "num_local_experts": 8}},
            "org/name from the Hub, llava, 2 layers, 8 experts",
        ),
        ({"model_type": 3, "num_hidden_layers": "x", "hidden_size": True, "text_config": 5}, "org/name from the Hub"),
        ({"model_type": "a\nb"}, "org/name from the Hub, a b"),
    ],
)
def test_a_line_says_what_the_configuration_says(config: dict[str, Any], said: str) -> None:
    """Whatever it holds: it is not checked yet."""
    assert describe_files(SourceFiles(id="org/name", served_from=ServedFrom.HUB, config=config)) == said


def test_the_model_is_named_before_its_libraries_load() -> None:
    """The first stages of a report."""
    stages: list[str] = []
    run(Request(model="Qwen/Qwen2.5-0.5B", offline=True, count_only=True), stages.append)
    line = "Qwen/Qwen2.5-0.5B from the bundled catalogue, qwen2, 24 layers, hidden size 896, vocabulary 151,936"
    assert stages[:3] == ["reading the configuration", line, "loading transformers and PEFT"]

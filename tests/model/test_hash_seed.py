"""Which models take their layer types in the order of a set, and that their tapes are the ones that the seed moves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from inspector.model.hash_seed import loops_over_set_of_layer_types

ROOT = Path(__file__).parents[2]
BOTH = ["full_attention", "sliding_attention"]


@pytest.mark.parametrize(
    "source",
    [
        "for kind in set(self.config.layer_types):\n    make(kind)",
        "masks = {kind: make(kind) for kind in set(config.layer_types)}",
        "tables = [make(kind) for kind in frozenset(layer_types)]",
        "self.kinds = set(self.config.layer_types)\nfor kind in self.kinds:\n    make(kind)",
        "self.kinds = list(set(config.layer_types))\nfor number, kind in enumerate(self.kinds):\n    make(kind)",
    ],
)
def test_a_loop_over_a_set_of_layer_types_is_found(source: str) -> None:
    assert loops_over_set_of_layer_types(source)


@pytest.mark.parametrize(
    "source",
    [
        "for kind in config.layer_types:\n    make(kind)",
        "for kind in sorted(set(config.layer_types)):\n    make(kind)",
        "for kind in dict.fromkeys(config.layer_types):\n    make(kind)",
        "kinds = sorted(set(config.layer_types))\nfor kind in kinds:\n    make(kind)",
        "many = len(set(config.layer_types)) > 1\nfor layer in self.layers:\n    layer(many)",
        "for name in set(config.names):\n    make(name)",
        "text = 'for kind in set(config.layer_types)'",
    ],
)
def test_a_loop_with_an_order_of_its_own_is_not_found(source: str) -> None:
    assert not loops_over_set_of_layer_types(source)


# Prints, for every model, the layer types that are found and a digest of the tape of its step.
SCRIPT = """
import hashlib, json
import torch, transformers
from inspector.model.hash_seed import find_hash_ordered_layer_types
from inspector.records.recipe import Recipe
from tests.trace.small_models import COMMON, SMALL
from tests.workloads.tracing import trace

found = []
for name, types in json.loads(input()):
    fields = {**COMMON, **SMALL["gemma3_text"].fields, "layer_types": types}
    config = transformers.AutoConfig.for_model(name, **fields)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    reported = find_hash_ordered_layer_types(model)
    tape = trace(model, Recipe(seq_len=64))
    text = repr([(event.kind, event.block, event.bytes) for event in tape])
    found.append([list(reported), hashlib.sha256(text.encode()).hexdigest()])
print(json.dumps(found))
"""


def run_python(seed: int, source: str, given: str = "") -> str:
    """Return what a fresh interpreter prints under a hash seed."""
    environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
    command = [sys.executable, "-W", "ignore", "-c", source]
    done = subprocess.run(command, cwd=ROOT, env=environment, input=given, capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def seeds() -> tuple[int, int]:
    """Return two seeds under which a set of both layer types has two orders."""
    orders: dict[str, int] = {}
    for seed in range(64):
        orders.setdefault(run_python(seed, f"print(list(set({BOTH})))"), seed)
        if len(orders) == 2:
            return min(orders.values()), max(orders.values())
    raise AssertionError(orders)


def test_the_tapes_that_the_seed_changes_are_those_of_the_models_that_are_reported(seeds: tuple[int, int]) -> None:
    mixed = ["sliding_attention", "sliding_attention", "full_attention"]
    one_type = ["full_attention"] * 3
    asked = [(name, mixed) for name in ("gemma3_text", "olmo3", "gemma2", "smollm3", "modernbert-decoder")]
    asked += [(name, one_type) for name in ("gemma3_text", "olmo3")]
    one, other = (json.loads(run_python(seed, SCRIPT, json.dumps(asked))) for seed in seeds)
    reported = [model for model, (types, _) in zip(asked, one, strict=True) if types]
    changed = [model for model, (_, tape), (_, its) in zip(asked, one, other, strict=True) if tape != its]
    assert reported == changed == [(name, mixed) for name in ("gemma3_text", "olmo3", "modernbert-decoder")]
    assert {tuple(types) for types, _ in [*one, *other]} == {(), tuple(BOTH)}

"""A model whose modules lie on several cards: what each card takes, what waits on the CPU, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inspector.distributed.device_map import Placement, trace_cards
from inspector.hardware.platform import Platform
from inspector.records.recipe import Recipe
from inspector.records.steps.ranks import DeviceMap
from inspector.records.tape import EventKind, Phase
from inspector.workloads.registry import TRAINING, load_workload
from tests.cli.running import run
from tests.evidence.truth.trainer_rows import build
from tests.planning.test_fewest_cards import SMALL
from tests.workloads.tracing import built

COPY = "_to_copy"


def ask(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the JSON of a report."""
    ran = run(SMALL, *arguments, "--seq-len", "16", "--offline", "--no-advice", "--json")
    return ran.code, ran.report


def test_a_module_lies_where_the_nearest_one_that_the_map_names_does() -> None:
    placement = Placement({"model.layers.0": 0, "model.layers.1": 1, "model.layers.1.mlp": 2, "lm_head": -1})
    names = ("model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj", "model.layers.10", "lm_head")
    assert [placement.find(name) for name in names] == [1, 2, 0, -1]


def test_each_card_has_its_own_figures_and_the_report_is_of_the_one_that_takes_most() -> None:
    code, report = ask("--gpu", "2x4090", "--device-map", "auto", "--lora", "r=8")
    ranks, (verdict,) = report["training"]["ranks"], report["fit"]
    assert code == 0
    assert ranks["strategy"].startswith("device_map auto, by transformers")
    assert sorted((item["first"], item["last"]) for item in ranks["classes"]) == [(0, 0), (1, 1)]
    assert ranks["rank"] == ranks["classes"][0]["first"]
    assert ranks["classes"][0]["peak_reserved_bytes"] == report["training"]["peak_reserved_bytes"]
    assert "NCCL" not in [item["what"] for item in verdict["uncertainty"]]
    alone = ask("--gpu", "4090", "--lora", "r=8")[1]["training"]
    both = sum(item["peak_allocated_bytes"] for item in ranks["classes"])
    assert max(item["peak_allocated_bytes"] for item in ranks["classes"]) < alone["peak_allocated_bytes"] < both


def test_what_the_card_does_not_hold_waits_on_the_cpu_for_inference_and_is_not_trained() -> None:
    """28 layers and embeddings of 269 MB on a card that has 130 MB beside its context."""
    card = ("--gpu-memory", "800MiB", "--device-map", "auto", "--margin", "0MiB")
    code, report = ask(*card, "--workload", "forward")
    assert report["forward"]["host_bytes"] > 50_000_000
    assert code == 0
    ran = run(SMALL, *card, "--seq-len", "16", "--offline", "--no-advice", "--json")
    assert ran.code == 4
    assert "leaves on the CPU are not trained there" in json.loads(ran.out)["fit"][0]["reason"]


def test_a_generation_keeps_keys_and_values_of_each_layer_on_its_card() -> None:
    ran = run(
        SMALL, "--gpu", "2x4090", "--device-map", "auto", "--generate", "--new-tokens", "4", "--offline", "--no-advice"
    )
    assert (ran.code, "the largest of 2 cards, device_map auto" in " ".join(ran.out.split())) == (0, True)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ('{"": "disk"}', "on a disk, which is not traced"),
        ('{"": 2}', "and there are 2 cards"),
        ('{"model.layers": 0}', "leaves out"),
        ("nowhere.json", "there is no file"),
        ('{"": null}', "--device-map is"),
    ],
)
def test_a_map_that_cannot_be_is_refused_in_one_line(given: str, words: str) -> None:
    ran = run(SMALL, "--gpu", "2x4090", "--device-map", given, "--offline")
    assert (ran.code, len(ran.err.splitlines())) == (2, 1), ran.err
    assert words in ran.err


@pytest.mark.filterwarnings("ignore")
def test_norms_of_gradients_are_sent_to_the_card_of_the_first() -> None:
    cards = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 1, "model.norm": 1, "lm_head": 0}
    row: dict[str, Any] = {"model": SMALL, "layers": 2, "dtype": "bfloat16", "recipe": {}}
    launch = DeviceMap(world_size=2, device_map={**cards, "model.rotary_emb": 0}, card_bytes=10**10)
    known, workload = built(build(row)), load_workload(TRAINING)
    recipe = workload.resolve(known.model, Recipe(seq_len=16))
    first, second = trace_cards(workload, known, build(row), recipe, Platform(torch_version=(2, 13)), launch)
    sent = [
        [
            event
            for event in tape
            if (event.kind, event.step, event.phase, event.bytes) == (EventKind.ALLOCATE, 1, Phase.OPTIMIZER, 2)
            and COPY in event.op
        ]
        for tape in (first, second)
    ]
    assert len(sent[0]) == 10  # nine parameters of a layer, and the last norm
    assert len(sent[1]) <= 1  # what its gradients are multiplied by


def test_a_map_and_shards_exclude_each_other(tmp_path: Path) -> None:
    ran = run(SMALL, "--gpu", "2x4090", "--device-map", "auto", "--fsdp", "--offline")
    assert (ran.code, len(ran.err.splitlines())) == (2, 1), ran.err

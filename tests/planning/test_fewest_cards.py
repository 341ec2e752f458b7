"""`--fit gpus`: the least number of cards is one that fits beside one that does not, both traced."""

from __future__ import annotations

import dataclasses

import pytest

from inspector.arguments.forms import build_request
from inspector.errors import UsageError
from inspector.hardware.selection import select_gpus
from inspector.planning.fewest_cards import find_fewest_cards
from inspector.predict.predictor import Predictor
from inspector.records.fit import Search
from inspector.resolve import ResolvedRun, resolve_run
from inspector.source.read import read_files
from tests.cli.running import run

SMALL = "HuggingFaceTB/SmolLM2-135M"


def make_run(memory: str, **arguments: object) -> tuple[ResolvedRun, Predictor]:
    """Return a run of short sequences on cards of some memory, which no context is taken of."""
    settings: dict[str, object] = {"sharding": "fsdp", "recipe": {"seq_len": 64}, "offline": True, **arguments}
    request, _ = build_request(model=SMALL, gpu_memory=memory, margin="0MiB", **settings)
    files = read_files(request, lambda _stage: None)
    run = resolve_run(request, select_gpus(request).first, {})
    return dataclasses.replace(run, files=files), Predictor(files)


def search(memory: str, **arguments: object) -> Search:
    return find_fewest_cards(*make_run(memory, **arguments), lambda _stage: None)


def test_the_least_number_fits_and_one_less_does_not() -> None:
    resolved, predictor = make_run("1.2GiB")
    found = find_fewest_cards(resolved, predictor, lambda _stage: None)
    assert (found.value, found.fails) == (4, 3)
    for count, fits in ((4, True), (3, False)):
        assert predictor.predict(resolved.with_cards(count)).judge().fits is fits
    assert [tried.value for tried in found.tried if not tried.fits] == [1, 2, 3]


@pytest.mark.parametrize("count", [2, 8])
def test_the_report_of_a_sharded_run_says_the_same_number(count: int) -> None:
    options = ("--gpu-memory", "1.2GiB", "--margin", "0MiB", "--fsdp", "--seq-len", "64", "--offline")
    ran = run(SMALL, *options, "--gpus", str(count))
    assert "at least 4 cards are needed" in " ".join(ran.out.split()), ran.err
    without = run(SMALL, *options, "--gpus", str(count), "--no-advice")
    assert "--fit gpus finds how many it takes" in " ".join(without.out.split())


def test_a_search_for_the_number_of_cards_is_not_proposed_where_it_was_made() -> None:
    options = ("--gpu-memory", "1.2GiB", "--margin", "0MiB", "--fsdp", "--seq-len", "64", "--offline", "--no-advice")
    ran = run(SMALL, *options, "--fit", "gpus", "--show", "fit")
    assert "4 cards fit" in " ".join(ran.out.split()), ran.err
    assert "--fit gpus finds" not in " ".join(ran.out.split())


def test_where_more_cards_take_off_no_more_the_search_ends() -> None:
    """Of long sequences logits and activations are what counts, and each rank has all of its own."""
    found = search("1GiB", recipe={"seq_len": 4096})
    assert found.value is None
    assert found.fails == found.tried[-1].value == 16


def test_a_run_whose_ranks_are_not_traced_has_no_least_number() -> None:
    for arguments in (
        {"sharding": None},
        {"sharding": "zero2"},
        {"sharding": "fsdp", "quantization": "int8", "peft": {"peft_type": "LORA"}},
    ):
        with pytest.raises(UsageError, match="`fit` gpus searches how many cards"):
            search("24GiB", **arguments)

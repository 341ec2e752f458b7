"""Ranks of `inspect measure`, without a GPU: which one a process is, and what it runs, with the others and alone."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

from inspector.errors import UsageError
from inspector.measure.ranks.group import begin_group, gather
from inspector.measure.ranks.launches import describe_launch, find_launch
from inspector.measure.ranks.place import Place, find_place
from inspector.measure.ranks.running import run_rank_steps
from inspector.records.recipe import Recipe
from inspector.records.request import Request
from inspector.records.steps.ranks import Ddp, Fsdp2, RankLaunch
from inspector.records.tape import Phase
from inspector.resolve import resolve_run
from inspector.workloads.registry import TRAINING, load_workload
from tests.measure.test_running import Noted
from tests.trace.small_models import RECIPE, build
from tests.workloads.tracing import built

CPU = torch.device("cpu")
LAUNCHED = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}


def ask(rank: int | None = None, environment: Mapping[str, str] | None = None, **settings: Any) -> Place | None:
    """Return which rank a request is of."""
    return find_place(Request(model="x", **settings), rank, environment or {})


def test_a_process_is_the_rank_that_its_launcher_says_and_else_the_one_that_is_asked_for() -> None:
    assert ask() is None
    assert ask(environment={"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}) is None
    assert ask(environment=LAUNCHED) == Place(rank=1, world_size=2, local_rank=1, has_others=True)
    assert ask(environment=LAUNCHED, gpu_count=2, sharding="fsdp") == ask(environment=LAUNCHED)
    assert ask(3, gpu_count=8, sharding="fsdp") == Place(rank=3, world_size=8)
    assert ask(gpu_count=8) == Place(rank=0, world_size=8)
    assert ask(sharding="fsdp") == Place(rank=0, world_size=1)


@pytest.mark.parametrize(
    ("rank", "environment", "settings", "says"),
    [
        (8, {}, {"gpu_count": 8}, "`rank` 8 of 8 is none: give one of 0 to 7"),
        (1, {}, {}, "`rank` 1 is one of several: add `gpu_count`"),
        (0, LAUNCHED, {}, "`rank` 0 is one of 2 that a launcher started"),
        (None, LAUNCHED, {"gpu_count": 8}, "WORLD_SIZE says that 2 ranks were launched, and `gpu_count` is 8"),
        (None, {**LAUNCHED, "RANK": "one"}, {}, "RANK is 'one', and a launcher sets a number"),
        (None, {}, {"gpu_count": 2**20}, "`gpu_count` is 1,048,576; ranks of up to 4,096 cards are traced"),
    ],
)
def test_a_rank_that_cannot_be_is_refused(
    rank: int | None, environment: dict[str, str], settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says.replace("(", r"\(")):
        ask(rank, environment, **settings)


def test_ranks_that_say_nothing_alone_and_those_that_are_not_traced_are_refused() -> None:
    def find(has_others: bool = False, **settings: Any) -> RankLaunch:
        recipe = Recipe(**{name: settings.pop(name) for name in list(settings) if hasattr(Recipe(), name)})
        request = Request(model="x", gpu_count=2, recipe=recipe, **settings)
        run = dataclasses.replace(resolve_run(request, None, {}, 2), is_rank=True)
        return find_launch(run, has_others=has_others)

    assert find(sharding="fsdp") == Fsdp2(world_size=2)
    assert find(has_others=True, mixed_precision="fp16") == Ddp(world_size=2)
    with pytest.raises(UsageError, match="skips an update whose gradients overflow"):
        find(mixed_precision="fp16")
    with pytest.raises(UsageError, match="is not traced, so that there is nothing to measure"):
        find(stage="dpo")
    assert describe_launch(Ddp(world_size=2), 1, "nccl") == {
        "strategy": "ddp",
        "world_size": 2,
        "rank": 1,
        "group": "nccl",
    }


def run_rank(place: Place, launch: RankLaunch, recipe: Recipe) -> list[Any]:
    """Run a small model as a rank on the CPU; return the phases of all ranks and whether its weights are shards."""
    watcher = Noted()
    known = built(build("meta", "llama")[0])
    with begin_group(place, CPU):
        run_rank_steps(load_workload(TRAINING), known, recipe, CPU, watcher, launch, has_others=place.has_others)
        shards = [item.to_local().shape[0] for item in known.model.parameters() if isinstance(item, DTensor)]
        return gather([len(watcher.phases), sum(shards)], place)


@pytest.mark.filterwarnings("ignore")
def test_a_rank_runs_alone_on_a_group_that_sends_nothing() -> None:
    recipe = dataclasses.replace(RECIPE, optimizer="adamw_torch", gradient_accumulation=2)
    count = 1 + 2 * 5 + 1  # loading, two updates of two micro-batches, the end
    whole, sharded = (
        run_rank(Place(rank=rank, world_size=size), launch, recipe)
        for rank, size, launch in ((0, 2, Ddp(world_size=2)), (3, 4, Fsdp2(world_size=4)))
    )
    assert whole == [[count, 0]]
    assert sharded[0][0] == count
    assert sharded[0][1] > 0
    assert not torch.distributed.is_initialized()


def run_child(rank: int, port: int, output: int) -> None:
    """Run a rank of two as torchrun starts it, and write what it gathered."""
    torch.set_num_threads(1)
    environment = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **environment}
    place = ask(environment=environment)
    assert place is not None
    assert place.has_others
    recipe = dataclasses.replace(RECIPE, optimizer="adamw_torch")
    os.write(output, json.dumps(run_rank(place, Fsdp2(world_size=2), recipe)).encode())


@pytest.mark.filterwarnings("ignore")
def test_two_ranks_of_a_launcher_run_together_and_each_has_what_both_took() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(2):
        source, sink = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                run_child(rank, port, sink)
                status = 0
            finally:
                os._exit(status)
        os.close(sink)
        children.append((child, source))
    found = []
    for child, source in children:
        with os.fdopen(source, "rb") as stream:
            found.append(json.loads(stream.read() or b"null"))
        assert os.waitpid(child, 0)[1] == 0
    phases = 1 + 2 * len((Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER)) + 1
    assert found[0] == found[1]
    assert [count for count, _ in found[0]] == [phases, phases]

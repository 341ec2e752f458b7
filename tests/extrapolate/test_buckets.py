"""Where layers share the buckets of DDP a whole model is traced: those of a shallow one are no piece of a layer."""

from __future__ import annotations

import pytest

from inspector.extrapolate.buckets import widens_buckets
from inspector.records.tape import Category, Event, EventKind, Phase
from tests.planning.test_fewest_cards import make_run

MIB = 2**20
SEND, MAKE = "aten.cat.default", "aten.empty.memory_format"


def make(op: str, *sizes: int, step: int = 0) -> list[Event]:
    """Return buckets of these sizes in MiB."""
    return [
        Event(
            kind=EventKind.ALLOCATE,
            block=index,
            bytes=size * MIB,
            phase=Phase.FORWARD if step else Phase.LOAD,
            step=step,
            op=op,
            category=Category.COMMUNICATION if not step else Category.TEMPORARIES,
        )
        for index, size in enumerate(sizes)
    ]


@pytest.mark.parametrize(
    ("shallow", "whole", "is_wider"),
    [
        (make(SEND, 60), make(SEND, 240), False),
        (make(SEND, 60), make(SEND, 300), True),
        (make(SEND, 300), make(SEND, 300), False),
        (make(MAKE, 90), make(MAKE, 900), False),  # one with everything
        (make(MAKE, 7, 5), make(MAKE, 7, 20), False),
        (make(MAKE, 7, 5), make(MAKE, 7, 30), True),
        (make(MAKE, 5, step=2), make(MAKE, 30, step=2), True),
    ],
)
def test_a_bucket_is_wider_than_ddp_lets_one_be_only_where_a_layer_alone_is(
    shallow: list[Event], whole: list[Event], is_wider: bool
) -> None:
    assert widens_buckets(shallow, whole) is is_wider


@pytest.mark.filterwarnings("ignore")
def test_a_small_models_rank_under_ddp_has_the_buckets_of_all_its_layers() -> None:
    run, predictor = make_run("24GiB", sharding=None)
    run = run.with_cards(2)
    found = predictor.predict(run)
    assert len(found.template.traced) == len(found.tape)
    made = [event.bytes for event in found.tape if event.category is Category.COMMUNICATION and event.op == MAKE]
    assert [size for size in made if size > 26 * MIB] == [49_152 * 576 * 2]  # the embedding, larger than a bucket

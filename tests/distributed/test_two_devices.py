"""A card and its host on meta: where tensors lie, what moves between the two takes, and what waits on the host."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from inspector.distributed.tracer import RankTracer
from inspector.distributed.two_devices import pin, tell_host_from_card
from inspector.distributed.world import begin_world
from inspector.hardware.platform import Platform
from inspector.records.tape import EventKind
from inspector.runtime.patches import restore_changes


@pytest.fixture
def tracer() -> Iterator[RankTracer]:
    """Yield an active tracer of a rank whose card and host are told apart."""
    with begin_world(2, 0) as streams, restore_changes():
        found = RankTracer(Platform(torch_version=(2, 13)), {}, streams=streams)
        tell_host_from_card(found)
        with found:
            yield found


def list_made(tracer: RankTracer, kind: EventKind) -> list[int]:
    """Return the sizes of the blocks that were made on the card, or on the host."""
    return [event.bytes for event in tracer.tape() if event.kind is kind]


def test_a_tensor_says_whether_it_lies_on_the_host_and_comes_to_the_card_as_a_block(tracer: RankTracer) -> None:
    kept = torch.zeros(1000, device="cpu")
    assert (kept.device.type, torch.zeros_like(kept).device.type, kept.mul(2).device.type) == ("cpu", "cpu", "cpu")
    assert list_made(tracer, EventKind.ALLOCATE) == []
    moved = kept.to("meta")
    assert (moved.device.type, moved.cpu().device.type, kept.to("cpu") is kept) == ("meta", "cpu", True)
    assert list_made(tracer, EventKind.ALLOCATE) == [4000]


def test_a_copy_that_does_not_block_is_converted_on_the_card_and_another_on_the_host(tracer: RankTracer) -> None:
    """Source: native/cuda/Copy.cu, `copy_kernel_cuda`. To the host the card holds the result, from it the source."""
    kept, given = torch.empty(1000, device="cpu"), torch.empty(1000, dtype=torch.bfloat16, device="meta")
    kept.copy_(given)
    assert list_made(tracer, EventKind.ALLOCATE) == [2000]
    kept.copy_(given, non_blocking=True)
    given.copy_(kept, non_blocking=True)
    given.copy_(kept.to(torch.bfloat16), non_blocking=True)
    assert list_made(tracer, EventKind.ALLOCATE) == [2000, 4000, 4000]


def test_pinned_blocks_are_powers_of_two(tracer: RankTracer) -> None:
    kept = pin(tracer, torch.empty(1025, device="cpu"))
    assert kept.device.type == "cpu"
    assert list_made(tracer, EventKind.HOST_ALLOCATE) == [4100, 8192]
    assert [event.bytes for event in tracer.tape() if event.kind is EventKind.HOST_FREE] == [4100]

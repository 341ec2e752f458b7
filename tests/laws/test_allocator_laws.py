"""Laws of the caching allocator over random tapes, and agreement with a second, naive account of its rules.

test_allocator_recorded.py holds it against the real library.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.memory.allocator.caching import Block, CachingAllocator
from inspector.memory.allocator.settings import MIB, AllocatorSettings
from tests.memory.naive_allocator import FREE, USED, NaiveAllocator
from tests.memory.test_allocator import CUBLAS, EXPANDABLE, figures

SIZES = st.one_of(
    st.sampled_from([1, 512, 513, MIB - 1, MIB, MIB + 1, 10 * MIB - 1, 10 * MIB, 19 * MIB, 20 * MIB, 30 * MIB, CUBLAS]),
    st.integers(1, 4096),
    st.integers(1, 2 * MIB),
    st.integers(MIB, 70 * MIB),
)
# A positive number is a request; 0 empties the cache; -n frees one of the live blocks, chosen by n.
TAPES = st.lists(st.one_of(SIZES, SIZES, st.just(0), st.integers(-(10**6), -1), st.integers(-(10**6), -1)), max_size=80)
ALLOCATORS: dict[str, Callable[[], CachingAllocator]] = {
    "default": CachingAllocator,
    "expandable": lambda: CachingAllocator(EXPANDABLE),
    "split": lambda: CachingAllocator(AllocatorSettings(max_split_bytes=20 * MIB)),
    "power2": lambda: CachingAllocator(AllocatorSettings(roundup_power2_divisions=(4,) * 16)),
    "limited": lambda: CachingAllocator(limit_bytes=128 * MIB),
    "limited expandable": lambda: CachingAllocator(EXPANDABLE, limit_bytes=128 * MIB),
}


def replay(allocator: CachingAllocator, tape: list[int]) -> list[tuple[int, ...]]:
    """Run a tape, checking the laws after every event; return the figures after each."""
    live: list[Block] = []
    states = []
    for step in tape:
        if step > 0:
            block = allocator.allocate(step)
            if isinstance(block, Block):
                assert block.size >= step
                live.append(block)
        elif step == 0:
            allocator.empty_cache()
        elif live:
            allocator.free(live.pop(-step % len(live)))
        assert 0 <= allocator.requested_bytes <= allocator.allocated_bytes <= allocator.reserved_bytes
        assert allocator.allocated_bytes == sum(block.size for block in live)
        assert allocator.allocated_bytes <= allocator.max_allocated_bytes
        assert allocator.reserved_bytes <= allocator.max_reserved_bytes
        check_places(live)
        states.append((*figures(allocator), allocator.requested_bytes, *(block.address for block in live)))
    for block in live:
        allocator.free(block)
    assert figures(allocator)[0] == allocator.requested_bytes == 0
    allocator.empty_cache()
    assert figures(allocator) == (0, 0)
    return states


def check_places(live: list[Block]) -> None:
    """Assert that live blocks do not overlap, are aligned, and lie in a chain without gaps."""
    ends = 0
    for block in sorted(live, key=lambda one: one.address):
        assert block.address >= ends
        assert block.address % 512 == block.size % 512 == 0
        ends = block.address + block.size
        assert block.mapped
        if block.next is not None:
            assert block.next.address == ends
            assert block.next.prev is block


@pytest.mark.parametrize("kind", ALLOCATORS)
@settings(max_examples=60, deadline=None)
@given(tape=TAPES)
def test_laws_hold_after_every_event_and_replay_is_deterministic(kind: str, tape: list[int]) -> None:
    """Nothing is negative, allocated fits into reserved, blocks are disjoint, and everything can be given back."""
    assert replay(ALLOCATORS[kind](), tape) == replay(ALLOCATORS[kind](), tape)


@pytest.mark.parametrize("kind", ["default", "expandable", "split", "limited"])
@settings(max_examples=100, deadline=None)
@given(tape=TAPES)
def test_a_naive_account_of_the_rules_agrees_event_by_event(kind: str, tape: list[int]) -> None:
    """Lists and linear scans, written independently, give the same allocated and reserved bytes and failures."""
    ours = ALLOCATORS[kind]()
    naive = NaiveAllocator(
        expandable=kind == "expandable",
        max_split=20 * MIB if kind == "split" else float("inf"),
        limit=128 * MIB if kind == "limited" else float("inf"),
    )
    live: list[tuple[int, Block]] = []
    for number, step in enumerate(tape):
        if step > 0:
            block = ours.allocate(step)
            assert naive.allocate(number, step) is isinstance(block, Block)
            if isinstance(block, Block):
                live.append((number, block))
        elif step == 0:
            ours.empty_cache()
            naive.empty_cache()
        elif live:
            name, freed = live.pop(-step % len(live))
            ours.free(freed)
            naive.free(name)
        assert figures(ours) == (naive.total(USED), naive.total(FREE, USED))

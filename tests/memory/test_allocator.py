"""The rules of the caching allocator one by one, each at its border, with the arithmetic beside it."""

from __future__ import annotations

import pytest

from inspector.memory.allocator.caching import Block, CachingAllocator, OutOfMemory
from inspector.memory.allocator.settings import MIB, AllocatorSettings

# cuBLAS's default workspace, (2 x 4096 + 8 x 16) KiB (cuda-memory-facts.md, section 2).
CUBLAS = 8_519_680
KIB = 1024


def take(allocator: CachingAllocator, size: int) -> Block:
    """Allocate and insist on success."""
    block = allocator.allocate(size)
    assert isinstance(block, Block), block
    return block


def figures(allocator: CachingAllocator) -> tuple[int, int]:
    """Return allocated and reserved."""
    return allocator.allocated_bytes, allocator.reserved_bytes


# --- rounding, pools, segments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "allocated", "reserved"),
    [
        (1, 512, 2 * MIB),
        (512, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),  # the last request of the small pool
        (MIB + 1, MIB + 512, 20 * MIB),  # the first of the large pool
        (10 * MIB - 513, 10 * MIB - 512, 20 * MIB),
        # 10 MiB - 1 rounds to 10 MiB, so its segment is made to measure already.
        (10 * MIB - 1, 10 * MIB, 10 * MIB),
        (10 * MIB, 10 * MIB, 10 * MIB),
        # 10 MiB + 512 in 12 MiB: more than 1 MiB is left over and split off.
        (10 * MIB + 1, 10 * MIB + 512, 12 * MIB),
        # 11 MiB in 12 MiB: exactly 1 MiB is left over, which stays and counts.
        (11 * MIB, 12 * MIB, 12 * MIB),
    ],
)
def test_a_first_request_takes_its_block_and_its_segment(request_bytes: int, allocated: int, reserved: int) -> None:
    """Rounding, pool and segment follow from the size alone."""
    allocator = CachingAllocator()
    take(allocator, request_bytes)
    assert figures(allocator) == (allocated, reserved)
    assert allocator.requested_bytes == request_bytes


def test_small_and_large_requests_never_share_memory() -> None:
    """512 bytes do not go into 20 MiB of which 12 are free."""
    allocator = CachingAllocator()
    take(allocator, 8 * MIB)
    take(allocator, 512)
    assert allocator.reserved_bytes == 22 * MIB


def test_a_small_request_fills_the_free_rest_of_its_segment() -> None:
    """Two of 1 MiB share 2 MiB, the third opens a second segment."""
    allocator = CachingAllocator()
    first, second, third = (take(allocator, MIB) for _ in range(3))
    assert second.address == first.address + MIB
    assert third.address not in range(first.address, first.address + 2 * MIB)
    assert figures(allocator) == (3 * MIB, 4 * MIB)


def test_a_cublas_workspace_leaves_a_rest_that_is_used() -> None:
    """8,519,680 bytes sit at the start of 20 MiB, and 20,971,520 - 8,519,680 = 12,451,840 bytes follow them."""
    allocator = CachingAllocator()
    workspace = take(allocator, CUBLAS)
    assert figures(allocator) == (8_519_680, 20_971_520)
    second = take(allocator, CUBLAS)  # the autograd thread's; 12,451,840 - 8,519,680 = 3,932,160 remain
    assert second.address == workspace.address + 8_519_680
    assert figures(allocator) == (2 * 8_519_680, 20_971_520)
    # 3,932,160 - 2,883,584 = 1,048,576 is exactly 1 MiB, so it is not split off.
    third = take(allocator, 2_883_584)
    assert third.size == 3_932_160
    assert figures(allocator) == (20_971_520, 20_971_520)
    take(allocator, 2 * MIB)
    assert allocator.reserved_bytes == 2 * 20_971_520


def test_an_h100_workspace_is_a_segment_of_its_own() -> None:
    """33,554,432 bytes are 32 MiB, a multiple of 2 MiB."""
    allocator = CachingAllocator()
    take(allocator, 33_554_432)
    assert figures(allocator) == (33_554_432, 33_554_432)


# --- splitting --------------------------------------------------------------------------------------------------------


def test_a_large_rest_of_exactly_1_mib_is_handed_out_and_counts() -> None:
    """19 MiB of 20: the block is 20 MiB, 1 MiB more than asked for."""
    allocator = CachingAllocator()
    first = take(allocator, 5 * MIB)
    second = take(allocator, 14 * MIB)  # of the 15 MiB that follow
    assert (first.size, second.size) == (5 * MIB, 15 * MIB)
    assert figures(allocator) == (20 * MIB, 20 * MIB)
    assert allocator.requested_bytes == 19 * MIB
    allocator.free(second)
    assert allocator.allocated_bytes == 5 * MIB


def test_a_large_rest_above_1_mib_is_split_off() -> None:
    """14 MiB - 512 of the 15 MiB that are left: the rest is 1 MiB + 512."""
    allocator = CachingAllocator()
    take(allocator, 5 * MIB)
    take(allocator, 14 * MIB - 512)
    assert figures(allocator) == (19 * MIB - 512, 20 * MIB)


def test_a_small_rest_of_512_bytes_is_split_off() -> None:
    """2 MiB hold 4,096 blocks of 512 bytes, without a rest that is too small to keep."""
    allocator = CachingAllocator()
    take(allocator, MIB)
    assert take(allocator, MIB - 512).size == MIB - 512
    assert take(allocator, 1).size == 512
    assert figures(allocator) == (2 * MIB, 2 * MIB)


# --- best fit and merging ---------------------------------------------------------------------------------------------


def holes(allocator: CachingAllocator, *sizes: int) -> list[Block]:
    """Return free blocks of these sizes, kept apart by blocks of 1 MiB + 512 bytes."""
    made = []
    for size in sizes:
        made.append(take(allocator, size))
        take(allocator, MIB + 512)
    for block in made:
        allocator.free(block)
    return made


def test_best_fit_takes_the_smallest_block_that_holds_the_request() -> None:
    """Of free 4, 3 and 2 MiB a request of 2.5 MiB takes the 3; what is left over is below 1 MiB and stays with it."""
    allocator = CachingAllocator()
    _, three, _ = holes(allocator, 4 * MIB, 3 * MIB, 2 * MIB)
    block = take(allocator, 2 * MIB + 512 * KIB)
    assert (block.address, block.size) == (three.address, 3 * MIB)


def test_best_fit_takes_the_first_of_equals() -> None:
    """Whatever the order of freeing, the lowest address wins."""
    allocator = CachingAllocator()
    blocks = [take(allocator, 64 * KIB) for _ in range(5)]
    for index in (3, 1):
        allocator.free(blocks[index])
    assert take(allocator, 64 * KIB).address == blocks[1].address
    assert take(allocator, 64 * KIB).address == blocks[3].address


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 0, 2)])
def test_freed_neighbours_merge_in_any_order(order: tuple[int, ...]) -> None:
    """Three of 3 MiB, freed, hold one of 8: 9 - 8 is exactly 1 MiB and stays with it."""
    allocator = CachingAllocator()
    blocks = [take(allocator, 3 * MIB) for _ in range(3)]
    take(allocator, 11 * MIB)
    assert allocator.reserved_bytes == 20 * MIB
    for index in order:
        allocator.free(blocks[index])
    merged = take(allocator, 8 * MIB)
    assert (merged.address, merged.size) == (blocks[0].address, 9 * MIB)
    assert allocator.reserved_bytes == 20 * MIB


def test_blocks_never_merge_across_segments() -> None:
    """Two free segments of 10 MiB do not hold 12 MiB."""
    allocator = CachingAllocator()
    for block in [take(allocator, 10 * MIB) for _ in range(2)]:
        allocator.free(block)
    take(allocator, 12 * MIB)
    assert allocator.reserved_bytes == 32 * MIB


def test_a_block_is_freed_once() -> None:
    """The second free is an error."""
    allocator = CachingAllocator()
    block = take(allocator, 1)
    allocator.free(block)
    with pytest.raises(ValueError, match="not handed out"):
        allocator.free(block)


@pytest.mark.parametrize("size", [0, -1])
def test_a_block_has_at_least_one_byte(size: int) -> None:
    """Torch gives no block to an empty tensor, so nobody asks for one."""
    with pytest.raises(ValueError, match="at least one byte"):
        CachingAllocator().allocate(size)


# --- empty_cache, peaks, limits ---------------------------------------------------------------------------------------


def test_empty_cache_keeps_segments_that_are_split() -> None:
    """A free rest beside a live block stays, a segment that is wholly free goes."""
    allocator = CachingAllocator()
    take(allocator, 5 * MIB)
    allocator.free(take(allocator, 40 * MIB))
    allocator.free(take(allocator, 100))
    assert allocator.reserved_bytes == 62 * MIB
    allocator.empty_cache()
    assert figures(allocator) == (5 * MIB, 20 * MIB)


def test_peaks_start_anew_from_what_is_held() -> None:
    """As after torch.cuda.reset_peak_memory_stats()."""
    allocator = CachingAllocator()
    take(allocator, 30 * MIB)
    allocator.free(take(allocator, 50 * MIB))
    assert (allocator.max_allocated_bytes, allocator.max_reserved_bytes) == (80 * MIB, 80 * MIB)
    allocator.reset_peaks()
    assert (allocator.max_allocated_bytes, allocator.max_reserved_bytes) == (30 * MIB, 80 * MIB)
    allocator.empty_cache()
    allocator.reset_peaks()
    assert (allocator.max_requested_bytes, allocator.max_reserved_bytes) == (30 * MIB, 30 * MIB)


def test_memory_up_to_the_limit_is_used() -> None:
    """40 + 60 MiB fit into 100."""
    allocator = CachingAllocator(limit_bytes=100 * MIB)
    take(allocator, 40 * MIB)
    take(allocator, 60 * MIB)
    assert allocator.retry_count == 0


def test_cached_segments_are_released_before_memory_runs_out() -> None:
    """60 MiB free but too small for 70: with 40 live and a limit of 110 they go, and 40 + 70 fit."""
    allocator = CachingAllocator(limit_bytes=110 * MIB)
    take(allocator, 40 * MIB)
    allocator.free(take(allocator, 60 * MIB))
    take(allocator, 70 * MIB)
    assert figures(allocator) == (110 * MIB, 110 * MIB)
    assert (allocator.retry_count, allocator.max_reserved_bytes) == (1, 110 * MIB)


def test_running_out_of_memory_is_a_result_that_names_the_request() -> None:
    """71 MiB need a segment of 72 beside 40; the state is that after the release."""
    allocator = CachingAllocator(limit_bytes=110 * MIB)
    take(allocator, 40 * MIB)
    allocator.free(take(allocator, 60 * MIB))
    assert allocator.allocate(71 * MIB) == OutOfMemory(
        requested_bytes=71 * MIB,
        needed_bytes=72 * MIB,
        allocated_bytes=40 * MIB,
        reserved_bytes=40 * MIB,
        limit_bytes=110 * MIB,
    )
    take(allocator, 70 * MIB)


# --- max_split_size ---------------------------------------------------------------------------------------------------


def test_blocks_from_max_split_size_on_are_never_split() -> None:
    """30 MiB hold 29 (exactly the bound is oversize, too): a request above the bound takes them whole."""
    allocator = CachingAllocator(AllocatorSettings(max_split_bytes=25 * MIB))
    allocator.free(take(allocator, 30 * MIB))
    assert take(allocator, 25 * MIB).size == 30 * MIB
    assert figures(allocator) == (30 * MIB, 30 * MIB)


def test_requests_below_max_split_size_leave_oversize_blocks_alone() -> None:
    """24 MiB do not take free 25 MiB, but they would take 24.5."""
    allocator = CachingAllocator(AllocatorSettings(max_split_bytes=25 * MIB))
    allocator.free(take(allocator, 26 * MIB))
    take(allocator, 24 * MIB)
    assert allocator.reserved_bytes == 50 * MIB


@pytest.mark.parametrize(("cached", "reserved"), [(58 * MIB, 58 * MIB), (60 * MIB, 100 * MIB)])
def test_oversize_blocks_are_rounded_up_by_less_than_the_allowance(cached: int, reserved: int) -> None:
    """40 MiB take a free block of 58, but not one of 60: that is 20 MiB more, the default bound, which is excluded."""
    allocator = CachingAllocator(AllocatorSettings(max_split_bytes=25 * MIB))
    allocator.free(take(allocator, cached))
    take(allocator, 40 * MIB)
    assert allocator.reserved_bytes == reserved


def test_oversize_blocks_are_released_first_when_memory_is_short() -> None:
    """Of free 30, 40 and 70 MiB under a limit of 140 a request of 45 needs the 70 alone to go; no retry is counted."""
    allocator = CachingAllocator(AllocatorSettings(max_split_bytes=20 * MIB), limit_bytes=140 * MIB)
    for block in [take(allocator, size * MIB) for size in (30, 40, 70)]:
        allocator.free(block)
    take(allocator, 45 * MIB)
    assert (allocator.reserved_bytes, allocator.retry_count) == ((30 + 40 + 46) * MIB, 0)


def test_several_oversize_blocks_are_released_largest_first() -> None:
    """Free 30, 40 and 50 MiB under 120: a request of 80 takes back 50 + 40."""
    allocator = CachingAllocator(AllocatorSettings(max_split_bytes=20 * MIB), limit_bytes=120 * MIB)
    for block in [take(allocator, size * MIB) for size in (30, 40, 50)]:
        allocator.free(block)
    take(allocator, 80 * MIB)
    assert (allocator.reserved_bytes, allocator.retry_count) == (110 * MIB, 0)


def test_releasing_oversize_blocks_stops_when_the_request_fits() -> None:
    """Free 30, 40 and 40 MiB under 110: for 80 the two of 40 are exactly enough, and the 30 stay."""
    allocator = CachingAllocator(AllocatorSettings(max_split_bytes=20 * MIB), limit_bytes=110 * MIB)
    for block in [take(allocator, size * MIB) for size in (30, 40, 40)]:
        allocator.free(block)
    take(allocator, 80 * MIB)
    assert (allocator.reserved_bytes, allocator.retry_count) == (110 * MIB, 0)


# --- expandable segments ----------------------------------------------------------------------------------------------

EXPANDABLE = AllocatorSettings(expandable_segments=True)


def test_expandable_segments_grow_by_pages_of_2_and_20_mib() -> None:
    """25 MiB need two large pages; 16 more need one, for 15 MiB are still free; 19 more fit in."""
    allocator = CachingAllocator(EXPANDABLE)
    take(allocator, 1)
    assert figures(allocator) == (512, 2 * MIB)
    first = take(allocator, 25 * MIB)
    assert figures(allocator) == (512 + 25 * MIB, 42 * MIB)
    second = take(allocator, 16 * MIB)
    assert second.address == first.address + 25 * MIB
    assert allocator.reserved_bytes == 62 * MIB
    take(allocator, 19 * MIB)
    assert figures(allocator) == (512 + 60 * MIB, 62 * MIB)


def test_expandable_blocks_split_off_any_rest() -> None:
    """19.5 MiB of 20: in plain segments the rest would count."""
    allocator = CachingAllocator(EXPANDABLE)
    take(allocator, 20 * MIB - 512)
    assert allocator.allocated_bytes == 20 * MIB - 512
    plain = CachingAllocator()
    take(plain, 5 * MIB)
    take(plain, 15 * MIB - 512)
    assert plain.allocated_bytes == 20 * MIB


def test_expandable_best_fit_prefers_what_can_grow_least() -> None:
    """Free 5 MiB at the end of the range could grow without end, so a request of 4 takes the 6 MiB in the middle."""
    allocator = CachingAllocator(EXPANDABLE)
    middle = take(allocator, 6 * MIB)
    take(allocator, 9 * MIB)  # 5 MiB of the page stay free behind it
    allocator.free(middle)
    assert take(allocator, 4 * MIB).address == middle.address


def test_empty_cache_unmaps_whole_pages_inside_free_blocks() -> None:
    """Live 15 MiB, free 30, live 15: the second of the three pages is free as a whole and goes, the rests stay."""
    allocator = CachingAllocator(EXPANDABLE)
    take(allocator, 15 * MIB)
    middle = take(allocator, 30 * MIB)
    take(allocator, 15 * MIB)
    allocator.free(middle)
    allocator.empty_cache()
    assert figures(allocator) == (30 * MIB, 40 * MIB)
    # 6 MiB fit neither 5 MiB of rest; the lowest hole gets its page back, and the block begins in the rest before it.
    assert take(allocator, 6 * MIB).address == middle.address
    assert figures(allocator) == (36 * MIB, 60 * MIB)


def test_expandable_segments_run_out_of_memory_page_by_page() -> None:
    """Under 50 MiB two large pages fit and a third does not, even after everything is released."""
    allocator = CachingAllocator(EXPANDABLE, limit_bytes=50 * MIB)
    take(allocator, 40 * MIB)
    failure = allocator.allocate(2 * MIB)
    assert isinstance(failure, OutOfMemory)
    assert (failure.needed_bytes, failure.reserved_bytes) == (20 * MIB, 40 * MIB)
    take(allocator, MIB)
    assert allocator.reserved_bytes == 42 * MIB

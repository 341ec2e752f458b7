"""Allocator settings: torch's grammar, bounds and rounding.

The expected values and refusals are those of the real parser of torch 2.13.0, `c10::CachingAllocator::
AcceleratorAllocatorConfig` and `CUDAAllocatorConfig`, run on these texts (recorded_allocator/README.md says how).
"""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector.errors import UsageError
from inspector.memory.allocator.settings import MIB, UNLIMITED, AllocatorSettings

DEFAULT = AllocatorSettings()


def test_defaults_of_the_allocator_settings_are_those_of_torch() -> None:
    """20 MiB segments, no bound on splitting, no expandable segments, rounding to 512 bytes."""
    assert DEFAULT.large_segment_bytes == DEFAULT.max_non_split_rounding_bytes == 20_971_520
    assert DEFAULT.max_split_bytes == 18_446_744_073_709_551_615
    assert not DEFAULT.expandable_segments
    assert AllocatorSettings.parse("") == AllocatorSettings.parse("  ") == DEFAULT


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("expandable_segments:True", AllocatorSettings(expandable_segments=True)),
        (" expandable_segments : True , ", AllocatorSettings(expandable_segments=True)),
        ("max_split_size_mb:20", AllocatorSettings(max_split_bytes=20 * MIB)),
        ("max_split_size_mb: 3 0", AllocatorSettings(max_split_bytes=30 * MIB)),
        ("max_split_size_mb:99999999999999999", AllocatorSettings(max_split_bytes=UNLIMITED)),
        (
            "max_split_size_mb:128,max_non_split_rounding_mb:32",
            AllocatorSettings(max_split_bytes=128 * MIB, max_non_split_rounding_bytes=32 * MIB),
        ),
        (
            "large_segment_size_mb:40",
            AllocatorSettings(large_segment_bytes=40 * MIB, max_non_split_rounding_bytes=40 * MIB),
        ),
        (
            "max_split_size_mb:40,large_segment_size_mb:40",
            AllocatorSettings(
                large_segment_bytes=40 * MIB, max_non_split_rounding_bytes=40 * MIB, max_split_bytes=40 * MIB
            ),
        ),
        (
            "large_segment_size_mb:11",
            AllocatorSettings(large_segment_bytes=11 * MIB, max_non_split_rounding_bytes=11 * MIB),
        ),
        ("backend:native,expandable_segments:True", AllocatorSettings(expandable_segments=True)),
        ("garbage_collection_threshold:0.8,pinned_use_background_threads:True", DEFAULT),
        ("release_lock_on_cudamalloc:True,pinned_num_register_threads:8,per_process_memory_fraction:0", DEFAULT),
    ],
)
def test_allocator_settings_are_read_as_torch_reads_them(text: str, expected: AllocatorSettings) -> None:
    """Known keys in any order, white space ignored, a comma at the end allowed."""
    assert AllocatorSettings.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "divisions"),
    [
        ("4", (4,) * 16),
        ("[256:1,512:2,>:4]", (1,) * 9 + (2,) + (4,) * 6),
        ("[256:1,512:2]", (1,) * 9 + (2,) + (0,) * 6),
        ("[256:2,1024:4]", (2,) * 9 + (0, 4) + (0,) * 5),
        ("[1024:4,256:2]", (4,) * 8 + (2, 4, 4) + (0,) * 5),
        ("[>:4,256:2]", (2,) * 9 + (4,) * 7),
        ("[>:4]", (0,) + (4,) * 15),
        ("[256:2,]", (2,) * 9 + (0,) * 7),
        ("[256:0,>:4]", (0,) * 9 + (4,) * 7),
        ("[65536:2]", (2,) * 16),
        ("[32768:2,>:8]", (2,) * 16),
        ("[1:8]", (8,) + (0,) * 15),
        ("[]", (0,) * 16),
    ],
)
def test_rounding_divisions_of_every_interval(text: str, divisions: tuple[int, ...]) -> None:
    """The first entry reaches down, `>` reaches up, what is not named rounds plainly."""
    assert AllocatorSettings.parse(f"roundup_power2_divisions:{text}").roundup_power2_divisions == divisions


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("max_split_size_mb:19", "max_split_size_mb must be at least 20"),
        ("max_split_size_mb:30,large_segment_size_mb:40", "max_split_size_mb must be at least 40"),
        ("max_non_split_rounding_mb:19", "at least 20"),
        ("large_segment_size_mb:10", "at least 11"),
        ("max_split_size_mb:abc", "whole number, not 'abc'"),
        ("max_split_size_mb:-1", "whole number"),
        ("max_split_size_mb:30abc", "whole number"),
        ("max_split_size_mb:[30]", "whole number"),
        ("max_split_size_mb", "'key:value' pairs"),
        ("max_split_size_mb:", "'key:value' pairs"),
        ("max_split_size_mb=30", "'key:value' pairs"),
        (":30", "'key:value' pairs"),
        (",", "'key:value' pairs"),
        ("max_split_size_mb:30,,expandable_segments:True", "'key:value' pairs"),
        ("max_split_size_mb:30,max_split_size_mb:40", "given twice"),
        ("expandable_segments:true", "True or False, not 'true'"),
        ("Expandable_segments:True", "unknown allocator setting 'Expandable_segments'"),
        ("foo:1\n", "unknown allocator setting 'foo'"),
        ("roundup_power2_divisions:3", "power of two, not 3"),
        ("roundup_power2_divisions:0", "power of two"),
        ("roundup_power2_divisions:[256:3]", "power of two"),
        ("roundup_power2_divisions:[300:2]", "powers of two, not '300'"),
        ("roundup_power2_divisions:[0:2]", "powers of two"),
        ("roundup_power2_divisions:[256]", "SIZE:DIVISIONS"),
        ("roundup_power2_divisions:[256:2", "whole number"),
        ("roundup_power2_divisions:[256:2 512:2]", "whole number"),
        ("garbage_collection_threshold:1.0", "between 0 and 1"),
        ("garbage_collection_threshold:x", "between 0 and 1"),
        ("per_process_memory_fraction:1.5", "between 0 and 1"),
        ("pinned_num_register_threads:3", "power of two up to 128"),
        ("pinned_num_register_threads:256", "power of two up to 128"),
        ("pinned_reserve_segment_size_mb:x", "whole number"),
        ("release_lock_on_cudamalloc:1", "True or False"),
        ("backend:foo", "unknown allocator backend 'foo'"),
        ("backend:cudaMallocAsync", "'cudaMallocAsync' leaves caching to the CUDA driver"),
    ],
)
def test_allocator_settings_that_torch_refuses_are_refused_in_one_line(text: str, part: str) -> None:
    """The message names the setting and what it needs."""
    with pytest.raises(UsageError) as caught:
        AllocatorSettings.parse(text)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(alphabet="max_split_size_mb:,[]0123456789>True ", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes the parser fail in another way."""
    with contextlib.suppress(UsageError):
        AllocatorSettings.parse(text)


@pytest.mark.parametrize(
    ("request_bytes", "block"), [(1, 512), (511, 512), (512, 512), (513, 1024), (MIB, MIB), (MIB + 1, MIB + 512)]
)
def test_plain_rounding_of_requests_is_to_512_bytes(request_bytes: int, block: int) -> None:
    """512 is one block, 513 is two."""
    assert DEFAULT.round_size(request_bytes) == block


@pytest.mark.parametrize(
    ("request_bytes", "block"),
    [
        (1200, 1536),  # not above 4 x 512 = 2,048: plain rounding, not the step of 1,280
        (2048, 2048),
        (2049, 2560),  # above: a quarter of 2,048 is 512
        (2560, 2560),
        (MIB, MIB),  # a power of two stays
        (MIB + 1, MIB + MIB // 4),
        (7 * MIB, 7 * MIB),  # 4 + 3 quarters of 4
        (7 * MIB + 1, 8 * MIB),
        (1200 * MIB, 1280 * MIB),  # 1024 + 256, the example of torch's documentation
    ],
)
def test_power_of_two_divisions_round_to_the_next_step(request_bytes: int, block: int) -> None:
    """Divisions apply above 512 bytes times their number."""
    assert AllocatorSettings.parse("roundup_power2_divisions:4").round_size(request_bytes) == block


def test_divisions_by_size_apply_from_their_size_on() -> None:
    """`[256:1,512:2,>:4]`: plain below 512 MiB, halves below 1 GiB, quarters above."""
    settings = AllocatorSettings.parse("roundup_power2_divisions:[256:1,512:2,>:4]")
    assert settings.round_size(300 * MIB + 1) == 300 * MIB + 512
    assert settings.round_size(512 * MIB - 1) == 512 * MIB
    assert settings.round_size(512 * MIB + 1) == 768 * MIB
    assert settings.round_size(1024 * MIB + 1) == 1280 * MIB
    # The last interval has no end: 100 GiB lies between 64 and 128, in quarters of 16.
    assert settings.round_size(100 * 1024 * MIB) == 112 * 1024 * MIB


@given(st.integers(1, 1 << 40), st.sampled_from([0, 1, 2, 4, 8, 16, 1024]))
def test_a_block_holds_its_request_and_is_a_multiple_of_512(request_bytes: int, divisions: int) -> None:
    """Rounding never loses a byte and rounds a rounded size to itself."""
    settings = AllocatorSettings(roundup_power2_divisions=(divisions,) * 16)
    block = settings.round_size(request_bytes)
    assert block >= request_bytes
    assert block % 512 == 0
    assert settings.round_size(block) == block


@pytest.mark.parametrize(
    ("block", "segment"),
    [
        (512, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 512, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (10 * MIB + 512, 12 * MIB),
        (33 * MIB, 34 * MIB),
    ],
)
def test_segments_are_2_or_20_mib_or_made_to_measure(block: int, segment: int) -> None:
    """Up to 1 MiB, below 10 MiB, and from 10 MiB on."""
    assert DEFAULT.segment_size(block) == segment

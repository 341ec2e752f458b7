"""The settings of the CUDA caching allocator, as `PYTORCH_CUDA_ALLOC_CONF` or `PYTORCH_ALLOC_CONF` gives them.

The grammar is torch's own: `key:value` pairs separated by commas, white space ignored, lists in square brackets. Read
here are the keys that change how many bytes a training step takes. The other keys that torch 2.13 knows are accepted
and change nothing in a simulation of one stream (`_WITHOUT_INFLUENCE` says why); `backend:cudaMallocAsync` is another
allocator altogether and is refused.

Verified with torch 2.13.0: accepted and refused texts and the values that come out of them were compared with the real
parser (`c10::CachingAllocator::AcceleratorAllocatorConfig` and `CUDAAllocatorConfig` of the PyPI wheel). On purpose
stricter than torch: a number with trailing text (`30abc`) or a sign, a colon instead of a comma, and a key given twice
are refused. torch 2.7 still refused `max_split_size_mb:20` itself; 2.13 refuses only less than a large segment.

Does not cover: reading the environment, which is the caller's matter. torch 2.13 reads `PYTORCH_CUDA_ALLOC_CONF` first
for CUDA and the other name if that is unset (c10/cuda/CUDAAllocatorConfig.h, `instance`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from inspector.errors import UsageError, quoted

__all__ = ["LARGE_SEGMENT_BYTES", "MIB", "UNLIMITED", "AllocatorSettings"]

MIB = 1 << 20

# c10/core/AllocatorConfig.h:17-25 and :174 of torch 2.13 (shared/cuda-memory-facts.md, section 1).
MIN_BLOCK_BYTES = 512  # kMinBlockSize
SMALL_BYTES = 1 * MIB  # kSmallSize: the largest request of the small pool
SMALL_SEGMENT_BYTES = 2 * MIB  # kSmallBuffer
MIN_LARGE_ALLOC_BYTES = 10 * MIB  # kMinLargeAlloc: from here on a segment is made to measure
ROUND_LARGE_BYTES = 2 * MIB  # kRoundLarge
LARGE_SEGMENT_BYTES = 20 * MIB  # large_segment_size(), once kLargeBuffer

# std::numeric_limits<size_t>::max(), the default of max_split_size.
UNLIMITED = (1 << 64) - 1
# Rounding has one entry for each power of two from 1 MiB to 32 GiB; smaller and larger requests use the outer ones.
_INTERVALS = 16

# A comma that is not inside square brackets ends a pair.
_PAIR_END = re.compile(r",(?![^\[]*\])")


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorSettings:
    """What decides how requests become blocks and segments; the defaults are torch's.

    `roundup_power2_divisions` has 16 entries, for requests below 2 MiB, 4 MiB, and so on, the last one without end; 0
    and 1 mean plain rounding to 512 bytes.
    """

    large_segment_bytes: int = LARGE_SEGMENT_BYTES
    max_split_bytes: int = UNLIMITED
    max_non_split_rounding_bytes: int = LARGE_SEGMENT_BYTES
    expandable_segments: bool = False
    roundup_power2_divisions: tuple[int, ...] = (0,) * _INTERVALS

    @classmethod
    def parse(cls, text: str) -> AllocatorSettings:
        """Return the settings that `text` describes; raise UsageError where torch would refuse to start."""
        values = _split_pairs("".join(text.split()))
        backend = values.get("backend", "native")
        if backend == "cudaMallocAsync":
            raise UsageError(
                "the allocator backend 'cudaMallocAsync' leaves caching to the CUDA driver and cannot be simulated; "
                "leave out 'backend' or use 'backend:native'"
            )
        if backend != "native":
            raise UsageError(f"unknown allocator backend {quoted(backend)}; use 'native'")
        # torch settles the segment size before the keys whose bounds depend on it, wherever it stands in the text.
        large = _parse_mebibytes(values, "large_segment_size_mb", at_least=MIN_LARGE_ALLOC_BYTES // MIB + 1)
        large_bytes = LARGE_SEGMENT_BYTES if large is None else large
        split = _parse_mebibytes(values, "max_split_size_mb", at_least=large_bytes // MIB)
        rounding = _parse_mebibytes(values, "max_non_split_rounding_mb", at_least=large_bytes // MIB)
        return cls(
            large_segment_bytes=large_bytes,
            max_split_bytes=UNLIMITED if split is None else split,
            max_non_split_rounding_bytes=large_bytes if rounding is None else rounding,
            expandable_segments=_parse_boolean(values, "expandable_segments"),
            roundup_power2_divisions=_parse_divisions(values),
        )

    def round_size(self, requested_bytes: int) -> int:
        """Return the size of the block that a request of at least one byte asks for [CUDACachingAllocator.cpp:2043]."""
        if requested_bytes < MIN_BLOCK_BYTES:
            return MIN_BLOCK_BYTES
        interval = max(requested_bytes.bit_length() - MIB.bit_length(), 0)
        divisions = self.roundup_power2_divisions[min(interval, _INTERVALS - 1)]
        if divisions > 1 and requested_bytes > MIN_BLOCK_BYTES * divisions:
            # The next of `divisions` equal steps between two powers of two.
            step = (1 << (requested_bytes.bit_length() - 1)) // divisions
            return -(-requested_bytes // step) * step
        return -(-requested_bytes // MIN_BLOCK_BYTES) * MIN_BLOCK_BYTES

    def segment_size(self, size: int) -> int:
        """Return the segment to ask for when no free block holds a rounded `size` [CUDACachingAllocator.cpp:2550]."""
        if size <= SMALL_BYTES:
            return SMALL_SEGMENT_BYTES
        if size < MIN_LARGE_ALLOC_BYTES:
            return self.large_segment_bytes
        return -(-size // ROUND_LARGE_BYTES) * ROUND_LARGE_BYTES


def _split_pairs(text: str) -> dict[str, str]:
    """Return the values by key of a text without white space; a comma at its end is allowed."""
    values: dict[str, str] = {}
    for pair in _PAIR_END.split(text.removesuffix(",")) if text else []:
        key, colon, value = pair.partition(":")
        if not (key and colon and value):
            raise UsageError(f"allocator settings need 'key:value' pairs separated by commas, not {quoted(pair)}")
        if key not in _READ and key not in _WITHOUT_INFLUENCE:
            raise UsageError(f"unknown allocator setting {quoted(key)}; known are {', '.join(sorted(_READ))}")
        if key in values:
            raise UsageError(f"allocator setting {key} is given twice")
        if key in _WITHOUT_INFLUENCE:
            _WITHOUT_INFLUENCE[key](key, value)
        values[key] = value
    return values


def _parse_integer(key: str, value: str) -> int:
    """Return a decimal integer without a sign."""
    if not (value.isascii() and value.isdigit()):
        raise UsageError(f"allocator setting {key} needs a whole number, not {quoted(value)}")
    return int(value)


def _parse_mebibytes(values: dict[str, str], key: str, *, at_least: int) -> int | None:
    """Return a setting given in MiB as bytes, None where it is not given."""
    if key not in values:
        return None
    number = _parse_integer(key, values[key])
    if number < at_least:
        raise UsageError(f"allocator setting {key} must be at least {at_least}, not {number}")
    return min(number * MIB, UNLIMITED)


def _parse_boolean(values: dict[str, str], key: str) -> bool:
    """Return a setting that is spelt True or False, False where it is not given."""
    value = values.get(key, "False")
    if value not in ("True", "False"):
        raise UsageError(f"allocator setting {key} needs True or False, not {quoted(value)}")
    return value == "True"


def _parse_divisions(values: dict[str, str]) -> tuple[int, ...]:
    """Return the rounding divisions of every interval from one number or from a list such as `[256:1,512:2,>:4]`.

    The first entry of a list also holds for all smaller sizes, `>` for all above the entry before it, and intervals
    that are not named round plainly.
    """
    key = "roundup_power2_divisions"
    text = values.get(key, "[]")
    if not (text.startswith("[") and text.endswith("]")):
        number = _parse_integer(key, text)
        if not _is_power_of_two(number):
            raise UsageError(f"allocator setting {key} needs a power of two, not {number}")
        return (number,) * _INTERVALS
    result = [0] * _INTERVALS
    last, first = 0, True
    inner = text[1:-1].removesuffix(",")
    for entry in inner.split(",") if inner else []:
        size, colon, value = entry.partition(":")
        divisions = _parse_integer(key, value) if colon else -1
        if divisions != 0 and not _is_power_of_two(divisions):
            raise UsageError(f"allocator setting {key} needs SIZE:DIVISIONS with a power of two, not {quoted(entry)}")
        if size == ">":
            result[last + 1 :] = [divisions] * (_INTERVALS - last - 1)
            continue
        if not _is_power_of_two(mebibytes := _parse_integer(key, size)):
            raise UsageError(f"allocator setting {key} needs sizes in MiB that are powers of two, not {quoted(size)}")
        last = min(mebibytes.bit_length() - 1, _INTERVALS - 1)
        if first:
            result[:last] = [divisions] * last
            first = False
        result[last] = divisions
    return tuple(result)


def _is_power_of_two(number: int) -> bool:
    """Return whether `number` is 1, 2, 4, and so on."""
    return number > 0 and number & (number - 1) == 0


def _check_fraction(key: str, value: str) -> None:
    """Refuse what is not a number between 0 and 1; the bounds themselves only suit the memory fraction."""
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    inclusive = key == "per_process_memory_fraction"
    if not (0 <= number <= 1 if inclusive else 0 < number < 1):
        raise UsageError(f"allocator setting {key} needs a number between 0 and 1, not {quoted(value)}")


def _check_boolean(key: str, value: str) -> None:
    """Refuse what is not True or False."""
    _parse_boolean({key: value}, key)


def _check_integer(key: str, value: str) -> None:
    """Refuse what is not a whole number."""
    _parse_integer(key, value)


def _check_threads(key: str, value: str) -> None:
    """Refuse a number of threads that is no power of two up to 128."""
    if not _is_power_of_two(number := _parse_integer(key, value)) or number > 128:
        raise UsageError(f"allocator setting {key} needs a power of two up to 128, not {number}")


_READ = frozenset(
    {
        "backend",
        "expandable_segments",
        "large_segment_size_mb",
        "max_non_split_rounding_mb",
        "max_split_size_mb",
        "roundup_power2_divisions",
    }
)
# Keys of torch 2.13 that cannot change the bytes of one stream on one device without a memory fraction: timing, pinned
# host memory, CUDA graphs, and collection or refusal that only start once a fraction of the device is set as a limit.
# Their values are checked as torch checks them, so that a typing error does not pass.
_WITHOUT_INFLUENCE: dict[str, Callable[[str, str], None]] = {
    "garbage_collection_threshold": _check_fraction,
    "graph_capture_record_stream_reuse": _check_boolean,
    "per_process_memory_fraction": _check_fraction,
    "pinned_free_catch_all": _check_boolean,
    "pinned_max_cached_size_mb": _check_integer,
    "pinned_max_round_threshold_mb": _check_integer,
    "pinned_num_register_threads": _check_threads,
    "pinned_reserve_segment_size_mb": _check_integer,
    "pinned_use_background_threads": _check_boolean,
    "pinned_use_cuda_host_register": _check_boolean,
    "pinned_use_hip_host_register": _check_boolean,
    "release_lock_on_cudamalloc": _check_boolean,
    "release_lock_on_hipmalloc": _check_boolean,
    "throw_on_cudamalloc_oom": _check_boolean,
}

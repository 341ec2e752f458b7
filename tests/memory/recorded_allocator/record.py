"""Run tapes through the compiled allocator of torch (README.md here says how to build `driver`) and through ours.

`record DRIVER` writes recorded.json, `compare DRIVER COUNT` holds both against each other on random tapes.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from inspector.memory.allocator.caching import Block, CachingAllocator
from inspector.memory.allocator.settings import AllocatorSettings

RECORDED = Path(__file__).with_name("recorded.json")
MIB = 1 << 20
SETTINGS = (
    "",
    "expandable_segments:True",
    "max_split_size_mb:20",
    "max_split_size_mb:64",
    "max_split_size_mb:25,max_non_split_rounding_mb:40",
    "roundup_power2_divisions:4",
    "roundup_power2_divisions:[1:2,8:1,16:4,>:8]",
    "large_segment_size_mb:40",
    "large_segment_size_mb:11",
    "large_segment_size_mb:33,max_split_size_mb:50",
    "expandable_segments:True,max_split_size_mb:30",
    "expandable_segments:True,roundup_power2_divisions:8,large_segment_size_mb:32",
)
# Sizes at the borders of the rules, one cuBLAS workspace among them.
BORDERS = (
    *(1, 512, 513, MIB - 512, MIB - 1, MIB, MIB + 1, MIB + 512, 2 * MIB - 512, 2 * MIB, 8_519_680),
    *(10 * MIB - 512, 10 * MIB - 1, 10 * MIB, 10 * MIB + 1, 19 * MIB - 512, 19 * MIB, 20 * MIB, 20 * MIB + 1),
)
NO_LIMIT = 1 << 44

# ("a", bytes), ("f", number of the allocation) or ("e", 0) for empty_cache.
Step = tuple[str, int]


class State(NamedTuple):
    """What the allocator says after one event; `failed` is 1 for a request that ran out of memory."""

    failed: int
    allocated: int
    reserved: int
    requested: int
    peak_allocated: int
    peak_reserved: int
    retries: int


def random_tape(rng: random.Random, length: int) -> list[Step]:
    """Return a tape of random requests, some of them over and over again, and frees in random order."""
    pool = [_random_size(rng) for _ in range(rng.choice([4, 20, 200]))]
    most_alive = rng.choice([5, 20, 60, 150])
    steps: list[Step] = []
    alive: list[int] = []
    made = 0
    for _ in range(length):
        draw = rng.random()
        if draw < 0.005:
            steps.append(("e", 0))
        elif alive and draw < (0.5 if len(alive) < most_alive else 0.75):
            steps.append(("f", alive.pop(rng.randrange(len(alive)) if rng.random() < 0.6 else -1)))
        else:
            steps.append(("a", rng.choice(pool)))
            alive.append(made)
            made += 1
    return steps


def _random_size(rng: random.Random) -> int:
    low, high = rng.choice([(1, 4096), (1, MIB), (MIB, 12 * MIB), (8 * MIB, 64 * MIB), (64 * MIB, 700 * MIB), (0, 0)])
    return rng.randint(low, high) if high else rng.choice(BORDERS)


def simulate(steps: list[Step], settings: str, limit_bytes: int | None) -> list[State]:
    """Return what our allocator says after each event."""
    allocator = CachingAllocator(AllocatorSettings.parse(settings), limit_bytes=limit_bytes)
    blocks: list[Block | None] = []
    states = []
    for kind, value in steps:
        failed = 0
        if kind == "a":
            block = allocator.allocate(value)
            failed = int(not isinstance(block, Block))
            blocks.append(block if isinstance(block, Block) else None)
        elif kind == "e":
            allocator.empty_cache()
        elif (alive := blocks[value]) is not None:
            allocator.free(alive)
        states.append(
            State(
                failed,
                allocator.allocated_bytes,
                allocator.reserved_bytes,
                allocator.requested_bytes,
                allocator.max_allocated_bytes,
                allocator.max_reserved_bytes,
                allocator.retry_count,
            )
        )
    return states


def observe(driver: str, steps: list[Step], settings: str, limit_bytes: int | None) -> list[State]:
    """Return what torch's allocator says after each event."""
    surroundings = {"PYTORCH_CUDA_ALLOC_CONF": settings, "FAKE_TOTAL": str(limit_bytes or NO_LIMIT)}
    text = "".join(f"{kind} {value}\n" for kind, value in steps)
    done = subprocess.run(
        [driver], input=text, capture_output=True, text=True, check=True, env={**os.environ, **surroundings}
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    return [State(int(row[0] == "oom"), *map(int, row[2:])) for row in rows]


def record(driver: str) -> None:
    """Write recorded.json: every setting without and with a limit, allocated and reserved after each event."""
    runs = []
    for number, settings in enumerate(SETTINGS):
        for limit_bytes in (None, 400 * MIB):
            steps = random_tape(random.Random(f"{number} {limit_bytes}"), 120)
            states = observe(driver, steps, settings, limit_bytes)
            runs.append(
                {
                    "settings": settings,
                    "limit_bytes": limit_bytes,
                    "tape": " ".join(f"{kind}{value}" for kind, value in steps),
                    "failed": [index for index, state in enumerate(states) if state.failed],
                    "allocated": [state.allocated for state in states],
                    "reserved": [state.reserved for state in states],
                    "end": list(states[-1]),
                }
            )
    lines = ",\n".join(json.dumps(run, separators=(",", ":")) for run in runs)
    RECORDED.write_text(f'{{"torch":"2.13.0","runs":[\n{lines}\n]}}\n', encoding="utf-8")


def compare(driver: str, count: int) -> int:
    """Return how many of `count` random tapes differ, printing the first event of each."""
    different = 0
    for seed in range(count):
        rng = random.Random(seed)
        settings = SETTINGS[seed % len(SETTINGS)]
        limit_bytes = rng.choice([None, None, 400 * MIB, 1000 * MIB, 3000 * MIB, 5000 * MIB + 12345])
        steps = random_tape(rng, rng.choice([100, 1000, 3000]))
        pairs = zip(observe(driver, steps, settings, limit_bytes), simulate(steps, settings, limit_bytes), strict=True)
        for index, (real, ours) in enumerate(pairs):
            if real != ours:
                different += 1
                print(f"seed {seed}, {settings!r}, event {index} {steps[index]}:\n  torch {real}\n  ours  {ours}")
                break
    print(f"{different} of {count} tapes differ")
    return different


if __name__ == "__main__":
    command, path, *rest = sys.argv[1:]
    if command == "record":
        record(path)
    elif compare(path, int(rest[0])):
        sys.exit(1)

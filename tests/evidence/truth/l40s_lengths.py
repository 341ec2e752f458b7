"""The rows on an L40S over the one thing that is not known of them: the length of their longest batch.

`python -m tests.evidence.truth.l40s_lengths 660 690` traces the five rows at every length and prints, for each, by how
many per cent of what was measured the predicted reserved memory is off. A length takes about 5 s.

Reserved memory is a staircase in the length: a block of 10 MiB and more is rounded up to 2 MiB, and the blocks that
every layer keeps pass a multiple of it together. Of 4 sequences of Llama-3.2-3B in bfloat16, the activations of the MLP
take 4 · S · 8,192 · 2 bytes, 21 · 2 MiB at S = 672, and the hidden states 4 · S · 3,072 · 2, which is 8 · 2 MiB
at 682⅔. `PREDICTED` holds both sides of both steps.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence

from tests.evidence.truth.predictions import predict_timeline
from tests.evidence.truth.records import Measured, load

__all__ = ["FITTED", "PREDICTED", "ROWS", "differences_in_percent", "predict_reserved"]

ROWS = tuple(row for row in load() if row.group == "llama_3_2_3b_l40s")

# Peak reserved bytes of the rows in their order, by length.
PREDICTED: Mapping[int, Sequence[int]] = {
    672: (21_976_055_808, 38_314_967_040, 24_341_643_264, 20_826_816_512, 24_261_951_488),
    673: (22_221_422_592, 38_568_722_432, 24_649_924_608, 21_091_057_664, 24_272_437_248),
    682: (22_296_920_064, 38_650_511_360, 24_723_324_928, 21_164_457_984, 24_345_837_568),
    683: (22_668_115_968, 39_126_564_864, 24_857_542_656, 21_495_808_000, 24_358_420_480),
}
FITTED = 682


def predict_reserved(row: Measured, length: int) -> int:
    """Return the peak of reserved memory of a row, in bytes, with batches of `length` tokens."""
    record = {**row.record, "recipe": {**row.record["recipe"], "seq_len": length}}
    return predict_timeline(dataclasses.replace(row, record=record)).peak_reserved_bytes


def differences_in_percent(predicted: Sequence[int]) -> tuple[float, ...]:
    """Return predicted minus measured of the rows in their order, in per cent of what was measured."""
    measured = [row.record["measured"]["peak_reserved_bytes"] for row in ROWS]
    return tuple(100 * (ours - theirs) / theirs for ours, theirs in zip(predicted, measured, strict=True))


def main() -> None:
    """Print a line for every length from the first argument to the second."""
    first, last = map(int, sys.argv[1:])
    print("S", *(row.name.removeprefix("l40s ") for row in ROWS), sep=" | ")
    for length in range(first, last + 1):
        off = differences_in_percent([predict_reserved(row, length) for row in ROWS])
        print(length, *(f"{share:+.2f}" for share in off), sep=" | ", flush=True)


if __name__ == "__main__":
    main()

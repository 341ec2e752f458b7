"""Options about several cards of one run, beside how many there are and what is sharded over them."""

from __future__ import annotations

import click

from inspector.cli.values import read_object_of_option
from inspector.records.steps.device_map import MADE_MAPS

__all__ = ["OF_CARDS", "read_device_map"]

OF_CARDS: tuple[click.Parameter, ...] = (
    click.Option(
        ["--device-map"],
        metavar="HOW|FILE",
        help="Put whole modules on the cards, as transformers does: auto, balanced, balanced_low_0, sequential, or a "
        "JSON file of modules and cards. Each card's memory is said; what does not fit waits on the CPU.",
    ),
    click.Option(
        ["--tensor-parallel"],
        type=click.IntRange(2, 1024),
        metavar="N",
        help="Cut each layer over N of the cards by transformers' own plan of the model; with --fsdp and more cards "
        "each part is sharded over the others.",
    ),
)


def read_device_map(text: str | None) -> object:
    """Return the device map that an option gives: how it is made, or a file's."""
    if text is None or text in MADE_MAPS:
        return text
    return read_object_of_option("--device-map", text, f"give {', '.join(MADE_MAPS)}, or name a JSON file.")

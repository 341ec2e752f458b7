"""Options about several cards of one run, beside how many there are and what is sharded over them."""

from __future__ import annotations

import click

from inspector.cli.values import read_object_of_option
from inspector.errors import UsageError
from inspector.records.steps.device_map import MADE_MAPS

__all__ = ["OF_CARDS", "RANK", "choose_sharding", "read_device_map"]

OF_CARDS: tuple[click.Parameter, ...] = (
    click.Option(
        ["--device-map"],
        metavar="HOW|FILE",
        help="Place whole modules on the GPUs, as transformers does: auto, balanced, balanced_low_0, sequential, or a "
        "JSON file from modules to GPUs. Modules that fit none are offloaded to the CPU.",
    ),
    click.Option(
        ["--tensor-parallel"],
        type=click.IntRange(2, 1024),
        metavar="N",
        help="Split each layer over N of the GPUs by transformers' own plan of the model; with --fsdp and more GPUs "
        "each part is sharded over the others.",
    ),
    click.Option(
        ["--expert-parallel"],
        type=click.IntRange(2, 1024),
        metavar="N",
        help="Distribute whole experts of each layer over N of the GPUs by transformers' own plan; the rest is "
        "sharded with --fsdp, or split with --tensor-parallel.",
    ),
    click.Option(
        ["--nodes"],
        type=click.IntRange(1, 2**20),
        metavar="N",
        help="Number of machines; with --fsdp each holds all shards on its own GPUs (HSDP: HYBRID_SHARD, accelerate's "
        "dp_replicate_size).",
    ),
    click.Option(
        ["--fsdp-version"],
        type=click.Choice(("1", "2")),
        help="Version of FSDP with --fsdp; default: 2.",
    ),
)


def choose_sharding(*, fsdp: bool, fsdp_version: str | None, deepspeed: str | None) -> str | None:
    """Return what the options shard; raise UsageError where they contradict each other."""
    if fsdp and deepspeed is not None:
        raise UsageError("--fsdp and --deepspeed exclude each other: give one of them.")
    if fsdp_version is not None and not fsdp:
        raise UsageError("--fsdp-version says whose FSDP shards: add --fsdp, or drop it.")
    return ("fsdp1" if fsdp_version == "1" else "fsdp") if fsdp else deepspeed


def read_device_map(text: str | None) -> object:
    """Return the device map that an option gives: how it is made, or a file's."""
    if text is None or text in MADE_MAPS:
        return text
    return read_object_of_option("--device-map", text, f"give {', '.join(MADE_MAPS)}, or name a JSON file.")


# Of `inspect measure` alone.
RANK = click.Option(
    ["--rank"],
    type=click.IntRange(min=0),
    metavar="K",
    help="Which rank of --gpus N runs here alone, the others being not there; default 0. Under torchrun every process "
    "is one.",
)

"""The catalogue of GPUs: `fixtures/gpus/*.toml`, one file for each family, in the order of their names.

An installed package holds them in `inspector/fixtures/gpus`, a checkout at its top level; fixtures/README.md describes
the keys. `architectures.toml` holds what follows from the compute capability alone.

Names are compared as people write them: letter case, blanks and hyphens do not count, nor do vendors and product lines
in front (`NVIDIA GeForce RTX 4090` is `4090`), and `80` or `80G` is `80GB`. A name that several cards have (`a100`) is
the one with the least memory, because what fits there fits on the others, too; `Found.others` says which these are.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspector.errors import UsageError, one_line, quoted
from inspector.hardware.near_names import suggest_gpus
from inspector.records.hardware import Gpu, MemoryFigure

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Found", "catalogue", "find_gpu", "find_gpus", "list_common_gpus"]

_PACKAGE = Path(__file__).resolve().parents[1]
_LOCATIONS = (_PACKAGE / "fixtures" / "gpus", _PACKAGE.parent / "fixtures" / "gpus")
_ARCHITECTURES = "architectures.toml"

# Words in front that tell no card from another; torch's own names of devices begin with them.
_FRONT = re.compile(r"(nvidia|geforce|quadro|tesla|rtx|gtx|amd|instinct|radeon|rx)+")
# What people call a Mac by, with its memory or without.
_MAC = re.compile(r"(?:apple)?(?:mac|mps|silicon|m[1-9](?:pro|max|ultra)?)((?:[1-9]\d*gb)?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The GPU of a name, and the names of the others that it may have meant."""

    gpu: Gpu
    others: tuple[str, ...] = ()


@functools.lru_cache(maxsize=1)
def catalogue() -> tuple[Gpu, ...]:
    """Return every GPU of the catalogue, family by family."""
    folder = next(location for location in _LOCATIONS if (location / _ARCHITECTURES).is_file())
    threads = _read_file(folder / _ARCHITECTURES)["threads_per_multiprocessor"]
    files = sorted(path for path in folder.glob("*.toml") if path.name != _ARCHITECTURES)
    return tuple(gpu for path in files for gpu in _list_gpus(_read_file(path), threads))


def list_common_gpus() -> tuple[Gpu, ...]:
    """Return the short list that a report shows where no GPU is named, the smallest first."""
    return tuple(sorted((gpu for gpu in catalogue() if gpu.common), key=lambda gpu: gpu.memory_bytes))


def find_gpu(name: str) -> Found:
    """Return the GPU that people call `name`; UsageError, with suggestions, where the catalogue does not have it."""
    key = _normalize_name(name)
    named = [gpu for gpu in catalogue() if _list_keys(gpu) & {key, f"{key}gb"}]
    if not name.strip():
        raise UsageError('`gpu` is empty; see `inspect gpus`, or give a memory with `gpu_memory="24GiB"`.')
    if not named and len(pieces := [piece for piece in re.split(r"\s*[,;+]\s*", name.strip()) if piece]) > 1:
        each = " and ".join(f"`gpu={one_line(piece, 60)}`" for piece in pieces[:8])
        raise UsageError(f"`gpu` {quoted(name, 60)} names several cards: give each by itself, {each}.")
    if not named:
        next_step = suggest_gpus(name, tuple(_list_by_key()), _normalize_name)
        raise UsageError(f"`gpu` {quoted(name, 60)} is not in the catalogue; {next_step}")
    smallest = min(named, key=lambda gpu: gpu.memory_bytes)
    return Found(gpu=smallest, others=tuple(gpu.name for gpu in named if gpu is not smallest))


def find_gpus(names: Iterable[str]) -> tuple[Gpu, ...]:
    """Return every card that a name may mean, in the order of the catalogue; UsageError for an unknown name."""
    found = [find_gpu(name) for name in names]
    meant = {name for one in found for name in (one.gpu.name, *one.others)}
    return tuple(gpu for gpu in catalogue() if gpu.name in meant)


def _list_by_key() -> Iterator[tuple[str, Gpu]]:
    """Yield every key with its GPU."""
    return ((key, gpu) for gpu in catalogue() for key in _list_keys(gpu))


def _list_keys(gpu: Gpu) -> set[str]:
    """Return what the names of a GPU are compared by."""
    return {_normalize_name(name) for name in (gpu.name, *gpu.aliases)}


def _normalize_name(name: str) -> str:
    """Return a name as it is compared: lower case, without blanks, hyphens, vendor and product line."""
    squeezed = re.sub(r"[\W_]+", "", name.casefold())
    squeezed = re.sub(r"laptopgpu|mobile|notebook", "laptop", squeezed)
    squeezed = re.sub(r"(?<=\d)g(?:i?b)?(?=$|hbm|pcie)", "gb", squeezed)
    mac = _MAC.fullmatch(squeezed)
    if mac:
        return f"apple{mac[1]}"
    front = _FRONT.match(squeezed)
    return squeezed[front.end() :] if front and front.end() < len(squeezed) else squeezed


def _read_file(path: Path) -> dict[str, Any]:
    """Read a file of the catalogue."""
    content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    return content


def _list_gpus(content: Mapping[str, Any], threads: Mapping[str, int]) -> Iterator[Gpu]:
    """Yield the GPUs of one file; what a family has in common stands at its head."""
    common = {name: value for name, value in content.items() if name != "gpu"}
    for entry in content["gpu"]:
        fields = {**common, **entry}
        capability = fields.pop("compute_capability", None)
        figure = MemoryFigure(fields.pop("memory_figure"))
        fields["aliases"] = tuple(fields.get("aliases", ()))
        if capability is not None:
            major, minor = map(int, capability.split("."))
            fields.update(compute_capability=(major, minor), threads_per_multiprocessor=threads[capability])
        yield Gpu(memory_figure=figure, **fields)

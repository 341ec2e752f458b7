"""Every measured record in one form: files of `inspector-measurement/1` here and in stand_in/, one row or several.

A file holds one record as `inspect measure --json` writes it, or what several share with a list of `rows`, each of
which adds to it. `layers` says that a model of the catalogue was cut to its first layers (`matrix.cut`),
`stored` that its checkpoint declares a quantization, `fields` what its configuration says otherwise.
`workload` is what ran, a training step where it is not given, `launch` how it was spread over ranks. `harness` says
whose step was measured, "inspect measure" where it is not given. Records of stand_in/ come from torch's own CUDA build
over a CUDA runtime that computes nothing: all host code is real, the GPU is not (stand_in/README.md).
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspector.hardware.platform import Platform
from inspector.records.recipe import Attention, Recipe
from inspector.records.request import Request
from inspector.records.source import ServedFrom, SourceFiles
from inspector.records.tape import WorkloadInfo
from inspector.source import catalogue
from inspector.workloads.registry import TRAINING, find_workload
from tests.evidence.truth.matrix import OF_EVERY_ROW
from tests.evidence.truth.matrix_row import cut

__all__ = ["FOLDER", "Measured", "load"]

FOLDER = Path(__file__).parent
SCHEMA = "inspector-measurement/1"
_DEFAULT_HARNESS = "inspect measure"


@dataclass(frozen=True)
class Measured:
    """One measured row. `group` is the name of its file, `record` what it says."""

    name: str
    group: str
    is_stand_in: bool
    record: Mapping[str, Any]

    @property
    def harness(self) -> str:
        """Return whose step was measured."""
        return str(self.record.get("harness", _DEFAULT_HARNESS))

    @property
    def workload(self) -> WorkloadInfo:
        """Return what ran."""
        return find_workload(self.record.get("workload", TRAINING.name))

    @property
    def recipe(self) -> Recipe:
        """Return how the step ran; sdpa was recorded where nothing else had been asked for."""
        recipe = Recipe(**{**({} if self.workload.generates else OF_EVERY_ROW), **self.record["recipe"]})
        return dataclasses.replace(recipe, attention=None) if recipe.attention is Attention.SDPA else recipe

    @property
    def descends(self) -> bool:
        """Tell whether the driver placed new segments below old ones."""
        return bool(self.record["gpu"].get("descending_addresses"))

    @property
    def torch_version(self) -> tuple[int, int]:
        """Return (major, minor) of the torch that ran the step."""
        major, minor = self.record["versions"]["torch"].split(".")[:2]
        return int(major), int(minor)

    @property
    def platform(self) -> Platform:
        """Return the platform that the step ran on."""
        gpu = self.record["gpu"]
        major, minor = gpu["compute_capability"]
        return Platform(
            compute_capability=(major, minor),
            multiprocessors=gpu["multiprocessors"],
            threads_per_multiprocessor=gpu["threads_per_multiprocessor"],
            torch_version=self.torch_version,
            descending_addresses=self.descends,
        )

    @property
    def request(self) -> Request:
        """Return the request for the model of the row."""
        model = self.record["model"]
        quantization = self.record.get("quantization", {})
        # What a checkpoint declares is in its configuration.
        asked = quantization if quantization.get("source") == "request" else {}
        return Request(
            model=model["id"],
            dtype=model["dtype"],
            model_class=model["class"],
            quantization=asked.get("method"),
            double_quant=asked.get("double_quant"),
            peft=self.record.get("adapter"),
            autocast_adapter_dtype=self.record.get("autocast_adapter_dtype", True),
            workload=self.workload.name,
            recipe=self.recipe,
            offline=True,
            **self._spread,
        )

    @property
    def _spread(self) -> dict[str, Any]:
        """Return how the row is spread over ranks, as a request says it."""
        launch = dict(self.record.get("launch", {}))
        sharding = {"fsdp2": "fsdp", "fsdp1": "fsdp1"}.get(launch.get("strategy", ""))
        settings = {key: value for key, value in launch.items() if key not in ("strategy", "rank", "group")}
        settings.pop("world_size", None)
        cut, experts = settings.pop("tensor_parallel", None), settings.pop("expert_parallel", 1)
        spread = {"tensor_parallel": cut, "expert_parallel": experts if experts > 1 else None}
        return {"sharding": sharding, "sharding_settings": settings or None, **spread} if launch else {}

    @property
    def place(self) -> tuple[int, int] | None:
        """Return which rank of how many was measured, None of one card."""
        launch = self.record.get("launch")
        return None if launch is None else (launch["rank"], launch["world_size"])

    @property
    def files(self) -> SourceFiles:
        """Return the configuration of the row's model: its own, or that of the bundled catalogue."""
        name = self.record["model"]["id"]
        config = self.record.get("config")
        if "layers" in self.record or "fields" in self.record:
            config = cut(name, self.record.get("layers"), self.record.get("stored"), self.record.get("fields"))
        if config is not None:
            return SourceFiles(id=name, served_from=ServedFrom.LOCAL, config=config)
        files = catalogue.load_model(name)
        assert files is not None, f"{name} is not in the catalogue, and its record has no config"
        return files


@functools.lru_cache(maxsize=1)
def load() -> tuple[Measured, ...]:
    """Return every row of every file."""
    paths = [*sorted(FOLDER.glob("*.json")), *sorted((FOLDER / "stand_in").rglob("*.json"))]
    return tuple(row for path in paths for row in _rows(path))


def _rows(path: Path) -> Iterator[Measured]:
    """Yield the rows of a file; a file of another form has none."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("schema") != SCHEMA:
        return
    is_stand_in = (FOLDER / "stand_in") in path.parents
    shared = {key: value for key, value in content.items() if key != "rows"}
    for row in content.get("rows", [{}]):
        record = _merged(shared, row)
        yield Measured(name=record.get("row", path.stem), group=path.stem, is_stand_in=is_stand_in, record=record)


def _merged(shared: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the rows of a file share with what one of them adds."""
    merged = dict(shared)
    for key, value in row.items():
        before = merged.get(key)
        merged[key] = _merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return merged

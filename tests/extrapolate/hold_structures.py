"""Hold what shallow models say of deep ones against deeper ones, for every structure of layers, and write the table.

    python -m tests.extrapolate.hold_structures [--types] [--every N]

Of each model of the catalogue, and with --types of each type of transformers' that has repeated layers by default, a
training step is held in full, with LoRA on all linear layers and with that on weights in NF4, where they are traced.
What is held already with the installed releases is passed over, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Iterator
from typing import Any

from inspector.errors import InspectorError, NotTraceableError
from inspector.extrapolate.held import TABLE, load_structures
from inspector.predict.findings import Findings
from inspector.predict.predictor import Predictor
from inspector.records.request import LoraOptions, Request
from inspector.records.source import ServedFrom, SourceFiles
from inspector.resolve import resolve_run
from inspector.runtime.versions import find_versions
from inspector.source import catalogue

__all__ = ["hold_run", "list_requests"]

_LORA = LoraOptions(r=8, targets="all-linear")
_OWN = ("inspector", "python")
_CHANGES: tuple[dict[str, Any], ...] = ({}, {"peft": _LORA}, {"peft": _LORA, "quantization": "nf4"})


class _Holding(Findings):
    """Findings of which every extrapolation is held, whatever is known; `held` says how that ended."""

    held: bool | None = None

    def is_held(self, run: Any, hold: Any) -> bool:
        """Hold it."""
        self.held = hold() if self.held is None else self.held
        return self.held


def list_requests(model: str) -> Iterator[Request]:
    """Yield what is held of a model."""
    for change in _CHANGES:
        yield Request(model=model, offline=True, **change)


def hold_run(request: Request, files: SourceFiles, known: frozenset[str]) -> tuple[str, bool] | None:
    """Return the structure of a request's model and whether it was held, None where there is nothing to hold."""
    predictor, findings = Predictor(files), _Holding(files)
    predictor.findings = findings
    try:
        structure = findings.tracer.digest_structure(request)
        if not structure or structure in known:
            return None
        predictor.predict(resolve_run(request, None, {}))
    except (InspectorError, NotTraceableError):  # no such adapter, no such step
        pass
    return None if findings.held is None else (structure, findings.held)


def _list_types() -> Iterator[tuple[str, SourceFiles]]:
    """Yield the default configurations of transformers' types, for the first class of each that has a loss."""
    from tests.evidence.coverage.classes import list_classes
    from tests.evidence.coverage.configurations import make_fields

    seen = set()
    for case in list_classes():
        kind = case["type"]
        if kind in seen:
            continue
        seen.add(kind)
        try:
            fields = {**make_fields(kind, case["class"]), "architectures": [case["class"]], "model_type": kind}
        except Exception:  # of a type whose defaults do not go together
            continue
        yield case["class"], SourceFiles(id=case["class"], served_from=ServedFrom.LOCAL, config=fields)


def main() -> None:
    """Hold what is not known, and write the table anew after each model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--types", action="store_true")
    parser.add_argument("--every", type=int, default=1)
    arguments = parser.parse_args()
    versions = {name: version.partition("+")[0] for name, version in find_versions().items() if name not in _OWN}
    structures = set(load_structures(versions))
    models = ((name, files) for name in catalogue.list_ids() if (files := catalogue.load_model(name)) is not None)
    for index, (name, files) in enumerate(_list_types() if arguments.types else models):
        if index % arguments.every:
            continue
        for request in list_requests(name):
            found = hold_run(request, files, frozenset(structures))
            if found is None:
                continue
            print(name, request.quantization or ("lora" if request.peft else "full"), *found, flush=True)
            if found[1]:
                structures.add(found[0])
        TABLE.write_text(json.dumps({"versions": versions, "structures": sorted(structures)}, indent=0) + "\n")
        gc.collect()


if __name__ == "__main__":
    main()

"""Real steps of classes whose trace stops as a real step does: `python -m tests.evidence.coverage.real_steps`.

The same step runs on the CPU, with real tensors and few layers, as `inspect measure` runs it on a GPU. The row of a
class whose step stops with the words of its reason gets `ran`, which the page shows.
"""

from __future__ import annotations

import gc
import json
import os
import re
import sys
from importlib import metadata

import torch
import transformers

from inspector.measure.running import run_steps
from inspector.records.recipe import Recipe
from inspector.records.tape import Phase
from inspector.workloads.registry import TRAINING, load_workload
from tests.evidence.coverage.configurations import build, count_parameters, find_type, list_shortened, make_fields
from tests.evidence.coverage.walk import FOLDER, read_rows, write_rows
from tests.trace.small_tasks import match_alike
from tests.workloads.tracing import built, resolve

__all__ = ["stop_really"]

_STOPS = "as a real step does"
# More is not run: a step touches all of its weights, gradients and moments.
_MOST = 350_000_000


class _Nobody:
    """Watches nothing."""

    def enter(self, phase: Phase, step: int) -> None:
        """Pass over a phase."""

    def close(self) -> None:
        """Pass over the end."""


def stop_really(model_type: str, name: str) -> str | None:
    """Return with what words a real step of a class stops; None where it does not, or where it is too large."""
    model_class = getattr(transformers, name)
    model_type = find_type(model_type, model_class)
    fields = make_fields(model_type, name)
    whole = build(fields, model_type, model_class)
    fields = next(iter(list_shortened(model_type, model_class, name, whole, most_experts=2)), fields)
    model = build(fields, model_type, model_class)
    if count_parameters(model) > _MOST:
        return None
    recipe = resolve(model, Recipe())
    try:
        with match_alike():
            run_steps(load_workload(TRAINING), built(model), recipe, torch.device("cpu"), _Nobody())
    except Exception as error:  # whatever the class raises
        return f"{type(error).__name__}: {error}"
    return None


def main() -> None:
    """Run a step of every such class, or of those whose names match the pattern given, and note which stop alike."""
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    rows = read_rows("classes")
    for row in rows:
        reason = row.get("reason") or ""
        if row.get("traced") or not row["loss"] or _STOPS not in reason or not re.search(_get_pattern(), row["class"]):
            continue
        try:
            words = stop_really(row["type"], row["class"])
        except Exception as error:  # of what cannot be prepared for a step
            words = f"{type(error).__name__}: {error}"
        row.pop("ran", None)
        if words is not None and _clean(words)[:60] in _clean(reason):
            row["ran"] = True
        print(f"{row['class']}: {row.get('ran', False)}: {words}"[:200], flush=True)
        gc.collect()
    versions = json.loads((FOLDER / "classes.json").read_text(encoding="utf-8"))["versions"]
    assert versions["transformers"] == metadata.version("transformers")
    write_rows("classes", FOLDER, rows, versions)


def _clean(words: str) -> str:
    """Return words without what a shape is called, which is another on meta, and with single spaces."""
    return " ".join(re.sub(r"torch\.Size\((.*?)\)", r"\1", words).split())


def _get_pattern() -> str:
    """Return which classes are asked for."""
    return sys.argv[1] if len(sys.argv) > 1 else ""


if __name__ == "__main__":
    main()

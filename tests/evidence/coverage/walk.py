"""Walk what is installed: `python -m tests.evidence.coverage.walk classes|adapters|public [--only REGEX] [--again]`.

Writes classes.json, adapters.json or public.json beside this module after each group of cases; what is there already is
kept, so that a walk that was ended goes on. `--again REGEX` walks the cases anew whose row matches it ("which batch",
say). The page is made by `python -m tests.evidence.coverage.page`.

`--beside PACKAGES` walks cases anew that need packages, in an environment that has them, and notes what is found beside
what is without them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import inspector
from tests.evidence.coverage.children import run_group

__all__ = ["FOLDER", "read_rows", "write_rows"]

FOLDER = Path(__file__).parent
_SECONDS = 60.0
_NAMED = ("torch", "transformers", "peft", "accelerate")


def read_rows(kind: str, folder: Path = FOLDER) -> list[dict[str, Any]]:
    """Return the rows of a walk that are written down."""
    path = folder / f"{kind}.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    return rows


def find_walk(kind: str) -> tuple[list[dict[str, Any]], Callable[[dict[str, Any], Path], Iterator[dict[str, Any]]]]:
    """Return the cases of a walk and what judges one; the libraries are loaded now."""
    _load_all()
    module: Any = importlib.import_module(f"tests.evidence.coverage.{kind}")
    if kind == "classes":
        return module.list_classes(), module.judge_class
    if kind == "adapters":
        return module.list_adapters(), module.judge_adapter
    return module.list_public(), module.judge_public


def _load_all() -> None:
    """Load what an inspection needs before any child is forked, by one of a small model."""
    config = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "config.json"
        path.write_text(json.dumps({**config, "model_type": "llama", "vocab_size": 8, "num_key_value_heads": 2}))
        inspector.inspect(path, offline=True)


def _key(row: dict[str, Any]) -> tuple[str, str]:
    """Return what a row is known by."""
    return (row["type"], row["class"]) if "class" in row else (row["model"], row["method"])


def write_rows(kind: str, folder: Path, rows: list[dict[str, Any]], versions: dict[str, str]) -> None:
    """Write the rows, a line each, in an order that does not depend on when they were made."""
    lines = ",\n".join(json.dumps(row) for row in sorted(rows, key=_key))
    text = f'{{"versions": {json.dumps(versions)}, "rows": [\n{lines}\n]}}\n'
    made = folder / f"{kind}.new"
    made.write_text(text, encoding="utf-8")
    made.replace(folder / f"{kind}.json")


def main() -> None:
    """Walk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("classes", "adapters", "public"))
    parser.add_argument("--only", default="", help="a regular expression that a case's names match")
    parser.add_argument("--again", help="a regular expression that the row of a case to walk anew matches")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="processor time of a case")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the rows are written")
    parser.add_argument("--beside", metavar="PACKAGES", help="which packages this environment has beside")
    given = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", INSPECTOR_IN_PROCESS="1", OMP_NUM_THREADS="1")
    rows = {_key(row): row for row in read_rows(given.kind, given.folder)}
    versions = {name: metadata.version(name) for name in _NAMED}
    if given.beside:
        versions = json.loads((given.folder / f"{given.kind}.json").read_text(encoding="utf-8"))["versions"]

    def finish(case: dict[str, Any], row: dict[str, Any]) -> None:
        known = rows.get(_key(case), {})
        if given.beside:
            rows[_key(case)] = {**known, "beside": {"packages": given.beside, **row}}
        else:
            rows[_key(case)] = {**case, **row, **({"beside": known["beside"]} if "beside" in known else {})}

    cases, judge = find_walk(given.kind)
    groups: dict[str, list[dict[str, Any]]] = {}
    for case in cases:
        known = rows.get(_key(case))
        stays = known is not None and not (given.again and re.search(given.again, json.dumps(known)))
        if not stays and re.search(given.only, " ".join(_key(case))):
            groups.setdefault(_key(case)[0], []).append(case)
    with tempfile.TemporaryDirectory() as made:
        for number, group in enumerate(groups.values(), start=1):
            run_group(
                group,
                lambda case: judge(case, Path(made)),
                given.seconds,
                finish,
            )
            write_rows(given.kind, given.folder, list(rows.values()), versions)
            print(f"{number} of {len(groups)}: {_key(group[0])[0]}", flush=True)


if __name__ == "__main__":
    main()

"""docs/evidence/coverage.md: `python -m tests.evidence.coverage.page` writes it from the rows of the walk."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from tests.evidence.coverage.walk import FOLDER, read_rows

__all__ = ["PAGE", "make_page"]

PAGE = FOLDER.parents[2] / "docs" / "evidence" / "coverage.md"
Row = dict[str, Any]

_HEAD = """# What is counted and traced of the libraries

Made by `python -m tests.evidence.coverage.page` from `classes.json`, `adapters.json` and `public.json` in
tests/evidence/coverage, which `python -m tests.evidence.coverage.walk` makes with {versions}.
Every class of transformers with a head is counted on its type's default configuration and held against the same class
built of real tensors; its step is traced with few layers of every kind, in float32, one row of 1,024 tokens, an image
or 30 seconds of sound. Every method of PEFT and every variant of LoRA is put on small models and held against PEFT on
real tensors. *With a loss*: the forward pass takes labels or what stands for them, and does not say that training is
missing. CI walks a sample again and compares. The walk is resumable: what it has not come to yet is not in here. Types
whose defaults cannot be built or stop a step have other values in `_REPAIRS` of `configurations.py`, chosen so that
they run and not read from published configurations. Rows that were not walked again keep the peaks of earlier rules.

"""
_CLASSES = """## Classes of transformers

Counted: {counted} of {classes}, {equal} held against real tensors and equal, {unequal} unequal.
Traced, of the {loss} with a loss: **{traced} ({share:.1f} %)**; with those whose reason a real run shares, {explained}:
of {built} transformers builds none, and of {ran} a real step ran on the CPU and stopped with the same words
(`python -m tests.evidence.coverage.real_steps`); of the others the words alone say so.{beside}

| task | classes | counted | with a loss | traced |
| --- | ---: | ---: | ---: | ---: |
"""
_ADAPTERS = """
## Methods of PEFT

{cases} cases, {attached} of which PEFT attaches to real tensors: counted {counted}, parameters equal {equal}, files
equal {files}; traced {traced}, where a real step runs {trained} of {trains}.

| method | counted | equal | traced | why not |
| --- | ---: | ---: | ---: | --- |
"""
_PUBLIC = """
## Published models

The {models} configurations of the catalogue, with the command's defaults: {traced} of {runs} runs traced; the others
stop as a real step does. Other published models are not at hand here: their classes' defaults are above.

| trained | traced | largest peak, GB | not traced |
| --- | ---: | ---: | --- |
"""
# Beginnings of reasons that a real run shares: transformers or PEFT refuse or fail in the same way.
_SHARED = re.compile(
    r"transformers cannot build|has no loss|as a real step does|as a real run|PEFT refuses|nothing would train|"
    r"Expected more than 1 value per channel"
)


def make_page() -> str:
    """Return the page."""
    classes, adapters = read_rows("classes"), read_rows("adapters")
    versions = json.loads((FOLDER / "classes.json").read_text(encoding="utf-8"))["versions"]
    named = ", ".join(f"{name} {version.partition('+')[0]}" for name, version in versions.items())
    tables = (*_list_classes(classes), *_list_adapters(adapters), *_list_public(read_rows("public")))
    return "".join((_HEAD.format(versions=named), *tables))


def _list_classes(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the table by task and that of the exceptions."""
    with_loss = [row for row in rows if row["loss"]]
    traced = sum(bool(row.get("traced")) for row in with_loss)
    yield _CLASSES.format(
        counted=sum(bool(row.get("counted")) for row in rows),
        classes=len(rows),
        equal=sum(row.get("equal") is True for row in rows),
        unequal=sum(row.get("equal") is False for row in rows),
        loss=len(with_loss),
        traced=traced,
        share=100 * traced / max(len(with_loss), 1),
        beside=_describe_beside(with_loss),
        built=sum(_is_not_built(row) for row in with_loss),
        ran=sum(bool(row.get("ran")) for row in with_loss),
        explained=sum(bool(row.get("traced")) or bool(_SHARED.search(row.get("reason") or "")) for row in with_loss),
    )
    by_task: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        for task in row["tasks"]:
            by_task[task].append(row)
    for task, of_task in sorted(by_task.items(), key=lambda item: (-len(item[1]), item[0])):
        loss = [row for row in of_task if row["loss"]]
        cells = (
            task,
            len(of_task),
            sum(bool(row.get("counted")) for row in of_task),
            len(loss),
            sum(bool(row.get("traced")) for row in loss),
        )
        yield f"| {' | '.join(map(str, cells))} |\n"
    yield "\n### With a loss and not traced\n\n| class | type | why | as a real run |\n| --- | --- | --- | --- |\n"
    for row in with_loss:
        if not row.get("traced"):
            reason = row.get("reason") or ""
            was_run = "yes, run" if row.get("ran") or _is_not_built(row) else "yes"
            shared = was_run if _SHARED.search(reason) else ""
            why = _clean(reason, row["class"])
            why = f"{why} (traced with {row['beside']['packages']})" if _is_traced_beside(row) else why
            yield f"| {row['class']} | {row['type']} | {why} | {shared} |\n"
    left_out = Counter(code for row in with_loss for code in row.get("leaves_out", ()) if row.get("traced"))
    of_codes = ", ".join(f"`{code}` {count}" for code, count in sorted(left_out.items()))
    yield f"\nTraced with text alone, which the report says on its first screen: {of_codes or 'none'}.\n"


def _describe_beside(rows: Sequence[Row]) -> str:
    """Return how many classes more are traced where packages are installed that transformers asks for."""
    counts = Counter(row["beside"]["packages"] for row in rows if _is_traced_beside(row))
    return "".join(f" With {packages} installed {count} more are traced." for packages, count in counts.items())


def _is_not_built(row: Row) -> bool:
    """Tell whether transformers stopped while it built a class, as it did for the walk."""
    return (row.get("reason") or "").startswith("transformers cannot build")


def _is_traced_beside(row: Row) -> bool:
    """Tell whether a class is traced where what it needs is installed."""
    return bool(row.get("beside", {}).get("traced"))


def _list_adapters(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the table of methods."""
    attached = [row for row in rows if row.get("attaches")]
    trains = [row for row in attached if row.get("trains")]
    yield _ADAPTERS.format(
        cases=len(rows),
        attached=len(attached),
        counted=sum(bool(row.get("counted")) for row in attached),
        equal=sum(row.get("equal") is True for row in attached),
        files=sum(row.get("file_equal") is True for row in attached),
        traced=sum(bool(row.get("traced")) for row in attached),
        trained=sum(bool(row.get("traced")) for row in trains),
        trains=len(trains),
    )
    by_method: dict[str, list[Row]] = defaultdict(list)
    for row in attached:
        by_method[row["method"]].append(row)
    for method, of_method in sorted(by_method.items()):
        numbers = [sum(bool(row.get(key)) for row in of_method) for key in ("counted", "equal", "traced")]
        reasons = Counter(_clean(row["reason"], "") for row in of_method if row.get("reason"))
        why = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
        cells = (method, *(f"{number} of {len(of_method)}" for number in numbers), why)
        yield f"| {' | '.join(cells)} |\n"


def _list_public(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the table of published models."""
    models, traced = {row["model"] for row in rows}, sum(bool(row["traced"]) for row in rows)
    yield _PUBLIC.format(models=len(models), traced=traced, runs=len(rows))
    for method in sorted({row["method"] for row in rows}):
        of_method = [row for row in rows if row["method"] == method]
        missing = [f"{row['model']}: {_clean(row['reason'], '')}" for row in of_method if not row["traced"]]
        largest = max(row.get("peak", 0) for row in of_method) / 1e9
        number = f"{len(of_method) - len(missing)} of {len(of_method)}"
        yield f"| {method} | {number} | {largest:,.1f} | {'; '.join(missing)} |\n"


def _clean(reason: str, name: str) -> str:
    """Return a reason for a cell of a table, without what the row says already."""
    text = " ".join(reason.replace("|", "/").split())
    text = text.removeprefix("The training step was not traced: ").removesuffix(". The static bytes are what is known.")
    for words in (f"{name} stopped the trace ", f"{name} "):
        text = text.removeprefix(words) if name else text
    return text if len(text) <= 160 else f"{text[:157]} …"


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")

"""docs/evidence/training-files.md: `python -m tests.evidence.training_files.page` writes it."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from inspector.errors import UnsupportedModelError
from inspector.records.training_file import FieldNotModelled, Origin
from tests.evidence.training_files.real_files import FOLDER, load_files, read_real_file

__all__ = ["PAGE", "make_page"]

PAGE = FOLDER.parents[2] / "docs" / "evidence" / "training-files.md"
_HEAD = """# What is understood of real training files

Made by `python -m tests.evidence.training_files.page` from `tests/evidence/training_files/train_configs.json`: the
memory-relevant fields of {files} files of the frameworks' own repositories, each at a named commit. The tests hold that
every file is recognised, that none of its fields is passed over, and that its request is the one that it is known to
mean, where that is known ({expected} files).

*Modelled* are fields of the file that decide the figures, *not modelled* those that change memory and are in none yet,
*by itself* what the framework does without a field for it. **Modelled: {modelled} of {total} fields, {share:.1f} %.**
What each field becomes: [training-files.md](../reference/training-files.md).

| framework | file | stage | modelled | not modelled | by itself |
| --- | --- | --- | ---: | --- | --- |
"""


def make_page(folder: Path) -> str:
    """Return the page, from files that are written into a folder."""
    rows, missed = [], Counter[str]()
    modelled = total = 0
    for known in load_files():
        where = f"[{known['path']}](https://github.com/{known['repository']})"
        try:
            record = read_real_file(known, folder).record
        except UnsupportedModelError:
            rows.append(f"| {known['framework']} | {where} | {known['stage']} | – | all: its models are its own | |")
            continue
        own = [item for item in record.not_modelled if item.origin is Origin.FILE]
        names = {item.name for item in own}
        read = [item for item in record.fields if item.origin is Origin.FILE and item.name not in names]
        modelled += len(read)
        total += len(read) + len(own)
        missed.update(f"{record.framework} {item.name}" for item in own)
        by_itself = [item for item in record.not_modelled if item.origin is not Origin.FILE]
        cells = (record.framework, where, record.stage or "launch", len(read), _name(own), _name(by_itself))
        rows.append(f"| {' | '.join(map(str, cells))} |")
    expected = sum(bool(known.get("expected")) for known in load_files())
    head = _HEAD.format(
        files=len(load_files()), expected=expected, modelled=modelled, total=total, share=100 * modelled / total
    )
    return head + "\n".join(rows) + "\n" + "".join(_list_missed(missed))


def _name(items: list[FieldNotModelled]) -> str:
    """Return names with their directions."""
    return ", ".join(f"{item.name} ({item.effect.direction})" for item in items)


def _list_missed(missed: Counter[str]) -> Iterator[str]:
    """Yield the fields that are not modelled by how many files have them."""
    yield "\n## Not modelled, by how many files have it\n\n| field | files |\n| --- | ---: |\n"
    for name, count in sorted(missed.items(), key=lambda item: (-item[1], item[0])):
        yield f"| {name} | {count} |\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        PAGE.write_text(make_page(Path(made)), encoding="utf-8")

"""The tables of docs/evidence/reliability.md, made of what the tests of this folder saw.

A test calls `told(section, fault, ran)` with what the command did. At the end of a session,
tests/reliability/test_table.py compares the tables with the committed ones, or writes them with UPDATE_RELIABILITY=1.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tests.cli.running import Ran

__all__ = ["DOCUMENT", "Row", "Rows", "committed", "write"]

DOCUMENT = Path(__file__).parents[2] / "docs" / "evidence" / "reliability.md"
_START, _END = "<!-- made by tests/reliability: start -->\n", "<!-- made by tests/reliability: end -->\n"


@dataclass(frozen=True, slots=True, order=True)
class Row:
    """One fault: under which heading it stands, what it is, the exit code, what is said, and how often was asked."""

    section: str
    fault: str
    code: int
    said: str
    requests: str

    def markdown(self) -> str:
        """Return the row as Markdown."""
        said = self.said.replace("|", "\\|").replace("<", "&lt;")
        return f"| {self.fault} | {self.code} | {said} | {self.requests} |"


class Rows:
    """Collects rows of a session; a fault is told once."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Row] = {}

    def add(self, section: str, fault: str, ran: Ran, hide: dict[str, str], requests: int | None) -> None:
        """Note what the command did, with whatever differs from run to run hidden."""
        assert ran.code in (0, 2, 3, 4, 130), ran
        line = ran.err.strip()
        assert "\n" not in line, f"more than one line: {ran.err!r}"
        said = line.removeprefix("inspect: ") or _warning(ran)
        for text, name in hide.items():
            said = said.replace(text, name)
        said = re.sub(r"http://127\.0\.0\.1:\d+", "HUB", said)
        row = Row(section, fault, ran.code, said, "" if requests is None else str(requests))
        assert self.rows.setdefault((section, fault), row) == row, f"told twice: {fault}"


def _warning(ran: Ran) -> str:
    """Return the first warning of a JSON report that has to do with the source, or that there is none."""
    warnings = [item for item in ran.report["warnings"] if item["code"] not in ("remote-code", "dtype-assumed")]
    return f"report; `{warnings[0]['code']}`: {warnings[0]['message']}" if warnings else "report"


def tables(rows: Rows) -> str:
    """Return all rows as Markdown, one table under each heading."""
    lines: list[str] = []
    found = sorted(rows.rows.values())
    for section in dict.fromkeys(row.section for row in found):
        lines += [f"### {section}", "", "| fault | exit | what the user gets | requests |", "| --- | --- | --- | --- |"]
        lines += [row.markdown() for row in found if row.section == section] + [""]
    return "\n".join(lines)


def committed() -> str:
    """Return the tables that the document holds."""
    text = DOCUMENT.read_text(encoding="utf-8")
    return text.partition(_START)[2].partition(_END)[0]


def write(rows: Rows) -> None:
    """Put the tables of this session into the document."""
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(_START)
    after = rest.partition(_END)[2]
    DOCUMENT.write_text(f"{before}{_START}{tables(rows)}{_END}{after}", encoding="utf-8")


def is_update() -> bool:
    """Tell whether the document is to be written."""
    return os.environ.get("UPDATE_RELIABILITY") == "1"

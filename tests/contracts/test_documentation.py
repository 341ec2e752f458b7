"""What the pages say of the tree holds: every link leads somewhere, every path exists, every count is the real one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from inspector.hardware.catalogue import catalogue
from tests.evidence.stand_in.kernel_cases import CASES
from tests.evidence.stand_in.layout_cases import LAYOUTS
from tests.evidence.stand_in.loss_cases import LOSSES
from tests.evidence.stand_in.sampling_cases import SAMPLING
from tests.evidence.truth.records import load
from tests.trace.small_models import SMALL

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "fixtures").glob("*.md")]
    if path.name != "LICENSE.md"
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
# Files and folders of the tree in running text, as in `inspector/trace/kernels/` or tests/evidence/truth/matrix.py.
NAMED = re.compile(r"(?<![\w./-])((?:inspector|tests|docs|fixtures|benchmarks)/[\w./-]*\w)(/?)")
# Pages of the past: the changelog names things by the names that they had.
OF_NOW = [page for page in PAGES if page.name != "CHANGELOG.md"]


def anchors(page: Path) -> set[str]:
    """Return the anchors that the headings of a page have as it is shown."""
    headings = HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def count_models() -> int:
    """Return how many models the bundled catalogue has."""
    return len(list((ROOT / "fixtures" / "models").glob("*.json")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path) if path else page
        if not file.exists() or (heading and heading not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", OF_NOW, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    named = NAMED.findall(page.read_text(encoding="utf-8"))
    # The page on records names files that its reader will write.
    written_by_readers = re.compile(r"rtx4090\.json$|^inspector/(fixtures|\d)")
    missing = [name for name, _ in named if not (ROOT / name).exists() and not written_by_readers.search(name)]
    assert missing == []


def test_every_page_is_on_the_map() -> None:
    folder = ROOT / "docs"
    linked = {(folder / target).resolve() for target in LINK.findall((folder / "index.md").read_text(encoding="utf-8"))}
    pages = {page for page in folder.rglob("*.md") if page.name != "index.md"}
    assert pages - linked == set()


COUNTS: list[tuple[str, str, Callable[[], int]]] = [
    ("README.md", r"(\d+) widely used models", count_models),
    ("README.md", r"`inspect gpus` lists (\d+)\)", lambda: len(catalogue())),
    ("CHANGELOG.md", r"a catalogue of (\d+) models", count_models),
    ("CHANGELOG.md", r"`inspect gpus` lists a catalogue of (\d+)", lambda: len(catalogue())),
    (
        "fixtures/README.md",
        r"each of (\d+) public models",
        lambda: len(list((ROOT / "fixtures/models").glob("*.json"))),
    ),
    ("docs/explain/training.md", r"For (\d+) architectures the meta tape", lambda: len(SMALL)),
    ("docs/explain/training.md", r"equals what (\d+) calls of ops", lambda: len(CASES)),
    ("docs/explain/training.md", r"`inspect measure` ran (\d+) rows", lambda: sum(row.is_stand_in for row in load())),
]


@pytest.mark.parametrize(("page", "pattern", "count"), COUNTS, ids=[pattern for _, pattern, _ in COUNTS])
def test_a_count_that_a_page_gives_is_the_real_one(page: str, pattern: str, count: Callable[[], int]) -> None:
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    assert [int(number) for number in re.findall(pattern, text)] == [count()]


def test_every_recording_of_kernels_has_every_case() -> None:
    for path in (ROOT / "tests" / "evidence" / "stand_in" / "recorded").glob("*.json"):
        cases = {"sampling": SAMPLING, "losses": LOSSES, "layouts": LAYOUTS}.get(path.name.partition("-")[0], CASES)
        assert len(json.loads(path.read_text(encoding="utf-8"))["cases"]) == len(cases)


def test_every_function_that_the_architecture_page_names_is_defined_in_the_code() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "inspector").rglob("*.py"))
    defined = set(re.findall(r"\b\w+\b", code))
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    # Modules of the model that is followed through the code.
    of_the_example = {"self_attn"}
    named = set(re.findall(r"`(?:\w+\.)*(_?[a-z]+(?:_[a-z0-9]+)+)(?:\(\))?`", page)) - of_the_example
    assert len(named) > 40
    assert named - defined == set()

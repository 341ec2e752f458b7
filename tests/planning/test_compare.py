"""Reports side by side: what differs is found, what is equal is named, and a file of anything else is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inspector.errors import UsageError
from inspector.planning.compare import compare_reports
from inspector.records.comparison import Comparison
from inspector.render.comparison import build_comparison_document
from inspector.render.document import Paragraph

VERSIONS = {"inspector": "0.1.0"}


def report(**changes: Any) -> dict[str, Any]:
    """Return a small report; a change of `a__b` goes to the key b of a."""
    made: dict[str, Any] = {
        "schema": "inspector/1",
        "versions": {"torch": "2.13"},
        "model": {"id": "x", "dtype": "bfloat16"},
        "parameters": {"base": 100, "total": 108, "trainable": 8},
        "adapter": {"type": "LORA", "config": {"r": 4, "target_modules": ["q", "v"]}, "file_bytes": 48},
        "training": {
            "recipe": {"batch_size": 1, "optimizer": "sgd", "gradient_checkpointing": False},
            "peak_allocated_bytes": 700,
            "peak": {"phase": "backward", "breakdown": {"weights": 200, "activations": 500}},
            "peak_reserved_bytes": 1_000,
            "total_bytes": 1_500,
            "phases": [{"name": "forward", "peak_allocated_bytes": 600, "end_allocated_bytes": 550}],
            "end_of_step_allocated_bytes": 200,
        },
        "fit": [{"gpu": "T4", "fits": True, "headroom_bytes": 30}],
        "warnings": [{"code": "x", "message": "Beware."}],
    }
    for path, value in changes.items():
        *keys, last = path.split("__")
        inner = made
        for key in keys:
            inner = inner[key]
        inner[last] = value
    return made


def compare(*reports: dict[str, Any]) -> Comparison:
    """Compare reports that are called by their number."""
    return compare_reports([(str(index), each) for index, each in enumerate(reports)], VERSIONS)


def test_what_differs_stands_in_the_order_of_a_report_and_the_rest_is_equal() -> None:
    """500 of activations against 100; each figure with its difference to the first."""
    smaller = report(training__peak_allocated_bytes=300, training__recipe__gradient_checkpointing=True)
    smaller["training"]["peak"] = {"phase": "optimizer", "breakdown": {"weights": 200, "activations": 100}}
    found = compare(report(), smaller)
    assert [(each.path, dict(each.values)) for each in found.settings] == [
        ("training.recipe.gradient_checkpointing", {"A": False, "B": True}),
        ("training.peak.phase", {"A": "backward", "B": "optimizer"}),
    ]
    assert [(each.path, dict(each.values), dict(each.differences)) for each in found.figures] == [
        ("training.peak_allocated_bytes", {"A": 700, "B": 300}, {"B": -400}),
        ("training.peak.breakdown.activations", {"A": 500, "B": 100}, {"B": -400}),
    ]
    assert found.equal == [
        *("parameters.base", "parameters.total", "parameters.trainable", "adapter.file_bytes"),
        *("training.peak.breakdown.weights", "training.peak_reserved_bytes", "training.total_bytes"),
        *("training.phases.forward.peak_allocated_bytes", "training.phases.forward.end_allocated_bytes"),
        *("training.end_of_step_allocated_bytes", "fit.T4.headroom_bytes"),
    ]


def test_a_figure_that_one_compared_recipe_lacks_is_absent() -> None:
    """Full fine-tuning has no adapter and no file; counts alone have no training."""
    full = report()
    del full["adapter"]
    counted = {key: value for key, value in full.items() if key not in ("training", "fit")}
    found = compare(full, report(), counted)
    figures = {each.path: each for each in found.figures}
    assert (figures["adapter.file_bytes"].values, figures["adapter.file_bytes"].differences) == ({"B": 48}, {})
    assert figures["training.total_bytes"].values == {"A": 1_500, "B": 1_500}
    settings = {each.path: each.values for each in found.settings}
    assert settings["adapter.config.target_modules"] == {"B": '["q", "v"]'}
    assert settings["fit.T4.fits"] == {"A": True, "B": True}


def test_a_comparison_matches_gpus_and_phases_by_name() -> None:
    """Whatever their place in the list."""
    other = report(fit=[{"gpu": "L4", "fits": True, "headroom_bytes": 9}, *report()["fit"]])
    found = compare(report(), other)
    assert [each.path for each in found.figures] == ["fit.L4.headroom_bytes"]
    assert "fit.T4.headroom_bytes" in found.equal


def test_a_comparison_shows_a_warning_once_with_the_recipes_it_is_about() -> None:
    """In the order in which they come."""
    other = report(warnings=[{"code": "y", "message": "Only\x1b here."}, {"code": "x", "message": "Beware."}])
    said = [(list(each.recipes), each.message) for each in compare(report(), other).warnings]
    assert said == [(["A", "B"], "Beware."), (["B"], "Only\N{REPLACEMENT CHARACTER} here.")]


@pytest.mark.parametrize("count", [0, 1, 9])
def test_a_comparison_is_of_two_to_eight(count: int) -> None:
    """One line says so."""
    with pytest.raises(UsageError, match="give 2 to 8"):
        compare(*[report()] * count)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schema": "inspector-plan/1"}, "no report of schema inspector/1"),
        ({"schema": None}, "no report of schema inspector/1"),
        ({"training__total_bytes": "1500"}, "training.total_bytes is no integer"),
        ({"parameters__base": 1.5}, "parameters.base is no integer"),
        ({"parameters__base": True}, "parameters.base is no integer"),
        ({"fit": [{"gpu": "T4", "headroom_bytes": []}]}, "fit.T4.headroom_bytes is no integer"),
    ],
)
def test_a_file_that_is_no_report_is_refused_by_its_name(changes: dict[str, Any], says: str) -> None:
    """With what is wrong in it."""
    with pytest.raises(UsageError, match="'1' is no") as caught:
        compare(report(), report(**changes))
    assert says in str(caught.value)
    assert str(caught.value).isprintable()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=6,
)
PATHS = st.sampled_from(
    [
        *("versions", "model", "model__id", "parameters", "adapter", "adapter__config", "training", "fit", "warnings"),
        *("training__phases", "training__peak", "training__peak__breakdown", "training__recipe"),
        "training__total_bytes",
    ]
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(changes=st.dictionaries(PATHS, JSON, max_size=3))
def test_a_report_of_anything_is_compared_or_refused(changes: dict[str, Any]) -> None:
    """Files come from whoever hands them over: no other error, and nothing unprintable."""
    odd = report()
    for path in sorted(changes, key=lambda each: -each.count("__")):
        *keys, last = path.split("__")
        inner = odd
        for key in keys:
            inner = inner[key]
        inner[last] = copy.deepcopy(changes[path])
    try:
        found = compare(report(), odd)
    except UsageError as error:
        said = [str(error)]
    else:
        said = [text for each in found.settings for text in (each.path, *map(str, each.values.values()))]
        said += [each.path for each in found.figures]
    assert all(text.isprintable() for text in said)


@given(st.lists(st.integers(0, 2**70), min_size=2, max_size=8))
def test_differences_lead_from_the_first_to_each_other(sizes: list[int]) -> None:
    """A and the difference make the value; equal figures are no difference."""
    found = compare(*(report(training__total_bytes=size) for size in sizes))
    figures = {each.path: each for each in found.figures}
    if len(set(sizes)) == 1:
        assert "training.total_bytes" in found.equal
        return
    figure = figures["training.total_bytes"]
    letters = "ABCDEFGH"[: len(sizes)]
    assert [figure.values[letter] for letter in letters] == sizes
    assert [figure.differences[letter] + sizes[0] for letter in letters[1:]] == sizes[1:]


def test_where_the_peak_is_stands_below_the_figures_and_not_among_the_settings() -> None:
    """Nobody sets it; it says of which moment the figures by category are."""
    smaller = report(training__peak={"phase": "optimizer", "breakdown": {"weights": 200, "activations": 100}})
    sections = {section.title: section for section in build_comparison_document(compare(report(), smaller)).sections}
    assert "Settings that differ" not in sections
    note = sections["Figures that differ"].blocks[1]
    assert isinstance(note, Paragraph)
    assert note.text == "Figures by category are those at each recipe's own peak (phase: A backward, B optimizer)."
    same = {
        section.title: section
        for section in build_comparison_document(compare(report(), report(training__total_bytes=1))).sections
    }
    assert len(same["Figures that differ"].blocks) == 1

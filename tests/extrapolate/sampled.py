"""One extrapolation in so many, of whatever the tests ask for, is held against a trace of the whole model.

`test_deep_models` holds models and recipes that somebody chose. With INSPECTOR_CHECK_EXTRAPOLATION=500 one in 500 of
all tapes that a run of the tests extrapolates is held, too, another one each time: when the test that asked for it is
over and has put back what it replaced. What was traced under replaced parts of a library is left out.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import random

from inspector.errors import InspectorError
from inspector.extrapolate import TapeTemplate
from inspector.extrapolate.held import sort_frees
from inspector.predict.predictor import Predictor
from inspector.predict.tracing import ModelTracer
from inspector.records.recipe import Recipe
from inspector.records.source import SourceFiles
from inspector.resolve import ResolvedRun

__all__ = ["VARIABLE", "Sample", "hold", "read_variable"]

VARIABLE = "INSPECTOR_CHECK_EXTRAPOLATION"


class Sample:
    """The extrapolations that wait to be held, of every so many one."""

    def __init__(self, every: int) -> None:
        self._numbers = itertools.count(random.SystemRandom().randrange(every))
        self._every = every
        self._waiting: list[tuple[SourceFiles, ResolvedRun, TapeTemplate]] = []

    def install(self) -> None:
        """Note some of what predictors extrapolate from here on."""
        extrapolate = Predictor._extrapolate

        def note(predictor: Predictor, run: ResolvedRun) -> tuple[Recipe, int, TapeTemplate] | None:
            found = extrapolate(predictor, run)
            files = predictor.findings._files
            if found is not None and files is not None and next(self._numbers) % self._every == 0:
                self._waiting.append((files, run, found[2]))
            return found

        Predictor._extrapolate = note  # type: ignore[method-assign,assignment]  # while tests run

    def drop(self) -> None:
        """Forget what waits."""
        self._waiting = []

    def hold_all(self) -> None:
        """Hold what waits; AssertionError where a tape is another one than that of the whole model."""
        waiting, self._waiting = self._waiting, []
        for files, run, template in waiting:
            hold(files, run, template)


def hold(files: SourceFiles, run: ResolvedRun, template: TapeTemplate) -> None:
    """Insist that an extrapolated tape is that of the whole model, but for the order of neighbouring frees."""
    offline = run.with_request(dataclasses.replace(run.request, offline=True))
    try:
        whole = ModelTracer(files).trace(offline, None).tape
    except InspectorError:  # what the test ran under, such as another kernel, is not there any more
        return
    pairs = itertools.zip_longest(sort_frees(template.make_tape(template.sizes)), sort_frees(whole))
    differences = [pair for pair in enumerate(pairs) if pair[1][0] != pair[1][1]]
    assert not differences, f"{files.id}, {run.request}: the extrapolated event is another one: {differences[:3]}"


def read_variable() -> int | None:
    """Return one in how many is held, None where none is."""
    value = os.environ.get(VARIABLE, "")
    return int(value) if value.isdecimal() and int(value) else None

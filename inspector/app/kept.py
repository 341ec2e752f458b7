"""What a worker read, built and traced of the last models, for the next question about one of them.

Questions that differ in batch size and sequence length alone share the counted model, and their runs the tapes that
one predictor knows. What is kept is bounded in models, in questions and in time: a branch of the Hub moves.
"""

from __future__ import annotations

import dataclasses
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar

from inspector.cache.findings import Kept
from inspector.pipeline import Progress, Stages
from inspector.records.recipe import Recipe
from inspector.records.request import Request
from inspector.records.source import SourceFiles

if TYPE_CHECKING:
    from inspector.model.build import Depths
    from inspector.predict.predictor import Predictor
    from inspector.records.model import Counted

__all__ = ["KeptStages"]

_MOST_MODELS = 2
_MOST_COUNTS = 4
# Of one predictor: each run keeps the sizes of its blocks.
_MOST_QUESTIONS = 64
# How long what the Hub said is taken for what it would say.
_FRESH_SECONDS = 300
# What no count depends on.
_SIZES = ("batch_size", "seq_len", "gradient_accumulation")

_Value = TypeVar("_Value")


class KeptStages(Stages):
    """Stages that use what they did before."""

    def __init__(self) -> None:
        self._files: OrderedDict[Hashable, tuple[float, SourceFiles | None]] = OrderedDict()
        self._counts: OrderedDict[Hashable, tuple[SourceFiles | None, tuple[Counted, Depths | None]]] = OrderedDict()
        self._predictors: list[tuple[SourceFiles | None, Predictor, int]] = []

    def read(self, request: Request, progress: Progress) -> SourceFiles | None:
        """Return the files of a model, asked for anew where the answer is no longer fresh."""
        key = (request.model, request.revision, request.offline)
        return _take(
            self._files,
            key,
            lambda known: time.monotonic() - known[0] < _FRESH_SECONDS,
            lambda: (time.monotonic(), super(KeptStages, self).read(request, progress)),
            _MOST_MODELS,
        )[1]

    def count(self, request: Request, files: SourceFiles | None, progress: Progress) -> tuple[Counted, Depths | None]:
        """Return the counts of a model, which its sizes and cards change nothing about."""
        return _take(
            self._counts,
            _make_key(request),
            lambda known: known[0] is files,
            lambda: (files, super(KeptStages, self).count(request, files, progress)),
            _MOST_COUNTS,
        )[1]

    def find_predictor(self, files: SourceFiles | None, kept: Kept | None = None) -> Predictor:
        """Return the predictor of a model, with what it knows of its runs unless these became many."""
        for index, (known, predictor, count) in enumerate(self._predictors):
            if known is files:
                del self._predictors[index]
                if count == _MOST_QUESTIONS:
                    predictor, count = predictor.copy_models(), 0
                break
        else:
            predictor, count = super().find_predictor(files, kept), 0
        self._predictors = [(files, predictor, count + 1), *self._predictors[: _MOST_MODELS - 1]]
        return predictor


def _take(
    kept: OrderedDict[Hashable, _Value],
    key: Hashable,
    holds: Callable[[_Value], bool],
    make: Callable[[], _Value],
    most: int,
) -> _Value:
    """Return what is kept by a key and still holds, else what is made now; the oldest goes where there are too many."""
    value = kept.pop(key, None)
    if value is None or not holds(value):
        value = make()
    kept[key] = value
    if len(kept) > most:
        kept.popitem(last=False)
    return value


def _make_key(request: Request) -> Any:
    """Return what two requests are equal by that count the same."""
    from inspector.predict.run_keys import freeze

    defaults = Recipe()
    recipe = dataclasses.replace(request.recipe, **{name: getattr(defaults, name) for name in _SIZES})
    return freeze(
        dataclasses.replace(
            request, recipe=recipe, gpus=(), gpu_memory=(), gpu_count=1, sharding=None, margin=None, advice=True
        )
    )

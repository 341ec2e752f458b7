"""What is said of a run whose batch cannot be traced as it is."""

from __future__ import annotations

from typing import Any

import pytest

from inspector.errors import NotTraceableError
from inspector.pipeline import record
from inspector.predict.tracing import ModelTracer
from inspector.records.request import Request
from tests.trace.small_models import build


def test_a_run_of_text_alone_is_the_one_that_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a step with images is not traced yet: the figures are those of text, and so is the page."""
    original = ModelTracer.trace

    def trace(tracer: ModelTracer, run: Any, *arguments: Any, **given: Any) -> Any:
        if run.recipe.images is None:
            raise NotTraceableError("images are not traced")
        return original(tracer, run, *arguments, **given)

    monkeypatch.setattr(ModelTracer, "trace", trace)
    config = build("meta", "qwen2_5_vl")[0].config
    report, recording = record(Request(model=config))
    assert report.memory is not None
    assert report.memory.lower_bound is not None
    assert recording is not None
    assert max(event.bytes for event in recording.tape) <= report.memory.peak_allocated_bytes

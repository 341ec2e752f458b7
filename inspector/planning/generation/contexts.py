"""`--context`: what a generation takes with prompts of other lengths, each traced for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from inspector.errors import InspectorError, NotTraceableError, one_line
from inspector.planning.quantities import set_value
from inspector.predict.predictor import Predictor
from inspector.records.memory import ContextPoint
from inspector.resolve import ResolvedRun
from inspector.runtime.stage import Stage

__all__ = ["list_contexts"]


def list_contexts(run: ResolvedRun, predictor: Predictor, progress: Callable[[str], None]) -> Iterator[ContextPoint]:
    """Yield what a run takes with each of the prompt lengths that its request asks for."""
    for index, length in enumerate(run.request.context):
        words = f"prompts of {length:,} tokens"
        progress(Stage(words, heading="prompts of other lengths", done=index, total=len(run.request.context)))
        try:
            # A long tape of its own each: what one length has traced is not kept for the next.
            own = predictor.copy_models().predict(run.with_request(set_value(run.request, "prompt-len", length)))
        except (NotTraceableError, InspectorError) as error:
            yield ContextPoint(prompt_len=length, reason=one_line(error, 200))
            continue
        yield ContextPoint(
            prompt_len=length,
            peak_allocated_bytes=own.replays.under(own.limit_bytes).peak_allocated_bytes,
            total_bytes=own.total_bytes,
            fits=None if run.gpu is None else own.judge().outcome.value,
        )

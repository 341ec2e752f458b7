"""inspect(Request) -> Report: resolve, count, predict, decide.

Importing this module loads none of the heavy libraries; its functions do. While the source is asked for the
configuration, which can mean waiting for the network, a thread already imports what builds the model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from inspector.cache.answers import ask, open_store
from inspector.compat.verified import find_unverified_versions
from inspector.errors import InspectorError, NotTraceableError, UsageError, one_line
from inspector.hardware.card_counts import read_card_counts
from inspector.hardware.selection import select, select_gpus
from inspector.records.fit import VARIED_BY_A_PLAN, Fit, Plan, Quantity
from inspector.records.recipe import Recipe
from inspector.records.request import Request
from inspector.resolve import ALLOCATOR_VARIABLE, resolve_run
from inspector.runtime.patches import replace_item
from inspector.runtime.preload import preload_libraries
from inspector.runtime.process import reserve_process
from inspector.runtime.quiet import silence_output
from inspector.runtime.versions import find_versions
from inspector.source.dimensions import describe_files
from inspector.source.read import read_files

if TYPE_CHECKING:
    from collections.abc import Iterable

    from inspector.cache.findings import Kept
    from inspector.cache.store import Store
    from inspector.memory.recording import Recording
    from inspector.model.build import Depths
    from inspector.predict.predictor import Predictor
    from inspector.records.comparison import Comparison
    from inspector.records.measurement import Measurement
    from inspector.records.model import Counted
    from inspector.records.notice import Notice
    from inspector.records.report import Report
    from inspector.records.source import SourceFiles
    from inspector.records.training_file import RequestSource

__all__ = ["Stages", "compare", "measure", "plan", "record", "run", "run_to_draw"]

Progress = Callable[[str], None]
# A notebook keeps what it shows: some 400 kB of a run. Longer ones take many seconds to draw.
_MOST_DRAWN = 30_000
_LONGEST_DRAWN = 1_000_000
# The tree of a model is folded: no real one goes as deep.
_WHOLE_TREE = 64


class Stages:
    """The stages whose results another inspection of the same model may use, too; here each is done anew."""

    def read(self, request: Request, progress: Progress) -> SourceFiles | None:
        """Return what the source holds (`read_files`)."""
        return read_files(request, progress)

    def find_predictor(self, files: SourceFiles | None, kept: Kept | None = None) -> Predictor:
        """Return what predicts runs of the model of these files, of which something may be `kept` on disk."""
        from inspector.predict.predictor import Predictor

        return Predictor(files, kept)

    def count(self, request: Request, files: SourceFiles | None, progress: Progress) -> tuple[Counted, Depths | None]:
        """Return the counts and the counted models (`count_depths`)."""
        from inspector.model.build import count_depths

        return count_depths(request, files, progress)


def run(request: Request, progress: Progress = lambda _stage: None, *, keeps: bool = True) -> Report:
    """Inspect what `request` names and return everything that was found; raises InspectorError subclasses.

    `keeps` lets it take what is kept in the user's cache directory, and keep what it finds (`inspector.cache`). Threads
    may call it; they take turns.
    """
    with reserve_process():
        return _run(request, progress, keeps=keeps, draws=False)[0]


def record(
    request: Request,
    progress: Progress = lambda _stage: None,
    stages: Stages | None = None,
    *,
    keeps: bool = True,
    draws: bool = True,
) -> tuple[Report, Recording | None]:
    """Do what `run` does and return the run itself, too, where it `draws`: None where none was traced.

    `stages` may have kept what earlier inspections read, built and traced; the cache directory is then left alone.
    """
    with reserve_process():
        return _run(request, progress, stages, keeps=keeps and stages is None, draws=draws)


def run_to_draw(request: Request, progress: Progress = lambda _stage: None) -> Report:
    """Do what `run` does and add the run as notebooks draw it, where it is not too long for one."""
    from inspector.render.page.data import build_page_data
    from inspector.render.page.page import format_drawing

    with reserve_process():
        report, recording = _run(request, progress, keeps=True)
        if recording is None or len(recording.tape) > _LONGEST_DRAWN:
            return report
        data = build_page_data(report, recording, _MOST_DRAWN)
        return dataclasses.replace(report, drawing=format_drawing(data))


def plan(
    request: Request,
    quantities: Sequence[str],
    gpu_counts: tuple[int, int] | None,
    progress: Progress = lambda _stage: None,
    *,
    keeps: bool = True,
) -> Plan:
    """Return the candidates to train the model of `request` on its GPU, or to generate with it.

    `quantities` are what to search for each; the length of a generation is that of its prompt. With `gpu_counts`, the
    least and the most cards, they are those to train it on so many. `keeps` is that of `run`.
    """
    with reserve_process():
        defaults = Recipe()
        varied = {name: getattr(defaults, name) for name in VARIED_BY_A_PLAN}
        request = dataclasses.replace(request, recipe=dataclasses.replace(request.recipe, **varied))
        selection = select_gpus(request)
        if len(selection.gpus) != 1 or not selection.named:
            raise UsageError("a plan is for one GPU: give one `gpu` or one `gpu_memory`.")
        named = max(selection.counts)
        if gpu_counts is not None and named > 1:
            raise UsageError("`gpu` says how many cards, and so does `gpu_count`: give one of them.")
        # Several cards of a training file are no slip: a notice of the selection says that one alone is judged.
        if request.source is None and named > 1:
            gpu_counts = read_card_counts(named)
        resolved = resolve_run(request, selection.gpus[0], os.environ)
        quantities = _settle_quantities(quantities, generates=resolved.workload.generates)
        if gpu_counts is not None and resolved.workload.generates:
            raise UsageError("a plan of several cards is about training: drop `generate`, or plan for one card.")
        question = ask(
            open_store() if keeps else None, "plan", resolved.request, repr(resolved.platform), gpu_counts, *quantities
        )
        files = read_files(request, progress)
        known = question.find(files) if question is not None and files is not None else None
        if isinstance(known, Plan):
            return known
        if files is not None:
            progress(describe_files(files))
        progress("loading transformers and PEFT")

        from inspector.planning.cards import JUDGED_ALONE
        from inspector.planning.plan import build_plan

        resolved = dataclasses.replace(resolved, files=files)
        is_alone = gpu_counts is None and (named > 1 or request.sharding is not None)
        notices = (*_list_file_notices(request.source), *selection.notices, *((JUDGED_ALONE,) if is_alone else ()))
        if gpu_counts is None:
            found = build_plan(resolved, quantities, find_versions(), notices, progress)
        else:
            from inspector.planning.many_cards.plan import build_card_plan
            from inspector.planning.many_cards.rows import Counts

            found = build_card_plan(resolved, Counts(*gpu_counts), find_versions(), notices, progress)
        if question is not None and files is not None:
            question.keep(files, found)
        return found


def _settle_quantities(quantities: Sequence[str], *, generates: bool) -> tuple[str, ...]:
    """Return what a plan searches: of a generation the length of its prompt."""
    if generates:
        lengths = {str(Quantity.SEQ_LEN): str(Quantity.PROMPT_LEN)}
        return tuple(dict.fromkeys(lengths.get(str(item), item) for item in quantities))
    if Quantity.PROMPT_LEN in quantities:
        raise UsageError("`fit=prompt-len` is of a generation: search seq-len, or give a recipe of one.")
    return tuple(quantities)


def compare(
    recipes: Sequence[tuple[str, Request | Mapping[str, Any]]],
    progress: Progress = lambda _stage: None,
    *,
    keeps: bool = True,
) -> tuple[Comparison, tuple[Fit, ...]]:
    """Return what differs between recipes, each given with its name as a request or as the JSON of a report.

    Second is the worst outcome of each request that named GPUs; `keeps` is that of `run`. Raises what the inspection of
    one raises, with its name in front.
    """
    from inspector.planning.compare import compare_reports, prefix_stages

    reports: list[tuple[str, Mapping[str, Any]]] = []
    outcomes = []
    with reserve_process():
        for name, recipe in recipes:
            if isinstance(recipe, Mapping):
                reports.append((name, recipe))
                continue
            try:
                stage = prefix_stages(progress, f"recipe {len(reports) + 1} of {len(recipes)}")
                report, _ = _run(recipe, stage, keeps=keeps, draws=False)
            except InspectorError as error:
                raise type(error)(f"{one_line(name, 100)}: {error}") from error
            reports.append((name, report.to_dict()))
            if recipe.gpus or recipe.gpu_memory:
                verdicts = report.fit or () if report.serving is None else report.serving.verdicts
                outcomes.append(max((verdict.outcome for verdict in verdicts), key=tuple(Fit).index))
    return compare_reports(reports, find_versions()), tuple(outcomes)


def measure(request: Request, progress: Progress = lambda _stage: None, rank: int | None = None) -> Measurement:
    """Run what `request` asks for on the CUDA device at hand and return it beside its prediction.

    Of several cards it is one rank: that of the launcher that started this process, or `rank` alone.
    """
    from inspector.measure.ranks.place import find_place

    place = find_place(request, rank, os.environ)
    resolved = resolve_run(request, None, os.environ, 1 if place is None else place.world_size)
    if place is not None:
        resolved = dataclasses.replace(resolved, rank=place.rank, is_rank=True)
    with reserve_process():
        if resolved.recipe.alloc_conf is not None:  # torch reads it when it makes its allocator
            replace_item(os.environ, ALLOCATOR_VARIABLE, resolved.recipe.alloc_conf)
        progress("loading torch")

        with silence_output():  # a bitsandbytes that does not load prints much; `check_machine` raises
            from inspector.measure.measuring import check_machine, measure_run

        check_machine(resolved.recipe, request.quantization, 0 if place is None else place.local_rank)
        files = read_files(request, progress)
        progress("loading transformers and PEFT")
        result = measure_run(dataclasses.replace(resolved, files=files), find_versions(), progress, place)
        said = (notice.message for notice in _list_file_notices(request.source))
        return dataclasses.replace(result, notices=(*said, *result.notices))


def _run(
    request: Request, progress: Progress, stages: Stages | None = None, *, keeps: bool = False, draws: bool = True
) -> tuple[Report, Recording | None]:
    """Answer a request, or take what was found before; the run itself is returned where it `draws`."""
    store = open_store() if keeps else None
    # One answer for all depths of its tree: rows that lie deeper are left out.
    whole = request if store is None else dataclasses.replace(request, depth=max(request.depth, _WHOLE_TREE))
    if request.serving is not None:
        report, recording = _serve(whole, store, progress), None
    else:
        report, recording = _go_through(whole, store, progress, stages or Stages(), draws=draws)
    tree = tuple(row for row in report.parameters.tree if row.depth <= request.depth)
    return dataclasses.replace(report, parameters=dataclasses.replace(report.parameters, tree=tree)), recording


def _go_through(
    request: Request, store: Store | None, progress: Progress, stages: Stages, *, draws: bool
) -> tuple[Report, Recording | None]:
    """Go through the stages, as far as what is kept does not say what they would."""
    selection = select_gpus(request)
    cards = selection.counts[0] if selection.named else 1
    resolved = resolve_run(request, selection.first, {} if request.count_only else os.environ, cards)
    question = ask(store, "report", resolved.request, repr(resolved.platform), cards)
    # Of a model that was asked about before, little or nothing may have to be worked out, and where nobody waits for
    # the network there is no time to use.
    is_known = question is not None and question.is_of_known_model
    with contextlib.nullcontext() if is_known or request.offline else preload_libraries():
        files = stages.read(request, progress)
        from inspector.records.report import Report  # and all that it holds: a model that is not there has none

        known = question.find(files) if question is not None and files is not None else None
        if isinstance(known, Report) and (not draws or known.memory is None):
            return known, None
        if files is not None:
            progress(describe_files(files))
        progress("loading transformers and PEFT")

    from inspector.cache.findings import open_findings

    resolved = dataclasses.replace(resolved, files=files)
    kept = open_findings(store, request, files)
    predictor = stages.find_predictor(files, kept)
    if isinstance(known, Report) and resolved.launch is None and request.fit != Quantity.GPUS:  # else a rank is found
        if known.search is not None:
            from inspector.planning.quantities import set_found

            resolved = resolved.with_request(set_found(resolved.request, known.search))
        with contextlib.suppress(NotTraceableError):  # what ran then is the text alone
            return known, predictor.predict(resolved).record()

    from inspector.memory.checkpoint_cost import gather_checkpoint_facts
    from inspector.planning.many_cards.rank_classes import find_largest_rank
    from inspector.planning.verdicts import Outcome, find_outcome, find_static, find_textbook, search_largest

    search, resolved = search_largest(resolved, predictor, request.fit, progress)
    if request.fit == Quantity.GPUS:
        selection = dataclasses.replace(selection, counts=(resolved.cards,))
    progress("building the model without its weights")
    counted, is_built = _count(resolved.request, files, stages, predictor, kept, progress)
    static = textbook = None
    outcome = Outcome()
    if not request.count_only:
        resolved = find_largest_rank(resolved, predictor) if is_built else resolved
        static = find_static(resolved, counted, predictor)
        outcome = find_outcome(resolved, counted, static, selection, predictor, progress, is_built=is_built)
        textbook = None if static is None else find_textbook(static, counted, outcome.rules)
    stored = None if files is None else files.checkpoint
    versions = find_versions()
    notices = (*_list_file_notices(request.source), *counted.notices, *selection.notices, *outcome.notices)
    report = Report(
        versions=versions,
        source=request.source,
        model=counted.model,
        parameters=counted.census,
        components=counted.components or None,
        quantization=counted.quantization,
        adapter=counted.adapter,
        checkpoint=None if stored is None else gather_checkpoint_facts(stored, counted),
        static=static,
        cache=outcome.cache,
        memory=outcome.memory,
        context=outcome.context,
        textbook=textbook,
        fit=outcome.fit,
        search=search,
        warnings=(*notices, *find_unverified_versions(versions)),
    )
    if question is not None and files is not None:
        question.keep(files, report)
    return report, predictor.predict(outcome.run).record() if draws and outcome.run is not None else None


def _count(
    request: Request,
    files: SourceFiles | None,
    stages: Stages,
    predictor: Predictor,
    kept: Kept | None,
    progress: Progress,
) -> tuple[Counted, bool]:
    """Return the counts, and whether the model was built here: then the predictor gets it."""

    def count() -> tuple[Counted, bool]:
        counted, depths = stages.count(request, files, progress)
        if depths is not None:
            predictor.keep(request, depths)
        return counted, depths is not None

    if kept is None:
        return count()
    from inspector.predict.findings import list_of_count

    return kept.find("count", (list_of_count(request),), count)


def _list_file_notices(source: RequestSource | None) -> Iterable[Notice]:
    """Return what there is to say of the files that a request was read from, mostly of none."""
    if source is None:
        return ()
    from inspector.training_files.notices import list_file_notices

    return list_file_notices(source)


def _serve(request: Request, store: Store | None, progress: Progress) -> Report:
    """Return the report of a request for a serving engine, or that which is kept: nothing runs."""
    from inspector.engines.report import serve
    from inspector.engines.serve import check_request
    from inspector.records.report import Report

    check_request(request)
    selection = select(request.gpus, request.gpu_memory, request.gpu_count)
    question = ask(store, "engine", request)
    files = read_files(request, progress)
    known = question.find(files) if question is not None and files is not None else None
    if isinstance(known, Report):
        return known
    if files is not None:
        progress(describe_files(files))
    report = serve(request, files, selection, progress)
    if question is not None and files is not None:
        question.keep(files, report)
    return report

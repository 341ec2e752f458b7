"""What models said, kept: tapes as columns, refusals, and what is no business of a cache."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from pathlib import Path
from typing import Any

import pytest

from inspector.cache.codec import NotKeptError
from inspector.cache.findings import Kept
from inspector.cache.store import Store
from inspector.cache.tapes import pack_tape, unpack_tape
from inspector.errors import NotTraceableError, UnsupportedModelError, UsageError
from inspector.hardware.catalogue import find_gpu
from inspector.hardware.memory_size import build_stated_gpu
from inspector.planning.largest import find_largest
from inspector.planning.quantities import set_value
from inspector.predict.findings import Findings
from inspector.predict.predictor import Predictor
from inspector.records.recipe import Recipe
from inspector.records.request import Request
from inspector.records.run import Traced
from inspector.records.source import SourceFiles
from inspector.records.tape import Category, Event, EventKind, Phase
from inspector.resolve import ResolvedRun, resolve_run
from inspector.source import catalogue
from tests.model.tiny import llama


def open_kept(folder: Path) -> Kept:
    """Return what is kept of a model in a folder."""
    return Kept(Store(folder, "a" * 64), "files", "model")


def test_a_tape_is_read_as_it_was_written() -> None:
    """Numbers of every width, texts beyond ASCII, an event without a block, and no event at all."""
    tape = [
        Event(EventKind.ALLOCATE, 0, Phase.LOAD, 2**40, Category.WEIGHTS, 0, "model.größe", "", 3),
        Event(EventKind.HOST_ALLOCATE, 70_000, Phase.FORWARD, 1, Category.ACTIVATIONS, 300, "a", "aten.mm.default", 0),
        Event(EventKind.EMPTY_CACHE, -1, Phase.GENERATE),
        Event(EventKind.FREE, 0, Phase.OPTIMIZER, 2**40, Category.WEIGHTS, 1, "", "", 0),
    ]
    again = unpack_tape(pack_tape(tape))
    assert again == tape
    assert [type(event.kind) for event in again] == [EventKind] * 4
    assert unpack_tape(pack_tape([])) == []


def test_a_long_tape_takes_little_room() -> None:
    """120,000 events in 300 kB are 2.5 bytes for each."""
    run = resolve_run(Request(model=llama(num_hidden_layers=40), recipe=Recipe(seq_len=32)), None, {})
    prediction = Predictor(None).predict(run)
    packed = pack_tape(prediction.tape)
    assert len(zlib.compress(packed, 6)) < 2.5 * len(prediction.tape)
    assert unpack_tape(packed) == prediction.tape


@pytest.mark.parametrize(
    "data", [b"", b"{}\n", b"[]\n", b'{"events": 2, "codes": {"block": "q"}, "texts": {}}\n12345678']
)
def test_bytes_that_are_no_tape_are_refused(data: bytes) -> None:
    with pytest.raises(NotKeptError):
        unpack_tape(data)


def test_a_finding_is_made_once(tmp_path: Path) -> None:
    """Also where it is None, and a trace with its tape; another key is another finding."""
    made: list[int] = []

    def make(value: Any) -> Any:
        made.append(0)
        return value

    trace = Traced(recipe=Recipe(), tape=[Event(EventKind.ALLOCATE, 0, Phase.LOAD, 1)], idle=frozenset("a"))
    for value in (None, 3, trace):
        for _ in range(2):
            assert open_kept(tmp_path).find("kind", (repr(value),), functools.partial(make, value)) == value
    assert len(made) == 3


@pytest.mark.parametrize("error", [UsageError("use another"), NotTraceableError("no batch")])
def test_a_refusal_is_kept_as_it_was_raised(error: Exception, tmp_path: Path) -> None:
    """The second time without asking the model."""

    def refuse() -> None:
        raise error

    with pytest.raises(type(error)):
        open_kept(tmp_path).find("kind", (), refuse)
    with pytest.raises(type(error), match=str(error)) as raised:
        open_kept(tmp_path).find("kind", (), lambda: pytest.fail("asked again"))
    assert type(raised.value) is type(error)


def test_what_may_be_of_the_machine_is_not_kept(tmp_path: Path) -> None:
    """A model that this machine has no memory for, or no time."""

    def stop() -> None:
        raise UnsupportedModelError("too large")

    def lack() -> None:
        raise NotTraceableError("too large") from MemoryError()

    for make in (stop, lack):
        with pytest.raises((UnsupportedModelError, NotTraceableError)):
            open_kept(tmp_path).find("kind", (), make)
    assert open_kept(tmp_path).find("kind", (), lambda: 5) == 5


def test_what_cannot_be_named_or_written_is_made_each_time(tmp_path: Path) -> None:
    """A live object as a key or as a value."""
    kept, value = open_kept(tmp_path), object()
    assert kept.find("kind", (object(),), lambda: 1) == 1
    assert kept.find("kind", (), lambda: value) is value
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_runs_that_make_the_same_requests_have_the_same_replays(tmp_path: Path) -> None:
    """As on most cards; what was replayed is kept, and read with what ran out."""
    run = resolve_run(Request(model=llama(), recipe=Recipe(seq_len=32)), None, {})
    predictor = Predictor(None, open_kept(tmp_path))
    one, other = (predictor.predict(run.with_gpu(find_gpu(name).gpu)) for name in ("4090", "a100-40gb"))
    assert one.replays is other.replays
    lines = [one.replays.under(limit) for limit in (None, 2**20)]
    assert lines[1].failure is not None
    again = Predictor(None, open_kept(tmp_path)).predict(run.with_gpu(find_gpu("l40s").gpu))
    again.replays._make_requests = lambda: pytest.fail("replayed again")
    assert [again.replays.under(limit) for limit in (None, 2**20)] == lines
    t4 = predictor.predict(
        dataclasses.replace(run, request=dataclasses.replace(run.request, recipe=Recipe(seq_len=64)))
    )
    assert t4.replays is not one.replays


def small_files(**changes: int) -> SourceFiles:
    """Return the files of a small model of four layers, by a name."""
    files = catalogue.load_model("Qwen/Qwen2.5-0.5B")
    assert files is not None
    sizes = {"num_hidden_layers": 4, "max_window_layers": 4, "vocab_size": 256, "intermediate_size": 512}
    return dataclasses.replace(files, config={**files.config, **sizes, "layer_types": None, **changes})


def resolve(**settings: Any) -> ResolvedRun:
    """Return a run of a model by its name on a card."""
    recipe = Recipe(**{"seq_len": 32, **settings})
    return resolve_run(Request(model="Qwen/Qwen2.5-0.5B", recipe=recipe), find_gpu("l40s").gpu, {})


def predict_sizes(predictor: Predictor, **settings: Any) -> list[Any]:
    """Return what is predicted of two sizes, and of another optimizer at the second: None where it is not known."""
    runs = [resolve(**settings), resolve(batch_size=3, **settings)]
    found = [predictor.predict(run) for run in runs]
    summaries = [predictor.summarize(run) for run in runs]
    lines = [(item.recipe, item.tape, item.limit_bytes, item.judge(), item.total_bytes) for item in found]
    known = predictor.find_known(resolve(batch_size=3, optimizer="sgd", **settings))
    idle = predictor.list_without_gradient(runs[1])
    return [lines, summaries, idle, known and (known.tape, known.replays.unlimited)]


def test_predictions_whose_outlines_are_kept_are_those_of_their_traces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under other settings of the allocator, too; and what a search finds known is what it would find without them."""
    settings: list[dict[str, Any]] = [{}, {"alloc_conf": "expandable_segments:True"}]
    files = small_files()
    traced = [predict_sizes(Predictor(files), **item) for item in settings]
    assert predict_sizes(Predictor(files, open_kept(tmp_path))) == traced[0]
    again = Predictor(files, open_kept(tmp_path))
    monkeypatch.setattr(again.findings.tracer, "trace", lambda *_, **_given: pytest.fail("traced again"))
    assert predict_sizes(again, **settings[1]) == traced[1]


def test_a_recalled_prediction_is_extrapolated_only_for_what_was_not_kept(tmp_path: Path) -> None:
    """Its tape and its replays are there; a bound of its peak takes what was traced."""
    run, files = resolve(), small_files()
    kept = Predictor(files, open_kept(tmp_path))
    summary, prediction = kept.summarize(run), kept.predict(run)
    bound = prediction.template.bound_peak(prediction.sizes)
    again = Predictor(files, open_kept(tmp_path))
    assert (again.summarize(run), again.count_traced_events(run)) == (summary, kept.count_traced_events(run))
    recalled = again.predict(run)
    assert recalled.replays.under(2**20).failure == prediction.replays.under(2**20).failure
    assert not again._traced
    assert recalled.template.bound_peak(recalled.sizes) == bound
    assert again._traced


def test_a_size_is_found_among_those_that_were_traced_in_another_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a search that goes on elsewhere: which run was traced to its end is kept, and others follow from it."""
    files = small_files(num_hidden_layers=12, max_window_layers=12)  # two of few layers are traced for it

    def bound_peaks(predictor: Predictor, sizes: tuple[int, ...]) -> dict[int, int]:
        found = [(size, predictor.predict(resolve(batch_size=size))) for size in sizes]
        return {size: item.template.bound_peak(item.sizes) for size, item in found}

    bound_peaks(Predictor(files, open_kept(tmp_path)), (1, 3, 2))
    again = Predictor(files, open_kept(tmp_path))
    monkeypatch.setattr(again.findings.tracer, "trace", lambda *_, **_given: pytest.fail("traced again"))
    assert bound_peaks(again, (1, 2, 3)) == bound_peaks(Predictor(files), (1, 2, 3))


def test_what_a_report_says_of_values_that_a_search_tried_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another card one of them may be what is found."""
    files = small_files()
    run = dataclasses.replace(resolve(seq_len=512), gpu=build_stated_gpu("2GiB"))
    tried = find_largest(run, "batch-size", Predictor(files, open_kept(tmp_path)), lambda _stage: None).tried
    assert len(tried) > 2
    monkeypatch.setattr(Findings, "tracer", property(lambda _self: pytest.fail("asked again")))
    again = Predictor(files, open_kept(tmp_path))
    for item in tried:
        asked = run.with_request(set_value(run.request, "batch-size", item.value))
        assert again.describe(asked, again.resolve_recipe(asked, whole=True)).inputs[0].shape == (item.value, 512)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_a_report_says_of_a_run_hangs_on_no_card_but_for_sdpa(dtype: str) -> None:
    """The findings take one card for all whose sdpa tries the same kernels."""
    findings = Findings(small_files())
    for name in ("t4", "4090", "h100-sxm", "b200", "rtx-pro-6000"):
        run = resolve()
        run = run.with_gpu(find_gpu(name).gpu).with_request(dataclasses.replace(run.request, dtype=dtype))
        recipe = findings.resolve_recipe(run, whole=True)
        assert findings.describe(run, recipe) == findings.tracer.describe(run, recipe)

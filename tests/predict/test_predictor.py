"""One door to every prediction: nothing is built or traced twice, and a verdict is its card's own."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
import transformers

import inspector
from inspector import pipeline
from inspector.hardware.catalogue import find_gpu, list_common_gpus
from inspector.hardware.platform import build_platform
from inspector.model import build
from inspector.predict import tracing
from inspector.predict.predictor import Predictor
from inspector.predict.run_keys import freeze, make_model_key
from inspector.records.request import LoraOptions, Request
from inspector.resolve import resolve_run
from tests.evidence.truth.comparison import compared
from tests.evidence.truth.predictions import predict_row
from tests.evidence.truth.records import load
from tests.evidence.truth.sample import IS_ALL
from tests.model.tiny import llama

SMALL = "Qwen/Qwen2.5-0.5B"
LORA = LoraOptions(r=16, targets="all-linear")
T4_ROWS = [row for row in load() if not row.is_stand_in and row.record["gpu"]["name"] == "Tesla T4"]


def count_work(request: Request, monkeypatch: pytest.MonkeyPatch) -> tuple[Counter[Any], Counter[Any]]:
    """Return how often each model was built and each run traced for a request."""
    builds: Counter[Any] = Counter()
    traces: Counter[Any] = Counter()

    def shallow(asked: Request, files: Any, more: int, open_skeletons: Any) -> Any:
        builds["shallow", more, make_model_key(asked)] += 1
        return build_shallow(asked, files, more, open_skeletons)

    def whole(asked: Request, files: Any) -> Any:
        builds["whole", make_model_key(asked)] += 1
        return build_whole(asked, files)

    def count(asked: Request, files: Any, progress: Any) -> Any:
        builds["whole", make_model_key(asked)] += 1
        return count_depths(asked, files, progress)

    def trace(workload: Any, built: Any, recipe: Any, platform: Any, **options: Any) -> Any:
        parameters = tuple((tuple(item.shape), str(item.dtype)) for item in built.model.parameters())
        traces[workload.info.name, freeze(recipe), freeze(platform), options["until"], parameters] += 1
        return trace_run(workload, built, recipe, platform, **options)

    doors: Any = tracing
    build_shallow, build_whole, trace_run = doors.build_shallow, doors.build_whole, doors.trace_run
    count_depths = build.count_depths
    monkeypatch.setattr(tracing, "build_shallow", shallow)
    monkeypatch.setattr(tracing, "build_whole", whole)
    monkeypatch.setattr(tracing, "trace_run", trace)
    monkeypatch.setattr(build, "count_depths", count)
    pipeline.run(request)
    return builds, traces


@pytest.mark.parametrize(
    ("gpus", "fit"),
    [(("4090",), "batch-size"), (("4090",), "seq-len"), (("4090",), "rank"), (("t4", "4090"), None), ((), None)],
    ids=["batch size", "sequence length", "rank", "two cards", "common cards"],
)
@pytest.mark.one_of(2)
def test_no_model_is_built_and_no_run_is_traced_twice(
    gpus: tuple[str, ...], fit: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(model=SMALL, peft=LORA, gpus=gpus, fit=fit, offline=True)
    builds, traces = count_work(request, monkeypatch)
    assert builds
    assert traces
    assert {key: count for key, count in builds.items() if count > 1} == {}
    assert {key: count for key, count in traces.items() if count > 1} == {}


@pytest.mark.parametrize("seq_len", [2304])
def test_the_verdict_on_a_common_card_is_that_of_the_card_when_it_is_named(seq_len: int) -> None:
    """A T4 has no flash attention: 2,304 tokens do not fit it, though they fit with an A100's kernels."""
    recipe = inspector.Recipe(seq_len=seq_len)
    unnamed = inspector.inspect(SMALL, peft=LORA, recipe=recipe, offline=True)
    assert unnamed.fit is not None
    assert [verdict.gpu for verdict in unnamed.fit] == [gpu.name for gpu in list_common_gpus()]
    for verdict in unnamed.fit if IS_ALL else unnamed.fit[1::3]:
        named = inspector.inspect(SMALL, peft=LORA, recipe=recipe, gpu=verdict.gpu, advice=False, offline=True)
        assert named.fit is not None
        assert dataclasses.replace(named.fit[0], advice=None) == verdict
    fits = {verdict.gpu: verdict.fits for verdict in unnamed.fit}
    assert fits["T4"] is (seq_len == 1024)


def test_the_figures_of_a_step_that_fits_with_cached_blocks_given_back_are_those_under_the_card() -> None:
    recipe = inspector.Recipe(batch_size=7, gradient_checkpointing=True, mixed_precision="bf16")
    report = inspector.inspect(
        SMALL, peft=LORA, quantization="nf4", double_quant=True, recipe=recipe, gpu="t4", advice=False, offline=True
    )
    assert report.training is not None
    assert report.fit is not None
    (verdict,) = report.fit
    assert verdict.fits
    assert report.training.limit_bytes == verdict.usable_bytes
    assert verdict.headroom_bytes is not None
    assert report.training.peak_reserved_bytes == verdict.usable_bytes - verdict.headroom_bytes
    assert report.training.total_bytes <= verdict.memory_bytes
    assert "cached-blocks-released" in {notice.code for notice in report.warnings}


def test_no_total_of_a_search_that_fits_exceeds_the_card() -> None:
    report = inspector.inspect(SMALL, peft=LORA, gpu="rtx 3060", fit="batch-size", offline=True)
    assert report.search is not None
    card = find_gpu("rtx 3060").gpu
    assert {tried.fits for tried in report.search.tried} == {True, False}
    assert all(tried.total_bytes <= card.memory_bytes for tried in report.search.tried if tried.fits)


@pytest.mark.parametrize("row", T4_ROWS, ids=[row.name for row in T4_ROWS])
@pytest.mark.filterwarnings("ignore")
def test_a_row_of_a_t4_is_predicted_by_the_card_and_the_torch_that_a_user_names(row: Any) -> None:
    """`--gpu t4 --torch 2.10` is the platform of the measured rows, the order of its driver's addresses included."""
    gpu = find_gpu("t4").gpu
    major, minor = row.torch_version
    run = resolve_run(dataclasses.replace(row.request, torch=f"{major}.{minor}"), gpu, {})
    assert run.platform == build_platform(gpu, row.torch_version) == row.platform
    assert predict_row(row).run.platform == run.platform
    assert compared(row)


@pytest.mark.parametrize("text", ["2.8", "1.13", "two", "2", "2.10.1.2.3x!", "99.0", ""])
def test_a_release_of_torch_that_is_not_known_is_refused(text: str) -> None:
    with pytest.raises(inspector.UsageError):
        inspector.inspect(llama(), torch=text)


@pytest.mark.parametrize("text", ["2.10", "2.10.0", "2.11.0+cu130", " 2.13 "])
def test_the_report_names_the_torch_that_was_asked_for(text: str) -> None:
    report = inspector.inspect(llama(), gpu="a100-80gb", advice=False, torch=text)
    assert report.training is not None
    assert report.training.platform.endswith(f"torch {'.'.join(text.strip().split('.')[:2])}")


def test_an_unknown_order_of_addresses_is_an_assumption_where_torch_compares_them() -> None:
    for torch, is_assumed in (("2.10", True), ("2.13", False)):
        report = inspector.inspect(llama(), gpu="a100-80gb", torch=torch, advice=False)
        assert report.fit is not None
        assert any("place a new segment" in text for text in report.fit[0].assumptions) is is_assumed
    report = inspector.inspect(llama(), gpu="t4", torch="2.10", advice=False)
    assert report.fit is not None
    assert not any("place a new segment" in text for text in report.fit[0].assumptions)


def test_the_recipe_names_the_attention_that_runs() -> None:
    config = transformers.BloomConfig(
        architectures=["BloomForCausalLM"], hidden_size=32, n_layer=2, n_head=4, vocab_size=64
    )
    report = inspector.inspect(config)
    assert report.training is not None
    assert report.training.recipe.attention == "eager"
    with pytest.raises(inspector.UsageError, match="does not support sdpa"):
        inspector.inspect(config, recipe={"attention": "sdpa"})
    assert inspector.inspect(llama()).to_dict()["training"]["recipe"]["attention"] == "sdpa"


def test_runs_are_equal_by_their_values_and_not_by_their_text() -> None:
    import peft

    first, second = (peft.LoraConfig(r=8, target_modules=["b", "a"]) for _ in range(2))
    assert freeze(first) == freeze(second)
    assert freeze(first) != freeze(peft.LoraConfig(r=9, target_modules=["b", "a"]))
    assert freeze({"a": [1, {"b"}]}) == freeze({"a": [1, {"b"}]})
    assert freeze(1) != freeze(True)
    hash(freeze(first))


def test_a_prediction_is_kept_for_the_next_question() -> None:
    predictor = Predictor(None)
    run = resolve_run(Request(model=llama()), None, {})
    assert not predictor.knows(run)
    prediction = predictor.predict(run)
    assert predictor.predict(run.with_request(run.request)) is prediction


def test_a_whole_trace_says_what_an_extrapolated_one_does() -> None:
    """Every figure of the report, with the numbers of layers in the paths of modules."""
    settings: dict[str, Any] = {"recipe": {"seq_len": 16}, "gpu": "t4", "advice": False}
    deep = llama(num_hidden_layers=12)
    reports = [inspector.inspect(deep, extrapolate=extrapolate, **settings) for extrapolate in (True, False)]
    assert reports[0] == reports[1]
    run = resolve_run(Request(model=deep, extrapolate=False, recipe=inspector.Recipe(seq_len=16)), None, {})
    predictor = Predictor(None)
    assert predictor.count_traced_events(run) == len(predictor.predict(run).tape)
    shorter = run.with_request(dataclasses.replace(run.request, extrapolate=True))
    assert predictor.count_traced_events(shorter) < len(predictor.predict(shorter).tape)
    assert [event.module for event in predictor.predict(run).tape] == [
        event.module for event in predictor.predict(shorter).tape
    ]

"""The workload `generate`: recorded peaks, the cache by kind, its report, and what it refuses."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import inspector
from inspector.predict.predictor import Predictor
from inspector.records.memory import CacheFacts, LayerKind
from inspector.records.recipe import Recipe
from inspector.records.request import Request
from inspector.records.tape import Category, Phase
from inspector.resolve import ResolvedRun, resolve_run
from inspector.source import catalogue
from inspector.source.read import read_files
from tests.cli.running import run
from tests.model.tiny import llama

RECORDED = json.loads((Path(__file__).parent / "recorded_generation.json").read_text(encoding="utf-8"))
ROWS = RECORDED["cuda_code"]["rows"]
DIFFERENCES = RECORDED["measured"]["differences"]
# A release goes through all of them.
CHOSEN = ROWS if os.environ.get("INSPECTOR_TRUTH") == "all" else [ROWS[0], ROWS[4], ROWS[13], *ROWS[-3:]]


def make_run(
    model: str, lora: Mapping[str, Any] | None = None, request: Mapping[str, Any] | None = None, **fields: Any
) -> ResolvedRun:
    """Return the generation of a model of the catalogue."""
    recipe = Recipe(**{"padding": False, **fields})
    peft = None if lora is None else inspector.LoraOptions(**lora)
    given: dict[str, Any] = {"dtype": "bfloat16", "peft": peft, **(request or {})}
    asked = Request(model=model, offline=True, workload="generate", recipe=recipe, **given)
    resolved = resolve_run(asked, None, {})
    return ResolvedRun(
        request=resolved.request,
        files=read_files(asked, lambda _stage: None),
        workload=resolved.workload,
        gpu=None,
        platform=resolved.platform,
    )


@pytest.mark.parametrize("row", CHOSEN, ids=lambda row: f"{row['model']}-{row['recipe']['prompt_len']}")
@pytest.mark.filterwarnings("ignore")
def test_peaks_are_those_of_cuda_code(row: dict[str, Any]) -> None:
    row_run = make_run(row["model"], row.get("lora"), row.get("request"), **row["recipe"])
    replay = Predictor(row_run.files).predict(row_run).replays.unlimited
    assert replay.peak_allocated_bytes == row["peak"]
    assert replay.peak_reserved_bytes == row.get("reserved", replay.peak_reserved_bytes)


# What a report warns of, without and with the change that it names. The first figures, and that of frozen weights, are
# those of CUDA code; of Gemma in pieces it said 10.73 GB: transformers makes its masks in the order of the hash seed
# there.
QUADRATIC = {
    "google/gemma-3-4b-it": (32_768, {17_782_169_600}, {10_731_807_232, 10_731_823_616}),
    "openai/gpt-oss-20b": (16_384, {147_493_001_216}, {68_661_593_088}),
}


@pytest.mark.parametrize("model", QUADRATIC)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.one_of(2)
def test_what_grows_with_the_square_of_a_prompt_is_small_in_pieces(model: str) -> None:
    """Masks of layers with a window, scores of eager attention."""
    prompt_len, *peaks = QUADRATIC[model]
    for size, peak in zip((None, 4096), peaks, strict=True):
        asked = make_run(model, prompt_len=prompt_len, new_tokens=2, prefill_chunk_size=size)
        assert Predictor(asked.files).predict(asked).peak_allocated_bytes in peak


@pytest.mark.filterwarnings("ignore")
def test_autocast_keeps_a_copy_of_every_weight_that_is_not_frozen() -> None:
    """Which is warned of, with what to do."""
    files = catalogue.load_model("meta-llama/Llama-3.2-1B")
    assert files is not None
    recipe = inspector.Generation(prompt_len=300, new_tokens=4, mixed_precision="bf16", padding=False)
    found = {}
    for frozen in (False, True):
        with torch.device("meta"):
            model = LlamaForCausalLM(LlamaConfig.from_dict(dict(files.config)))
        report = inspector.inspect(model.requires_grad_(not frozen), recipe=recipe, advice=False)
        assert report.memory is not None
        warned = any(notice.code == "autocast-copies" for notice in report.warnings)
        found[frozen] = (report.memory.peak_allocated_bytes, warned)
    assert found == {False: (7_448_087_552, True), True: (5_500_554_240, False)}


@pytest.mark.filterwarnings("ignore")
def test_loading_and_prefill_are_those_of_an_a100() -> None:
    measured = RECORDED["measured"]
    short = make_run("meta-llama/Meta-Llama-3.1-8B", prompt_len=64, new_tokens=2)
    timeline = Predictor(short.files).predict(short).fold()
    load, prefill, _ = timeline.phases
    inputs = 2 * 512  # ids and mask of 64 tokens, which are made before the first phase
    assert load.end_allocated_bytes - inputs == measured["load"]["allocated"] + DIFFERENCES["load.allocated"]["bytes"]
    assert load.end_reserved_bytes == measured["load"]["reserved"]
    assert prefill.peak_allocated_bytes == measured["prefill"]["peak_allocated"]


@pytest.mark.skipif(os.environ.get("INSPECTOR_TRUTH") != "all", reason="64 steps: INSPECTOR_TRUTH=all runs them")
@pytest.mark.filterwarnings("ignore")
def test_decoding_is_that_of_an_a100() -> None:
    decode = RECORDED["measured"]["decode"]
    fields = {"prompt_len": 64, "new_tokens": 64, "generation": RECORDED["measured"]["generation"]}
    whole = make_run("meta-llama/Meta-Llama-3.1-8B", **fields)
    steps = Predictor(whole.files).predict(whole).fold().phases[2:]
    difference = DIFFERENCES["decode.peak_allocated"]["bytes"]
    assert max(step.peak_allocated_bytes for step in steps) == decode["peak_allocated"] + difference
    assert max(step.peak_reserved_bytes for step in steps) == decode["peak_reserved"]


# What engines reserve for a token: vLLM's page of a layer divided by its block (v1/kv_cache_interface.py), bfloat16.
# Keys and values of every head, or with MLA one latent vector and its rotary part.
BYTES_PER_TOKEN = {
    "meta-llama/Meta-Llama-3.1-8B": 2 * 32 * 8 * 128 * 2,
    "Qwen/Qwen2.5-0.5B": 2 * 24 * 2 * 64 * 2,
    "google/gemma-3-1b-it": 2 * 26 * 1 * 256 * 2,
    "tiiuae/falcon-7b": 2 * 32 * 1 * 64 * 2,
    "openai-community/gpt2": 2 * 12 * 12 * 64 * 2,
    "deepseek-ai/DeepSeek-V2-Lite": 27 * (512 + 64) * 2,
}


def describe_cache(generation: ResolvedRun) -> CacheFacts:
    """Return what a generation keeps."""
    facts = Predictor(generation.files).describe_cache(generation)
    assert facts is not None
    return facts


@pytest.mark.parametrize("model", BYTES_PER_TOKEN)
@pytest.mark.filterwarnings("ignore")
def test_a_token_takes_in_the_cache_what_engines_reserve_for_it(model: str) -> None:
    assert describe_cache(make_run(model, prompt_len=8, new_tokens=3)).bytes_per_token == BYTES_PER_TOKEN[model]


@pytest.mark.filterwarnings("ignore")
def test_a_full_window_keeps_one_token_less_than_it_has() -> None:
    facts = describe_cache(make_run("google/gemma-3-1b-it", prompt_len=600, new_tokens=3))
    by_kind = {item.kind: item for item in facts.layers}
    sliding, full = by_kind[LayerKind.SLIDING], by_kind[LayerKind.FULL]
    assert (sliding.count, sliding.window, full.count) == (22, 512, 4)
    rows = {item.kind: {tensor.shape[-2] for tensor in item.tensors if tensor.grows} for item in facts.layers}
    assert rows == {LayerKind.SLIDING: {511}, LayerKind.FULL: {602}}
    # The last step's tensors have a row more than the window keeps: what it keeps is a view of them.
    assert facts.at_end_bytes == 1024 * (22 * 512 + 4 * 602) + 22 * 8


@pytest.mark.filterwarnings("ignore")
def test_an_encoder_decoder_keeps_its_own_tokens_and_those_of_the_encoder() -> None:
    facts = describe_cache(make_run("google-t5/t5-small", prompt_len=20, new_tokens=10))
    rows = {item.kind: {tensor.shape[-2] for tensor in item.tensors} for item in facts.layers}
    assert rows == {LayerKind.FULL: {10}, LayerKind.CROSS: {20}}
    assert facts.at_end_bytes == 6 * 2 * 8 * 64 * 2 * (10 + 20)


def test_the_parts_of_a_generation_add_up_and_its_cache_is_one_of_them() -> None:
    recipe = inspector.Generation(prompt_len=64, new_tokens=4)
    report = inspector.inspect(llama(), recipe=recipe)
    memory = report.memory
    assert memory is not None
    assert report.training is None
    assert sum(memory.peak.breakdown.values()) == memory.peak_allocated_bytes
    assert [phase.name for phase in memory.phases] == [Phase.LOAD, Phase.PREFILL, Phase.DECODE]
    assert memory.peak.breakdown[Category.KV_CACHE] > 0
    assert memory.curve is not None
    assert [point.new_tokens for point in memory.curve] == [1, 2, 4]
    plain = report.to_dict()
    assert plain["generation"]["recipe"]["prompt_len"] == 64
    assert "optimizer" not in plain["generation"]["recipe"]
    assert plain["cache"]["class"] == "DynamicCache"
    json.dumps(plain)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recipe": {"optimizer": "sgd"}}, "`optimizer` has no effect on the workload generate"),
        ({"recipe": {"seq_len": 64}}, "give `prompt_len` and `new_tokens`"),
        ({"recipe": {"stage": "dpo"}}, "`stage` has no effect on the workload generate"),
        ({"preparation": "axolotl"}, "`preparation` is about training"),
        ({"recipe": {"new_tokens": 0}}, "`new_tokens`"),
        ({"recipe": {"cache": "paged"}}, "`cache`"),
        ({"peft": inspector.LoraOptions(r=4, dropout=0.1)}, "the dropout of an adapter has no effect"),
        ({"fit": "seq-len", "gpu": "4090"}, "use prompt-len or new-tokens"),
    ],
)
def test_what_has_no_effect_on_a_generation_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(inspector.UsageError, match=message):
        inspector.inspect(llama(), workload="generate", **arguments)


def test_a_setting_of_generation_is_refused_in_training() -> None:
    with pytest.raises(inspector.UsageError, match=r"`prompt_len` applies to `stage=dpo`, .*, or `workload=generate`"):
        inspector.inspect(llama(), recipe={"prompt_len": 64})
    with pytest.raises(inspector.UsageError, match="workload training: add `workload=generate`, or drop it"):
        inspector.inspect(llama(), recipe={"stage": "dpo", "new_tokens": 64})


def test_more_tokens_than_learned_positions_are_refused() -> None:
    with pytest.raises(inspector.UsageError, match="GPT2LMHeadModel has learned 1,024 positions"):
        inspector.inspect("openai-community/gpt2", offline=True, recipe=inspector.Generation(prompt_len=1000))


def test_an_encoder_generates_nothing() -> None:
    report = inspector.inspect("google-bert/bert-base-uncased", offline=True, workload="generate")
    assert report.memory is None
    assert any("has no `generate`" in warning.message for warning in report.warnings)


def test_an_encoder_decoder_without_a_head_is_told_the_class_that_has_one() -> None:
    report = inspector.inspect("facebook/bart-large", offline=True, workload="generate")
    assert any("`model_class=BartForConditionalGeneration`" in warning.message for warning in report.warnings)


@pytest.mark.filterwarnings("ignore")
def test_a_model_of_sound_says_what_its_prompt_is_and_keeps_the_sound_beside_its_tokens() -> None:
    recipe = inspector.Generation(prompt_len=100, new_tokens=4)
    report = inspector.inspect("openai/whisper-small", offline=True, recipe=recipe)
    assert any(notice.code == "prompt-of-sound" for notice in report.warnings)
    assert not any("text alone" in notice.message for notice in report.warnings)
    assert report.memory is not None
    assert report.cache is not None
    assert report.memory.recipe.prompt_len == 1
    rows = {item.kind: {tensor.shape[-2] for tensor in item.tensors} for item in report.cache.layers}
    assert rows == {LayerKind.FULL: {4}, LayerKind.CROSS: {1500}}


def test_prefill_and_decode_say_where_their_peaks_are_and_how_they_grow() -> None:
    """The one of the whole run is one of them; the table of steps is that of the curve."""
    arguments = ("--offline", "--generate", "--prompt-len", "64", "--new-tokens", "5", "--no-advice")
    report = run("openai-community/gpt2", *arguments, "--json").report["generation"]
    load, prefill, decode = report["phases"]
    assert "module" not in load
    assert {"module", "op"} <= set(prefill)
    assert {"module", "op"} <= set(decode)
    assert report["peak"]["phase"] == "prefill"
    assert (prefill["module"], prefill["op"]) == (report["peak"]["module"], report["peak"]["op"])
    assert decode["peak_allocated_bytes"] == report["curve"][-1]["peak_allocated_bytes"]
    text = run("openai-community/gpt2", *arguments, "--show", "generate").out
    for point in report["curve"]:
        assert f"{point['new_tokens']}  {point['peak_allocated_bytes']:,}" in text


def test_the_longest_prompt_that_fits_is_searched() -> None:
    recipe = inspector.Generation(prompt_len=64, new_tokens=2)
    report = inspector.inspect(llama(), recipe=recipe, gpu_memory="2GiB", fit="prompt-len")
    assert report.search is not None
    assert report.search.value is not None
    assert report.memory is not None
    assert report.memory.recipe.prompt_len == report.search.value


def test_a_table_of_contexts_says_what_each_takes_and_why_one_does_not_run() -> None:
    arguments = ("--generate", "--prompt-len", "8", "--new-tokens", "4", "--context", "16,2k", "--gpu", "a100-80gb")
    report = run("openai-community/gpt2", "--offline", "--json", "--no-advice", *arguments).report
    fitting, refused = report["context"]
    assert (fitting["prompt_len"], fitting["fits"]) == (16, "yes")
    assert fitting["peak_allocated_bytes"] > report["generation"]["phases"][0]["end_allocated_bytes"]
    assert set(refused) == {"prompt_len", "reason"}
    assert "learned 1,024 positions" in refused["reason"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--generate", "--new-tokens", "0"), "--new-tokens"),
        (("--generate", "--new-tokens", "1000000000"), "--new-tokens"),
        (("--generate", "--context", "4k,x"), "is no number of tokens"),
        (("--generate", "--workload", "forward"), "exclude each other"),
        (("--generate", "--optimizer", "sgd"), "--optimizer has no effect on the workload generate"),
        (("--generate", "--lora", "r=8,dropout=0.1"), "dropout"),
        (("--generate", "--engine", "vllm"), "--generate has no effect with --engine"),
        (("--context", "4k", "--engine", "vllm"), "--context has no effect with --engine"),
        (("--generate", "--prompt-len", "2k"), "has learned 1,024 positions"),
        (("--context", "4k"), "--context belongs to a generation"),
        (("--cache", "static"), "--cache has no effect on the workload training"),
    ],
)
def test_contradicting_options_are_one_line_and_exit_with_2(arguments: tuple[str, ...], words: str) -> None:
    result = run("openai-community/gpt2", "--offline", *arguments)
    assert result.code == 2
    assert words in result.err
    assert result.err.count("\n") == 1

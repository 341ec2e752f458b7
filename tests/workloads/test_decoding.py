"""How tokens are chosen: what a repository says, what an option says, what sampling takes, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

import inspector
from inspector.predict.generation import is_long
from inspector.predict.predictor import Predictor
from inspector.records.recipe import Recipe
from inspector.records.request import Request
from inspector.records.steps import decoding
from inspector.resolve import resolve_run
from tests.cli.running import run
from tests.model.tiny import llama
from tests.trace.cpu_truth import assert_aligned, tape_events
from tests.workloads.test_generate_truth import RECIPE, generate_for_real, trace_generation

QWENS = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1}
SHORT = ("--generate", "--prompt-len", "8", "--new-tokens", "3", "--no-advice")


def make_model(folder: Path, fields: str | dict[str, Any] | None) -> str:
    """Write a model with its generation_config.json to a folder."""
    (folder / "config.json").write_text(llama().to_json_string(), encoding="utf-8")
    if fields is not None:
        text = fields if isinstance(fields, str) else json.dumps(fields)
        (folder / "generation_config.json").write_text(text, encoding="utf-8")
    return str(folder)


def test_every_field_of_generation_config_is_known_here() -> None:
    known = {*decoding._KNOWN, *decoding._WITHOUT_EFFECT, *decoding.OWN_SETTINGS}
    assert set(vars(GenerationConfig())) <= known


def test_what_the_repository_says_is_followed_and_shown(tmp_path: Path) -> None:
    model = make_model(tmp_path, {**QWENS, "max_new_tokens": 2048, "eos_token_id": [2, 3], "x_of_a_model": 1})
    result = run(model, *SHORT)
    words = "sampling, temperature 0.7, top_k 20, top_p 0.8, repetition_penalty 1.1 (generation_config.json)"
    assert words in " ".join(result.out.split())
    recipe = run(model, *SHORT, "--json").report["generation"]["recipe"]
    assert recipe["generation"] == {**QWENS, "eos_token_id": [2, 3]}
    assert recipe["new_tokens"] == 3


def test_an_option_goes_before_what_the_repository_says(tmp_path: Path) -> None:
    model = make_model(tmp_path, QWENS)
    report = run(model, *SHORT, "--generation", "do_sample=False", "--json").report
    assert report["generation"]["recipe"]["generation"] == {**QWENS, "do_sample": False}
    (tmp_path / "generation_config.json").unlink()
    greedy = run(model, *SHORT, "--json").report
    assert "generation" not in greedy["generation"]["recipe"]


def test_a_file_may_say_it_and_gives_length_and_cache_to_their_own_options(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"do_sample": True, "max_new_tokens": 2, "use_cache": False}), encoding="utf-8")
    recipe = run(make_model(tmp_path, None), "--generate", "--prompt-len", "8", "--generation", str(file), "--json")
    fields = recipe.report["generation"]["recipe"]
    assert (fields["new_tokens"], fields["cache"], fields["generation"]) == (2, "none", {"do_sample": True})


@pytest.mark.parametrize("text", ["{", "[]", '{"top_p": 2}', '{"do_sample": "yes"}', '{"eos_token_id": "</s>"}'])
def test_a_malformed_generation_config_is_one_line_and_exits_with_4(tmp_path: Path, text: str) -> None:
    result = run(make_model(tmp_path, text), *SHORT)
    assert result.code == 4
    assert "generation_config.json" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        ("num_beams=4", 4, "beam search reads the scores of its beams"),
        ("dola_layers=high", 4, "DoLa reads"),
        ("penalty_alpha=0.6,top_k=4", 4, "--generation do_sample=true,top_k=4"),
        ("prompt_lookup_num_tokens=3", 4, "prompt lookup reads"),
        ("assistant_early_exit=3", 4, "assisted decoding reads"),
        ("penalty_alpha=0.6", 4, "--generation do_sample=true,top_k=50"),
        ("guidance_scale=1.5", 4, "runs the model a second time"),
        ("num_return_sequences=2", 4, "add do_sample=true"),
        ("num_beam_groups=2", 4, "beam search reads the scores"),
        ("token_healing=true", 4, "reads the text of the prompt"),
        ("custom_generate=x/y", 4, "a loop of a repository"),
        ("force_words_ids=[[1]]", 4, "constrained beam search reads"),
        ("topp=0.9", 2, "did you mean top_p?"),
        ("top_p=2", 2, "give a number from 0 to 1"),
        ("cache_implementation=offloaded", 2, "give --cache, one of dynamic"),
        ("max_new_tokens=12", 2, "--new-tokens and --generation say different things"),
        ("no-such-file.json", 2, "is neither KEY=VALUE nor a file"),
    ],
)
def test_what_is_not_traced_is_refused_by_name_with_what_is(asked: str, code: int, words: str) -> None:
    result = run("openai-community/gpt2", "--offline", *SHORT, "--generation", asked)
    assert result.code == code, result.err
    assert words in result.err
    assert result.err.count("\n") == 1


# Fields with a value other than that of a plain generation, and whether its blocks are others then. What keeps outputs
# does so for `return_dict_in_generate` alone.
TRACED: dict[str, tuple[Any, bool]] = {
    **dict.fromkeys(("renormalize_logits", "remove_invalid_values", "return_dict_in_generate"), (True, True)),
    **dict.fromkeys(("output_scores", "output_logits", "output_attentions"), (True, False)),
    **dict.fromkeys(("min_length", "min_new_tokens", "no_repeat_ngram_size"), (2, True)),
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty"), (1.2, True)),
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens"), ([5], True)),
    "bad_words_ids": ([[5], [6, 7]], True),
    "sequence_bias": ([[[5, 6], -1.0]], True),
    "exponential_decay_length_penalty": ([2, 1.5], True),
    "forced_eos_token_id": (6, True),
    "max_time": (3.5, True),
    "forced_decoder_ids": ([[1, None]], False),
}


@pytest.mark.filterwarnings("ignore")
def test_fields_are_traced_or_have_no_effect_on_memory() -> None:
    plain = llama()

    def list_blocks(name: str | None) -> list[tuple[object, int]]:
        fields = {} if name is None else {name: TRACED[name][0]}
        request = Request(
            model=plain, workload="generate", recipe=Recipe(prompt_len=8, new_tokens=3, generation=fields)
        )
        return [(event.kind, event.bytes) for event in Predictor(None).predict(resolve_run(request, None, {})).tape]

    as_it_is = list_blocks(None)
    assert {name: list_blocks(name) != as_it_is for name in TRACED} == {name: on for name, (_, on) in TRACED.items()}


@pytest.mark.filterwarnings("ignore")
def test_a_static_cache_has_room_for_what_max_cache_len_says() -> None:
    sizes = []
    for fields in ({}, {"max_cache_len": 4096}):
        recipe = inspector.Generation(prompt_len=8, new_tokens=3, cache="static", generation=fields)
        report = inspector.inspect(llama(), recipe=recipe)
        assert report.cache is not None
        sizes.append(report.cache.at_end_bytes)
    assert sizes[1] > 100 * sizes[0]


def test_a_setting_of_its_own_is_named_where_a_mapping_says_it() -> None:
    with pytest.raises(inspector.UsageError, match="say `new_tokens`"):
        inspector.Recipe(generation={"max_new_tokens": 3})


@pytest.mark.parametrize(
    "fields",
    [
        {"repetition_penalty": 1.1},
        {"min_new_tokens": 3, "no_repeat_ngram_size": 2, "suppress_tokens": [1, 2]},
        {"return_dict_in_generate": True, "output_scores": True, "output_logits": True},
    ],
    ids=lambda fields: "-".join(fields),
)
@pytest.mark.filterwarnings("ignore")
def test_tokens_that_are_chosen_so_allocate_what_they_do_with_data(fields: dict[str, Any]) -> None:
    recipe = dataclasses.replace(RECIPE, generation=fields)
    real, inside = generate_for_real("llama", recipe)
    assert_aligned(real, inside, tape_events(trace_generation("llama", recipe)))


@pytest.mark.filterwarnings("ignore")
def test_a_long_sampled_generation_is_the_one_that_is_traced_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = inspector.Generation(prompt_len=20, new_tokens=80, generation=QWENS, padding=False)
    foretold = inspector.inspect(llama(), recipe=recipe).memory
    monkeypatch.setattr("inspector.predict.generation._LONGEST_TRACED", 100)
    traced = inspector.inspect(llama(), recipe=recipe).memory
    assert foretold is not None
    assert traced is not None
    assert foretold.peak_allocated_bytes == traced.peak_allocated_bytes
    assert foretold.peak_reserved_bytes == traced.peak_reserved_bytes
    assert foretold.curve == traced.curve


def test_python_takes_a_list_of_contexts_and_engines_to_compare() -> None:
    recipe = inspector.Generation(prompt_len=8, new_tokens=2)
    report = inspector.inspect(llama(), recipe=recipe, context=[32, 16])
    assert report.context is not None
    assert [point.prompt_len for point in report.context] == [16, 32]
    for context, words in ((4096, "give a list of lengths"), ([0], "`context`"), (list(range(1, 99)), "give fewer")):
        with pytest.raises(inspector.UsageError, match=words):
            inspector.inspect(llama(), recipe=recipe, context=context)  # type: ignore[arg-type]
    engines = {"transformers": {"recipe": recipe}, "vLLM": {"serving": {"engine": "vllm", "max_model_len": 64}}}
    compared = inspector.compare(engines, model="openai-community/gpt2", offline=True, gpu="h100")
    assert [set(each.fit) for each in compared.recipes] == 2 * [{"H100 SXM"}]


RECORDED = json.loads((Path(__file__).parent / "recorded_sampling.json").read_text(encoding="utf-8"))
ROWS = RECORDED["rows"]


@pytest.mark.parametrize("row", ROWS if os.environ.get("INSPECTOR_TRUTH") == "all" else ROWS[:3])
@pytest.mark.filterwarnings("ignore")
def test_sampling_takes_what_torchs_cuda_code_takes(row: dict[str, Any], tmp_path: Path) -> None:
    for name in ("config", "generation_config"):
        (tmp_path / f"{name}.json").write_text(json.dumps(RECORDED[name]), encoding="utf-8")
    recipe = inspector.Generation(padding=False, **row["recipe"])
    memory = inspector.inspect(str(tmp_path), recipe=recipe).memory
    assert memory is not None
    assert (memory.peak_allocated_bytes, memory.peak_reserved_bytes) == (row["peak"], row["reserved"])


def test_merging_an_adapter_takes_its_products_and_then_leaves_nothing_of_it() -> None:
    arguments: dict[str, Any] = {"peft": inspector.LoraOptions(r=4, targets="all-linear")}
    plain, unmerged, merged = (
        inspector.inspect(
            llama(), recipe=inspector.Generation(prompt_len=8, new_tokens=2, adapter=state), **given
        ).memory
        for given, state in (({}, "unmerged"), (arguments, "unmerged"), (arguments, "merged"))
    )
    assert plain is not None
    assert unmerged is not None
    assert merged is not None
    # The ids and the mask are made before, the workspace of cuBLAS while merging.
    assert merged.phases[-1].end_allocated_bytes == plain.phases[-1].end_allocated_bytes
    assert unmerged.phases[-1].end_allocated_bytes > plain.phases[-1].end_allocated_bytes
    assert merged.phases[0].peak_allocated_bytes > unmerged.phases[0].peak_allocated_bytes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "merges an adapter, and there is none"),
        (("--lora", "r=4", "--quantization", "nf4"), "without --quantization"),
        (("--peft", '{"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4}'), "does not merge"),
    ],
)
def test_what_cannot_be_merged_is_refused(arguments: tuple[str, ...], words: str) -> None:
    result = run("Qwen/Qwen2.5-0.5B", "--offline", *SHORT, "--adapter", "merged", *arguments)
    assert result.code == 2, result.err
    assert words in result.err


def test_a_training_file_does_not_generate(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    fields = {"base_model": "Qwen/Qwen2.5-0.5B", "adapter": "lora", "lora_r": 8, "lora_target_linear": True}
    lines = [f"{key}: {str(value).lower() if value is True else value}" for key, value in fields.items()]
    more = ["lora_alpha: 16", "sequence_len: 512", "micro_batch_size: 1", "optimizer: adamw_torch", "num_epochs: 1"]
    file.write_text("\n".join([*lines, *more, "datasets: [{path: x, type: alpaca}]"]), encoding="utf-8")
    for option in ("--generate", "--engine=vllm"):
        result = run(str(file), option, "--offline")
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert "MODEL is a training file: name the model" in result.err


def test_a_checkpoint_of_transformers_is_sent_to_a_gguf_of_it(tmp_path: Path) -> None:
    for model in ("Qwen/Qwen3-8B", make_model(tmp_path, None)):
        result = run(model, "--engine", "llama.cpp", "--offline")
        assert (result.code, result.err.count("\n")) == (3, 1)
        assert "name a repository of it as GGUF, such as org/name-GGUF:Q4_K_M" in result.err


@pytest.mark.filterwarnings("ignore")
def test_a_search_of_new_tokens_keeps_no_long_tape(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    original = Predictor.predict

    def predict(self: Predictor, run: Any) -> Any:
        found = original(self, run)
        kept.append(sum(is_long(item.run) for item in self._predictions.values()))
        return found

    monkeypatch.setattr(Predictor, "predict", predict)
    for module in ("inspector.extrapolate.layers", "inspector.extrapolate.steps"):
        monkeypatch.setattr(f"{module}.MOST_EVENTS", 60_000)
    recipe = inspector.Generation(prompt_len=8, new_tokens=70)
    report = inspector.inspect(llama(), recipe=recipe, gpu_memory="24GiB", fit="new-tokens", advice=False)
    assert report.search is not None
    assert report.search.traces > 1
    assert max(kept) == 1

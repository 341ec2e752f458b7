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
from inspector.records.steps import decoding
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
    monkeypatch.setattr("inspector.generation._LONGEST_TRACED", 100)
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

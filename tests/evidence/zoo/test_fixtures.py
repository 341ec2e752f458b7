"""The catalogue's files: their form, their facts against arithmetic, their words against their figures. No torch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from .catalogue import FOLDER, entries
from .differences import DIFFERENCES, NOTED, UNIDENTIFIED
from .formulas import own_count

ENTRIES = entries()
FILES = sorted(FOLDER.glob("*.json"))

# One member of every family that the catalogue promises.
FAMILIES = {
    "Qwen2": "Qwen/QwQ-32B",
    "Qwen2.5": "Qwen/Qwen2.5-7B",
    "Qwen2.5-VL": "Qwen/Qwen2.5-VL-7B-Instruct",
    "Qwen3": "Qwen/Qwen3-8B",
    "Qwen3 MoE": "Qwen/Qwen3-30B-A3B",
    "Qwen3-Next": "Qwen/Qwen3-Next-80B-A3B-Instruct",
    "R1 distilled": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    "DeepSeek-V2": "deepseek-ai/DeepSeek-V2-Lite",
    "DeepSeek-V3": "deepseek-ai/DeepSeek-V3",
    "DeepSeek-R1": "deepseek-ai/DeepSeek-R1",
    "Kimi": "moonshotai/Kimi-K2-Instruct",
    "Llama 2": "meta-llama/Llama-2-7b-hf",
    "Llama 3": "meta-llama/Meta-Llama-3-8B",
    "Llama 3.1": "meta-llama/Meta-Llama-3.1-8B",
    "Llama 3.2": "meta-llama/Llama-3.2-1B",
    "Llama 3.3": "meta-llama/Llama-3.3-70B-Instruct",
    "Llama 4": "meta-llama/Llama-4-Scout-17B-16E-Instruct",
    "Mistral": "mistralai/Mistral-7B-v0.1",
    "Mixtral": "mistralai/Mixtral-8x7B-v0.1",
    "Gemma 2": "google/gemma-2-2b",
    "Gemma 3": "google/gemma-3-4b-it",
    "Phi-2": "microsoft/phi-2",
    "Phi-3": "microsoft/Phi-3-mini-4k-instruct",
    "Phi-4": "microsoft/phi-4",
    "gpt-oss": "openai/gpt-oss-20b",
    "GLM": "zai-org/GLM-4-9B-0414",
    "OLMo 2": "allenai/OLMo-2-1124-7B",
    "OLMoE": "allenai/OLMoE-1B-7B-0924",
    "GPT-2": "openai-community/gpt2",
    "GPT-NeoX": "EleutherAI/pythia-1.4b",
    "OPT": "facebook/opt-1.3b",
    "BLOOM": "bigscience/bloom-7b1",
    "Falcon": "tiiuae/falcon-7b",
    "T5": "google-t5/t5-small",
    "BART": "facebook/bart-large",
    "BERT": "google-bert/bert-base-uncased",
    "RoBERTa": "FacebookAI/roberta-large",
    "DeBERTa": "microsoft/deberta-v3-base",
    "ViT": "google/vit-base-patch16-224",
    "CLIP": "openai/clip-vit-base-patch32",
    "Whisper": "openai/whisper-small",
    "LLaVA": "llava-hf/llava-1.5-7b-hf",
    "Mamba": "state-spaces/mamba-130m-hf",
    "Jamba": "ai21labs/AI21-Jamba-1.5-Mini",
}

REQUIRED = {"id", "aliases", "config", "config_source", "checkpoint_dtype", "published"}
DTYPES = {"float32", "float16", "bfloat16", "float8_e4m3fn", None}
# Fields that say nothing about the modules, the bytes or a training step, or that belong to the repository's files.
UNWANTED = {
    "_name_or_path",
    "auto_map",
    "bad_words_ids",
    "id2label",
    "initializer_range",
    "label2id",
    "license",
    "task_specific_params",
    "torch_dtype",
    "transformers_version",
}

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
each_entry = pytest.mark.parametrize("model_id", ENTRIES)


def pairs_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object, refusing a key that is there twice."""
    keys = [key for key, _ in pairs]
    assert len(keys) == len(set(keys)), f"repeated key among {keys}"
    return dict(pairs)


@each_file
def test_file_is_one_json_object_without_repeated_keys(path: Path) -> None:
    """A fixture is UTF-8 text: one object, each key once, no null bytes, a line end at its end."""
    raw = path.read_bytes()
    assert b"\0" not in raw
    assert raw.endswith(b"}\n")
    assert isinstance(json.loads(raw.decode("utf-8"), object_pairs_hook=pairs_once), dict)


@each_file
def test_file_has_the_agreed_keys_and_the_name_of_its_id(path: Path) -> None:
    """A fixture has the keys that fixtures/README.md lists, and its file is named after its id."""
    entry = json.loads(path.read_text(encoding="utf-8"))
    assert set(entry) - {"notes"} == REQUIRED
    assert set(entry["published"]) - {"explanation"} == {"parameters", "kind", "source"}
    assert path.stem == entry["id"].replace("/", "__")
    assert entry["checkpoint_dtype"] in DTYPES


@each_entry
def test_facts_of_a_fixture_have_sources(model_id: str) -> None:
    """The config and the published count say where they come from."""
    entry = ENTRIES[model_id]
    assert entry["config_source"] == f"https://huggingface.co/{model_id}/blob/main/config.json"
    assert isinstance(entry["published"]["parameters"], int)
    assert entry["published"]["kind"]
    assert entry["published"]["source"]


@each_entry
def test_the_config_of_a_fixture_holds_facts_only(model_id: str) -> None:
    """A config names its architecture and leaves out what determines neither modules nor a training step."""
    config = ENTRIES[model_id]["config"]
    assert next(iter(config)) == "model_type"
    assert len(config.get("architectures", ["none named"])) == 1
    for part in (config, config.get("text_config", {}), config.get("vision_config", {})):
        assert not UNWANTED & set(part)


@each_entry
def test_published_count_is_own_count_plus_explained_difference(model_id: str) -> None:
    """The count from dimensions, the arithmetic of the difference and the published count agree to the last one."""
    published = ENTRIES[model_id]["published"]
    rest = published["parameters"] - own_count(ENTRIES[model_id]["config"]) - DIFFERENCES.get(model_id, 0)
    assert rest == UNIDENTIFIED.get(model_id, 0)


@each_entry
def test_an_explanation_exists_exactly_where_a_published_count_differs(model_id: str) -> None:
    """A published count that differs is explained in one sentence, and no other is."""
    explanation = ENTRIES[model_id]["published"].get("explanation")
    assert (explanation is not None) == (model_id in DIFFERENCES)
    if explanation is not None:
        assert explanation.endswith(".")
        assert not re.search(r"[.!?] ", explanation), "more than one sentence"


@pytest.mark.parametrize("model_id", DIFFERENCES)
def test_explanation_names_the_difference_and_its_parts_add_up(model_id: str) -> None:
    """An explanation holds the figure that it explains, and every product in it is calculated right."""
    explanation = ENTRIES[model_id]["published"]["explanation"]
    difference = abs(DIFFERENCES[model_id] + UNIDENTIFIED.get(model_id, 0))
    assert f"{difference:,}" in explanation
    stated = re.findall(r"\(([^()]*[×+][^()]*) = ([\d,]+)\)", explanation)
    stated += [(terms, value) for value, terms in re.findall(r"([\d,]+) \(([^()=]*×[^()=]*)\)", explanation)]
    for terms, value in stated:
        expression = re.sub(r"[^\d+*]", "", terms.replace("²", "**2").replace("×", "*"))
        assert eval(expression) == int(value.replace(",", "")), f"{terms} = {value}"


@pytest.mark.parametrize("model_id", UNIDENTIFIED)
def test_a_remainder_that_is_not_understood_is_called_unidentified(model_id: str) -> None:
    """An explanation that leaves parameters over gives their number and says that they aren't identified."""
    explanation = ENTRIES[model_id]["published"]["explanation"]
    assert f"{UNIDENTIFIED[model_id]:,}" in explanation
    assert "has not been identified" in explanation


@pytest.mark.parametrize("model_id", NOTED)
def test_other_totals_in_the_notes_are_calculated_right(model_id: str) -> None:
    """What another total of the Hub holds in addition, as the notes say it, follows from the dimensions."""
    entry = ENTRIES[model_id]
    assert f"{NOTED[model_id]:,}" in entry["notes"]
    if "older total" in entry["notes"]:
        assert f"{entry['published']['parameters'] + NOTED[model_id]:,}" in entry["notes"]


def test_catalogue_covers_the_promised_families() -> None:
    """Every family has a member, and there are at least 40 models."""
    assert set(FAMILIES.values()) <= set(ENTRIES)
    assert len(ENTRIES) == len(FILES) >= 40


def test_ids_and_aliases_of_fixtures_are_unique() -> None:
    """No id or alias stands for two models, upper and lower case taken as the same."""
    names = [name.lower() for entry in ENTRIES.values() for name in (entry["id"], *entry["aliases"])]
    assert len(names) == len(set(names))


def test_tables_of_arithmetic_belong_to_entries() -> None:
    """No expression is kept for a model that the catalogue no longer holds."""
    assert set(DIFFERENCES) | set(UNIDENTIFIED) | set(NOTED) <= set(ENTRIES)

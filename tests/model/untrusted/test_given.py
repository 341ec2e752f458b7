"""Which sizes a config.json gives: what transformers saves is enough, and what its defaults would fill in is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import inspector
from inspector.errors import UnsupportedModelError
from inspector.model.untrusted.given import check_counts, find_gaps, list_sizes
from inspector.source.catalogue import list_ids
from tests.cli.running import assert_refused, bundled_config, run, written

SIZES = ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size"]
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16", **dict.fromkeys(SIZES, 64)}
# Not as keywords: type checkers know the fields of a configuration.
SLIP: dict[str, Any] = {"hiden_size": 8}
FAMILIES = ["bert", "vit", "t5", "gpt2", "clip", "llava", "qwen2_vl", "whisper", "mixtral", "swin", "resnet", "llama"]


def build(fields: dict[str, Any]) -> PretrainedConfig:
    """Return the configuration that transformers makes of a config.json."""
    name = fields["model_type"]
    # Not with get(), which knows what is loaded already. Kimi-K2 is a DeepSeek-V3.
    found = CONFIG_MAPPING[name if name in CONFIG_MAPPING else "deepseek_v3"]
    return found.from_dict(dict(fields))


def without(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in names}


@pytest.mark.parametrize("name", list_ids())
def test_no_model_of_the_catalogue_lacks_a_size(name: str) -> None:
    fields = bundled_config(name)
    assert not find_gaps(build(fields), fields)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_what_transformers_saves_of_defaults_gives_all_sizes(model_type: str, tmp_path: Path) -> None:
    """A model whose sizes equal the defaults of its class is saved with them all the same."""
    CONFIG_MAPPING[model_type]().save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert not find_gaps(build(fields), fields)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_name_of_a_family_alone_gives_no_size(model_type: str) -> None:
    fields = {"model_type": model_type, "architectures": ["SomeModel"], "dtype": "bfloat16"}
    assert find_gaps(build(fields), fields).missing


def test_the_sizes_of_a_class_are_those_that_it_has_numbers_for() -> None:
    """Falcon's heads of keys may be None, which means a number that follows from others; GPT-2 has names of its own."""
    assert list_sizes(CONFIG_MAPPING["gpt2"]) == ["n_embd", "n_layer", "n_head", "vocab_size"]
    assert list_sizes(CONFIG_MAPPING["llama"]) == SIZES
    assert {"encoder_layers", "decoder_layers", "decoder_ffn_dim"} <= set(list_sizes(CONFIG_MAPPING["bart"]))


def test_a_size_may_be_given_under_another_name_of_its_class() -> None:
    """attribute_map leads hidden_size to n_embd; falcon's first files say n_layer."""
    fields = {"model_type": "gpt2", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}
    assert not find_gaps(build(fields), fields)


@pytest.mark.parametrize("name", SIZES)
def test_each_size_has_to_be_given(name: str) -> None:
    fields = without(LLAMA, name)
    assert find_gaps(build(fields), fields).missing == (name,)


@pytest.mark.parametrize(
    ("written_as", "meant", "misses"),
    [
        ("hiden_size", "hidden_size", True),
        ("intermediate_sise", "intermediate_size", True),
        ("num_key_value_head", "num_key_value_heads", False),
    ],
)
def test_a_slip_is_named_with_what_was_meant(written_as: str, meant: str, misses: bool) -> None:
    """Also of a field that may be left out: eight heads of keys would silently be as many as there are heads."""
    fields = {**without(LLAMA, meant), written_as: 8}
    gaps = find_gaps(build(fields), fields)
    assert gaps.missing == ((meant,) if misses else ())
    assert gaps.misspelt == ((written_as, meant),)


def test_a_field_of_a_newer_or_older_library_is_no_slip() -> None:
    """Qwen2.5-VL's files have in_chans beside in_channels; an unknown field that is like a given one means nothing."""
    fields = {**LLAMA, "hidden_sizes": 3, "rope_theta": 10_000, "num_layers_of_something": 5, "n_ctx": 4}
    assert not find_gaps(build(fields), fields)


def test_a_part_that_is_not_there_is_missing_and_a_slip_in_its_name_is_seen() -> None:
    fields = bundled_config("llava-hf/llava-1.5-7b-hf")
    fields["text_conifg"] = fields.pop("text_config")
    gaps = find_gaps(build(fields), fields)
    assert "text_config.hidden_size" in gaps.missing
    assert gaps.misspelt == (("text_conifg", "text_config"),)


def test_a_part_may_say_only_what_differs_from_the_defaults_of_its_class() -> None:
    """LLaVA 1.5 says two sizes of its Vicuna and none of the others; a CLIP of default sizes is saved without any."""
    assert "hidden_size" not in bundled_config("llava-hf/llava-1.5-7b-hf")["text_config"]
    parts = {"text_config": {"model_type": "clip_text_model"}, "vision_config": {"model_type": "clip_vision_model"}}
    saved = {"model_type": "clip", "transformers_version": "4.33.0", **parts}
    assert not find_gaps(build(saved), saved)
    by_hand = {"model_type": "clip", **parts}
    assert find_gaps(build(by_hand), by_hand).missing


def test_the_text_of_a_model_may_be_given_by_the_whole() -> None:
    """Qwen2-VL's files have the fields of its text beside those of the whole."""
    fields = bundled_config("Qwen/Qwen2.5-VL-7B-Instruct")
    assert "text_config" not in fields
    assert not find_gaps(build(fields), fields)


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [
        ("llama", {"num_hidden_layers": -1}),
        ("gpt2", {"n_layer": 10_001}),
        ("gpt2", {"num_hidden_layers": 10_001}),
        ("t5", {"num_decoder_layers": -1}),
        ("bart", {"decoder_layers": 10**6}),
        ("swin", {"num_heads": [3, -6, 12, 24]}),
        ("swin", {"depths": [10**9, 2, 2, 2]}),
        ("llava", {"text_config": {"model_type": "llama", "num_hidden_layers": 10**9}}),
    ],
)
def test_a_size_that_no_model_has_is_refused_before_anything_is_made(model_type: str, fields: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError, match="correct it"):
        check_counts(CONFIG_MAPPING[model_type], fields)


def test_a_config_without_sizes_is_refused_with_their_names(tmp_path: Path) -> None:
    path = written(tmp_path, {"model_type": "llama"})
    ran = run(path, "--count-only")
    assert_refused(ran, 4, f"does not say {', '.join(SIZES)};")
    assert "--assume-defaults" in ran.err


def test_a_misspelt_size_is_refused_with_what_was_meant(tmp_path: Path) -> None:
    path = written(tmp_path, {**without(LLAMA, "hidden_size"), "hiden_size": 8192})
    assert_refused(run(path, "--count-only"), 4, "hiden_size (did you mean hidden_size?)")


def test_a_bare_config_beside_gguf_files_says_to_name_the_original(tmp_path: Path) -> None:
    """Repositories of quantized files often carry no more than the name of the family."""
    written(tmp_path, {"model_type": "llama"})
    (tmp_path / "model-q4_k_m.gguf").write_bytes(b"GGUF")
    assert_refused(run(str(tmp_path), "--lora", "r=16"), 4, "GGUF files: name the repository of the original model")


def test_assumed_defaults_are_said_first(tmp_path: Path) -> None:
    """Before the class and its figures, and as the first warning of the report."""
    path = written(tmp_path, {"model_type": "llama"})
    ran = run(path, "--count-only", "--assume-defaults", "--depth", "0")
    assert ran.out.splitlines()[1].startswith("config.json does not say hidden_size, num_hidden_layers")
    report = inspector.inspect(path, assume_defaults=True, count_only=True)
    assert report.warnings[0].code == "sizes-assumed"
    assert report.parameters.base == 6_738_415_616


def test_a_configuration_that_the_user_made_is_taken_as_it_is() -> None:
    """A live object has all its values, whoever chose them."""
    report = inspector.inspect(transformers.LlamaConfig(**SLIP), count_only=True)
    assert report.parameters.base == 6_738_415_616
    assert "sizes-assumed" not in [notice.code for notice in report.warnings]

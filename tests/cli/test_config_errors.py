"""A config.json that cannot be inspected ends with code 4 and one line, whatever is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .running import SMALL, Ran, assert_refused, bundled_config, run, written

FAMILIES = {
    "qwen2": SMALL,
    "gpt2": "openai-community/gpt2",
    "bert": "google-bert/bert-base-uncased",
    "t5": "google-t5/t5-small",
    "llava": "llava-hf/llava-1.5-7b-hf",
    "mixtral": "mistralai/Mixtral-8x7B-v0.1",
    "whisper": "openai/whisper-small",
}
WRONG: tuple[object, ...] = (-1, 0, 10**12, "x", None, 1.5, [], {}, True, [1, 2])


def integer_paths(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield where integers stand in a configuration."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from integer_paths(item, (*path, key))
    elif isinstance(value, int) and not isinstance(value, bool):
        yield path


INTEGERS = [(family, path) for family, name in FAMILIES.items() for path in integer_paths(bundled_config(name))]


def replaced(config: dict[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    """Return a configuration with another value at `path`."""
    *parents, last = path
    inner = config
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return config


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"not JSON at all", "not valid JSON", id="no-json"),
        pytest.param(b'{"model_type": "qwen2", "hidden', "not valid JSON", id="truncated"),
        pytest.param(b"[]", "a list", id="list"),
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b"\x00\xff\xfe\x80", "UTF-8", id="binary"),
        pytest.param(b" " * (17 * 2**20), "MiB", id="huge"),
        pytest.param(b'{"a":' * 200 + b"1" + b"}" * 200, "nests", id="deep"),
        pytest.param(b"[" * 100_000, "nests", id="very-deep"),
        pytest.param(b'{"hidden_size": NaN}', "NaN", id="nan"),
        pytest.param(b'{"hidden_size": ' + b"9" * 5000 + b"}", "64 bit", id="huge-integer"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(content: bytes, says: str, tmp_path: Path) -> None:
    """What is wrong with the file itself is said with what to do about it."""
    assert_refused(run(written(tmp_path, content)), 4, says)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        pytest.param({}, "no model_type", id="empty-object"),
        pytest.param({"hidden_size": 8, "num_hidden_layers": 2}, "no model_type", id="no-model-type"),
        pytest.param({"model_type": "nothing-like-it"}, "'nothing-like-it' is unknown", id="unknown-type"),
        pytest.param({"model_type": "qwen22"}, "did you mean 'qwen2'?", id="misspelt-type"),
        pytest.param({"model_type": 5}, "must be a string", id="type-is-a-number"),
        pytest.param({"model_type": "x" * 100_000}, "is unknown", id="endless-type"),
        pytest.param({"architectures": ["NobodysForCausalLM"]}, "no model_type", id="unknown-architecture"),
        pytest.param(
            {"model_type": "nobodys", "architectures": ["NobodysForCausalLM"]}, "is unknown", id="unknown-both"
        ),
        pytest.param({"model_type": "qwen2", "architectures": "Qwen2ForCausalLM"}, "must be a list", id="no-list"),
        pytest.param({"model_type": "qwen2", "architectures": [5]}, "must be a list", id="list-of-numbers"),
        pytest.param({"model_type": "nobodys", "auto_map": {"AutoConfig": "a.B"}}, "--trust-remote-code", id="code"),
    ],
)
def test_a_model_that_is_not_known_is_refused(config: object, says: str, tmp_path: Path) -> None:
    """Unknown, missing and malformed names of models each have a line of their own."""
    assert_refused(run(written(tmp_path, config)), 4, says)


def test_an_unknown_architecture_of_a_known_type_is_built_as_that_type_with_a_notice(tmp_path: Path) -> None:
    """A class that transformers lacks is replaced by the model type's own, with a warning."""
    config = {**bundled_config(SMALL), "architectures": ["NobodysForCausalLM"]}
    report = run(written(tmp_path, config), "--json", "--count-only").report
    assert report["model"]["class"] == "Qwen2ForCausalLM"
    assert "class-fallback" in [warning["code"] for warning in report["warnings"]]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"num_hidden_layers": 10**9}, id="layers"),
        pytest.param({"num_hidden_layers": -1}, id="negative-layers"),
        pytest.param({"hidden_size": -896}, id="negative-size"),
        pytest.param({"num_attention_heads": 0}, id="no-heads"),
        pytest.param({"layer_types": 10**9}, id="layer-types"),
        pytest.param({"layer_types": ["full_attention"] * 7}, id="layer-types-of-another-length"),
        pytest.param({"num_labels": 10**9}, id="labels"),
        pytest.param({"id2label": 5}, id="labels-no-object"),
        pytest.param({"dtype": "float31"}, id="dtype"),
        pytest.param({"hidden_act": "nothing"}, id="activation"),
        pytest.param({"rope_parameters": {"rope_type": "nothing"}}, id="rope"),
        pytest.param({"quantization_config": 5}, id="quantization"),
        pytest.param({"model_type": "mixtral", "num_local_experts": 10**9}, id="experts"),
        pytest.param({"model_type": "gpt2", "n_layer": 10**9}, id="gpt2-layers"),
        pytest.param({"model_type": "bart", "encoder_layers": 10**9}, id="encoder-layers"),
        pytest.param({"model_type": "swin", "depths": [10**9, 2, 2, 2]}, id="depths"),
    ],
)
def test_absurd_values_of_a_configuration_are_refused(changes: dict[str, object], tmp_path: Path) -> None:
    """Counts that would fill the memory, and values that no model can be built from."""
    base = {} if "model_type" in changes else bundled_config(SMALL)
    ran = run(written(tmp_path, {**base, **changes}), "--assume-defaults", "--count-only")
    assert_refused(ran, 4)


@pytest.mark.parametrize(
    ("family", "path"), [pytest.param(*case, id=f"{case[0]}-{'.'.join(case[1])}") for case in INTEGERS]
)
@pytest.mark.one_of(3)
def test_a_wrong_value_in_any_integer_field_is_counted_or_refused(
    family: str, path: tuple[str, ...], tmp_path: Path
) -> None:
    """No value of any size field ends in a traceback, in noise or in a negative count."""
    for value in WRONG:
        config = replaced(bundled_config(FAMILIES[family]), path, value)
        ran = run(written(tmp_path, config), "--count-only", "--json")
        if ran.code == 0:
            assert ran.report["parameters"]["base"] >= 0
        else:
            assert_refused(ran, 4)


@pytest.mark.usefixtures("shared_answers")
def test_terminal_escapes_of_a_configuration_never_reach_the_terminal(tmp_path: Path) -> None:
    """Names of models and files are quoted without their control characters, in errors and in every format."""
    escape = "\x1b]0;owned\x07\x1b[31mred\u202e"
    folder = tmp_path / f"{escape}folder"
    folder.mkdir()
    assert_refused(run(written(folder, {"model_type": escape})), 4)
    assert_refused(run(f"{escape}/{escape}", "--offline"), 3)
    assert_refused(run(SMALL, "--offline", "--lora", f"r={escape}"), 2)
    assert_refused(run(SMALL, "--offline", "--dtype", escape), 2)
    assert_refused(run(SMALL, "--offline", "--output", f"{tmp_path}/{escape}/file"), 2)
    config = {**bundled_config(SMALL), "architectures": [escape], "quantization_config": {"quant_method": escape}}
    for format_ in ("text", "markdown", "json"):
        ran = run(written(folder, config), "--format", format_)
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.replace("\n", "").isprintable()


def test_half_a_character_in_a_configuration_does_not_stop_the_report(tmp_path: Path) -> None:
    """JSON can hold lone surrogates, which no encoding takes; they are spelt out."""
    content = json.dumps({**bundled_config(SMALL), "architectures": ["\ud800ForCausalLM"]}).encode()
    for format_ in ("text", "markdown", "json"):
        output = str(tmp_path / format_)
        named = ("--gpu", "a100-80gb", "--no-advice")
        assert run(written(tmp_path, content), *named, "--format", format_, "--output", output) == Ran(0, "", "")

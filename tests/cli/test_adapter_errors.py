"""An adapter that cannot be put on the model ends with code 2 and one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from .running import SMALL, assert_refused, run


def _forbidden(*_: object, **__: object) -> None:
    raise AssertionError("loaded something")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("r=0", "r=0"),
        ("r=-1", "r=-1"),
        ("r=x", "r=x"),
        ("r=1.5", "r=1.5"),
        ("r=１６", "give an integer"),
        (f"r={10**30}", "give an integer"),
        (f"r={2**31}", "give an integer"),
        ("r=", "give an integer"),
        ("r", "r needs a value: r=16"),
        ("", "r=16"),
        (",", "r=16"),
        ("r=8,", "r=16"),
        ("r=8,r=8", "given twice"),
        ("r=8,dora,dora", "given twice"),
        ("r=8,dora=1", "dora takes no value"),
        ("r=8,rslora=true", "rslora takes no value"),
        ("rank=8", "did you mean r?"),
        ("r=8,lora_alpha=3", "did you mean alpha?"),
        ("r=8,droput=0.1", "did you mean dropout?"),
        ("r=8,nothing=1", "use r, alpha"),
        ("r=8,target_modules=q_proj", "give --targets beside --lora"),
        ("alpha=0", "alpha=0"),
        ("alpha=0.5", "give an integer"),
        ("dropout=1", "no number"),
        ("dropout=-0.1", "no number"),
        ("dropout=nan", "no number"),
        ("dropout=x", "no number"),
        ("bias=some", "lora_only"),
        ("r=8,dropout", "dropout needs a value: dropout=0.05"),
        ("r=8,bias", "bias needs a value: bias=none"),
        ("16", "did you mean r=16?"),
        ("0", "did you mean r=16?"),
        ("r=16 alpha=32", "a comma separates settings; write r=16,alpha=32."),
        ("r=16 dora", "a comma separates settings; write r=16,dora."),
        ("r=16;alpha = 32", "a comma separates settings; write r=16,alpha=32."),
        (";", "a comma separates settings"),
    ],
)
def test_a_wrong_lora_specification_is_refused(spec: str, says: str) -> None:
    """Each mistake in --lora is named, with what to write instead."""
    assert_refused(run(SMALL, "--offline", "--lora", spec), 2, says)


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        ("q_prj", "Did you mean 'q_proj'"),
        ("nothing_at_all", "The linear layers are"),
        ("", "is empty"),
        ("  ", "is empty"),
        ("q_proj,,v_proj", "empty name"),
        ("(q_proj", "regular expression"),
        ("(" * 3000, "regular expression"),
        ("all_linear", "did you mean all-linear?"),
        ("All-Linear", "did you mean all-linear?"),
        ("all-linears", "did you mean all-linear?"),
        ("all-linear,lm_head", "all-linear cannot stand in a list"),
        ("lm_head, all_linear", "all-linear cannot stand in a list"),
        ("nothing.*", "matches no module"),
        ("norm", "cannot adapt"),
        (".*", "cannot adapt"),
    ],
)
def test_targets_that_peft_cannot_adapt_are_refused_with_those_that_work(targets: str, says: str) -> None:
    """Targets that hit nothing, or what PEFT cannot adapt, are named with those that would work."""
    assert_refused(run(SMALL, "--offline", "--lora", "r=8", "--targets", targets), 2, says)


@pytest.mark.parametrize("names", ["", ",", "lm_head,", " "])
def test_an_empty_name_among_modules_to_save_is_refused(names: str) -> None:
    """A stray comma is not the name of a module."""
    assert_refused(run(SMALL, "--offline", "--lora", "r=8", "--modules-to-save", names), 2, "empty name")


@pytest.mark.parametrize(
    ("peft", "says"),
    [
        ("{", "--peft is not valid JSON"),
        ('{"peft_type": "LORA"} and more', "--peft is not valid JSON"),
        ('{"peft_type": "LORA", "r": NaN}', "NaN"),
        ("{}", "no peft_type"),
        ('{"r": 8}', "no peft_type"),
        ('{"peft_type": 5}', "no peft_type"),
        ('{"peft_type": null}', "no peft_type"),
        ('{"peft_type": "LORRA"}', "Did you mean LORA?"),
        ('{"peft_type": "lora"}', "Did you mean LORA?"),
        ('{"peft_type": "NOTHING_LIKE_IT"}', "Use one of"),
        ("", "names nothing"),
        ("no-such-file.json", "there is no file"),
        ("x" * 5000, "there is no file"),
        ("~nobody-of-that-name/adapter_config.json", "there is no file"),
        ("[]", "starts with a brace"),
    ],
)
def test_what_is_no_peft_configuration_is_refused(peft: str, says: str) -> None:
    """Files and inline JSON that hold no PEFT configuration are told apart."""
    assert_refused(run(SMALL, "--offline", "--peft", peft), 2, says)


def test_a_directory_without_an_adapter_config_is_refused(tmp_path: Path) -> None:
    """The file that was looked for is named."""
    assert_refused(run(SMALL, "--offline", "--peft", str(tmp_path)), 2, "adapter_config.json")


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff\xfe", b"{", b"null"])
def test_an_adapter_config_that_is_no_json_object_is_refused(content: bytes, tmp_path: Path) -> None:
    """A file of --peft is checked like any other."""
    (tmp_path / "adapter_config.json").write_bytes(content)
    assert_refused(run(SMALL, "--offline", "--peft", str(tmp_path)), 2, "adapter_config.json")


@pytest.mark.parametrize(
    "fields",
    [
        {"r": 0},
        {"r": -1},
        {"r": "x"},
        {"r": None},
        {"r": 1.5},
        {"r": True},
        {"r": 2**63 - 1},
        {"lora_alpha": "x"},
        {"lora_dropout": 5},
        {"lora_dropout": "x"},
        {"bias": "some"},
        {"bias": 5},
        {"target_modules": 5},
        {"target_modules": [5]},
        {"target_modules": {"q_proj": 1}},
        {"target_modules": []},
        {"target_modules": "("},
        {"target_modules": ["nothing"]},
        {"modules_to_save": "lm_head"},
        {"modules_to_save": 5},
        {"modules_to_save": [5]},
        {"rank_pattern": 5},
        {"rank_pattern": {"q_proj": -4}},
        {"task_type": "NOTHING"},
        {"task_type": []},
        {"init_lora_weights": "nothing"},
        {"layers_to_transform": "x"},
        {"layers_to_transform": [10**6]},
        {"layer_replication": [[0, 10**6]]},
        {"eva_config": 5},
        {"peft_type": "LOHA", "r": 0},
        {"peft_type": "ADALORA"},
        {"peft_type": "ADALORA", "total_step": 10, "rank_pattern": {"a": -1}},
        {"peft_type": "BOFT", "boft_block_size": 3},
        {"peft_type": "PROMPT_TUNING"},
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": -1},
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": "x"},
    ],
    ids=json.dumps,
)
def test_wrong_values_of_a_peft_configuration_are_refused(fields: dict[str, object]) -> None:
    """What PEFT refuses is a usage error, and so is what it would take for something else."""
    assert_refused(run(SMALL, "--offline", "--peft", json.dumps({"peft_type": "LORA", **fields})), 2)


@pytest.mark.parametrize(
    "fields",
    [
        {"peft_type": "POLY", "n_skills": 10**9},
        {"peft_type": "POLY", "n_splits": 10**9},
        {"peft_type": "PEANUT", "depth": 10**9},
        {
            "peft_type": "P_TUNING",
            "num_virtual_tokens": 10,
            "encoder_reparameterization_type": "LSTM",
            "encoder_num_layers": 10**9,
        },
    ],
    ids=json.dumps,
)
def test_a_peft_configuration_cannot_keep_the_command_busy(fields: dict[str, object]) -> None:
    """Counts that PEFT would loop over are bounded."""
    assert_refused(run(SMALL, "--offline", "--peft", json.dumps(fields)), 2, "more than 256")


@pytest.mark.parametrize(
    "fields",
    [
        {"peft_type": "SHADOW", "shadow_model": "somebody/model"},
        {"peft_type": "LORA", "megatron_config": {"a": 1}, "megatron_core": "antigravity"},
    ],
    ids=json.dumps,
)
def test_a_peft_configuration_cannot_make_peft_load_anything(
    fields: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No model is fetched and no module imported because an adapter_config.json says so."""
    monkeypatch.setattr("transformers.AutoModel.from_pretrained", _forbidden)
    assert_refused(run(SMALL, "--offline", "--peft", json.dumps(fields)), 2, "drop it")
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("model", ["mistralai/Mixtral-8x7B-v0.1", "Qwen/Qwen3-30B-A3B"])
def test_default_targets_that_peft_loses_where_it_converts_experts_are_named(model: str) -> None:
    """PEFT refuses a LoRA without targets there, whether it has defaults for the type or not; the names work."""
    asked = (model, "--offline", "--count-only", "--lora", "r=4")
    assert_refused(run(*asked), 2, "takes no targets of its own")
    assert "--targets q_proj,v_proj" in run(*asked).err
    assert run(*asked, "--targets", "q_proj,v_proj").code == 0


def test_a_prompt_initialised_from_a_text_loads_no_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokenizer, whose repository may hold code, is not needed to count the prompt."""
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", _forbidden)
    fields = {
        "peft_type": "PROMPT_TUNING",
        "num_virtual_tokens": 20,
        "prompt_tuning_init": "TEXT",
        "prompt_tuning_init_text": "Classify this:",
        "tokenizer_name_or_path": "somebody/tokenizer",
        "tokenizer_kwargs": {"trust_remote_code": True},
    }
    report = run(SMALL, "--offline", "--peft", json.dumps(fields), "--json").report
    assert report["parameters"]["trainable"] == 20 * 896


def test_fields_of_a_newer_peft_are_ignored_aloud() -> None:
    """What this PEFT does not know is dropped as PEFT drops it, with a warning that names it."""
    fields = {"peft_type": "LORA", "r": 8, "field_of_the_future": 1, "another_one": {"a": [1]}}
    report = run(SMALL, "--offline", "--peft", json.dumps(fields), "--json").report
    (warning,) = [warning for warning in report["warnings"] if warning["code"] == "peft-unknown-fields"]
    assert "another_one, field_of_the_future" in warning["message"]
    known = run(SMALL, "--offline", "--peft", '{"peft_type": "LORA", "r": 8}', "--json").report
    assert report["parameters"] == known["parameters"]

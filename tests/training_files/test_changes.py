"""A change is spelt in the file's own keys, and a copy has it and everything else as it was."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from inspector.errors import UsageError
from inspector.planning.changes import apply_change
from inspector.records.request import LoraOptions, Request
from inspector.training_files.changes import can_spell, check_copy, make_changed_copy, spell_change
from inspector.training_files.merge import build_request

from .documents import AXOLOTL, LLAMAFACTORY, MODEL, TRL, write

PACKED = AXOLOTL | {"sample_packing": True}
QLORA = AXOLOTL | {"adapter": "qlora", "load_in_4bit": True, "lora_alpha": 16}
FULL = {"base_model": MODEL, "micro_batch_size": 4}
NF4 = {"quantization": "nf4", "double_quant": True}
OF_THE_REQUEST = ("quantization", "double_quant", "peft", "dtype")


def change(request: Request, fields: dict[str, Any]) -> Request:
    """Return a request with fields of it or of its recipe replaced."""
    own = {name: value for name, value in fields.items() if name in OF_THE_REQUEST}
    recipe = dataclasses.replace(request.recipe, **{name: value for name, value in fields.items() if name not in own})
    return dataclasses.replace(request, recipe=recipe, **own)


@pytest.mark.parametrize(
    ("content", "fields", "spelt"),
    [
        (AXOLOTL, {"batch_size": 1}, {"micro_batch_size": 1}),
        (AXOLOTL, {"seq_len": 64}, {"sequence_len": 64}),
        (AXOLOTL, {"gradient_checkpointing": True}, {"gradient_checkpointing": True}),
        (AXOLOTL, {"optimizer": "adamw_8bit"}, {"optimizer": "adamw_8bit"}),
        (AXOLOTL, NF4, {"load_in_4bit": True, "adapter": "qlora"}),
        (AXOLOTL, {"attention": "flash_attention_2"}, {"attn_implementation": "flash_attention_2"}),
        (AXOLOTL | {"flash_attention": False}, {"attention": "flash_attention_2"}, {"flash_attention": True}),
        (PACKED, {"seq_len": 128}, {"micro_batch_size": 1}),
        (PACKED, {"seq_len": 64}, {"micro_batch_size": 1, "sequence_len": 64}),
        (PACKED, {"batch_size": 3}, {"micro_batch_size": 6}),
        (
            FULL,
            {"peft": LoraOptions(r=16, targets="all-linear")},
            {"adapter": "lora", "lora_r": 16, "lora_alpha": 16, "lora_target_linear": True},
        ),
        (QLORA, {"peft": LoraOptions(r=64, alpha=16, targets="all-linear")}, {"lora_r": 64}),
        (LLAMAFACTORY, {"gradient_checkpointing": False}, {"disable_gradient_checkpointing": True}),
        (LLAMAFACTORY, {"seq_len": 32}, {"cutoff_len": 32}),
        (LLAMAFACTORY, NF4, {"quantization_bit": 4}),
        (
            LLAMAFACTORY | {"finetuning_type": "full", "use_apollo": True},
            {"peft": LoraOptions(r=16, targets="all-linear")},
            {"finetuning_type": "lora", "lora_rank": 16, "use_apollo": False},  # it refuses both together
        ),
        (LLAMAFACTORY, {"attention": "flash_attention_2"}, {"flash_attn": "fa2"}),
        (
            TRL,
            {"batch_size": 1, "gradient_accumulation": 2},
            {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2},
        ),
        (TRL, {"alloc_conf": "expandable_segments:True"}, {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}),
        (TRL, NF4, {"load_in_4bit": True, "use_bnb_nested_quant": True}),
        (
            {"model_name_or_path": MODEL, "bf16": True, "max_seq_length": 64},
            {"seq_len": 32},
            {"max_seq_length": 32},
        ),
    ],
    ids=str,
)
def test_a_change_is_spelt_in_the_files_own_keys(
    content: dict[str, Any], fields: dict[str, Any], spelt: dict[str, Any], tmp_path: Path
) -> None:
    request = build_request({"model": write(tmp_path, content)}, frozenset())
    assert spell_change(request, change(request, fields)) == spelt


def test_what_was_said_beside_a_file_belongs_into_a_copy_of_it(tmp_path: Path) -> None:
    path = write(tmp_path, AXOLOTL | {"gradient_checkpointing": True})
    request = build_request({"model": path, "batch_size": 1}, frozenset({"batch_size"}))
    assert spell_change(request, change(request, {"optimizer": "adamw_8bit"})) == {
        "micro_batch_size": 1,
        "optimizer": "adamw_8bit",
    }
    unsaid = change(request, {"gradient_checkpointing": None})
    spelt = spell_change(unsaid, unsaid, beside=("gradient_checkpointing",))
    assert spelt == {"micro_batch_size": 1, "gradient_checkpointing": False}


def test_a_change_of_a_request_from_no_file_is_not_spelt() -> None:
    request = Request(model=MODEL)
    assert spell_change(request, change(request, {"batch_size": 2})) is None


def test_a_change_of_a_script_names_the_call(tmp_path: Path) -> None:
    code = f"SFTTrainer(model='{MODEL}', args=SFTConfig(per_device_train_batch_size=8))"
    request = build_request({"model": write(tmp_path, code, "train.py")}, frozenset())
    spelt = spell_change(request, change(request, {"batch_size": 1}))
    assert spelt == {"per_device_train_batch_size in SFTConfig": 1}


LOADED = f"model = AutoModelForCausalLM.from_pretrained('{MODEL}', dtype=torch.float32)\n"


@pytest.mark.parametrize(
    ("code", "spelt"),
    [
        (f"SFTTrainer(model='{MODEL}', args=SFTConfig())", "dtype in model_init_kwargs"),
        (LOADED + "SFTTrainer(model=model, args=SFTConfig())", "dtype in from_pretrained"),
        (LOADED + "Trainer(model=model, args=TrainingArguments())", "dtype in from_pretrained"),
    ],
)
def test_the_dtype_of_the_weights_is_said_where_a_script_loads_them(code: str, spelt: str, tmp_path: Path) -> None:
    request = build_request({"model": write(tmp_path, code, "train.py")}, frozenset())
    half = change(request, {"dtype": "bfloat16"})
    assert can_spell(request, half)
    assert spell_change(request, half) == {spelt: "bfloat16"}


@pytest.mark.parametrize(
    ("content", "answer"),
    [(TRL, True), (TRL | {"model_init_kwargs": {"dtype": "float32"}}, False), (AXOLOTL, False)],
    ids=["trl", "a dictionary", "axolotl"],
)
def test_the_dtype_of_the_weights_is_no_change_of_a_file_without_a_field_for_it(
    content: dict[str, Any], answer: bool, tmp_path: Path
) -> None:
    request = build_request({"model": write(tmp_path, content)}, frozenset())
    assert can_spell(request, change(request, {"dtype": "float16"})) is answer


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (TRL, {"dropout": 0.05, "by_name": False}),
        (FULL, {"dropout": None, "by_name": True}),
        (LLAMAFACTORY | {"finetuning_type": "full"}, {"dropout": None, "by_name": True}),
    ],
    ids=["trl", "axolotl", "llamafactory"],
)
def test_an_adapter_that_a_file_lacks_is_that_of_its_framework(
    content: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    request = build_request({"model": write(tmp_path, content)}, frozenset())
    changed = apply_change(request, {"peft": LoraOptions(r=16, targets="all-linear")})
    assert isinstance(changed.peft, LoraOptions)
    assert {name: getattr(changed.peft, name) for name in expected} == expected


def test_llamafactory_loads_a_base_as_it_is_stored_and_trains_whole_models_in_float32(tmp_path: Path) -> None:
    full = build_request({"model": write(tmp_path, LLAMAFACTORY | {"finetuning_type": "full"})}, frozenset())
    adapter = apply_change(full, {"peft": LoraOptions(r=16, targets="all-linear")})
    assert (full.dtype, adapter.dtype, apply_change(adapter, {"peft": None}).dtype) == ("float32", "auto", "float32")
    assert can_spell(full, adapter)
    pure = LLAMAFACTORY | {"finetuning_type": "full", "pure_bf16": True}
    assert apply_change(build_request({"model": write(tmp_path, pure)}, frozenset()), {"peft": None}).dtype == "auto"


def test_a_copy_for_trl_has_the_allocator_among_what_its_parser_puts_into_the_environment(tmp_path: Path) -> None:
    path = write(tmp_path, TRL | {"env": {"A": "1"}})
    record = build_request({"model": path}, frozenset()).source.file  # type: ignore[union-attr]
    assert record is not None
    copy = write(tmp_path, make_changed_copy(record, {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}), "b.yaml")
    assert build_request({"model": copy}, frozenset()).recipe.alloc_conf == "expandable_segments:True"
    assert yaml.safe_load(Path(copy).read_text(encoding="utf-8"))["env"]["A"] == "1"


def test_an_adapter_that_a_script_lacks_is_named_with_all_its_arguments(tmp_path: Path) -> None:
    code = f"SFTTrainer(model='{MODEL}', args=SFTConfig())"
    request = build_request({"model": write(tmp_path, code, "train.py")}, frozenset())
    spelt = spell_change(request, change(request, {"peft": LoraOptions(r=16, targets="all-linear")}))
    assert spelt == {"peft_config": "LoraConfig", "r in LoraConfig": 16, "target_modules in LoraConfig": "all-linear"}


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("# mine\nbase_model: {m}   # this\nmicro_batch_size: 2 # two\nlora: &x [1,\n  2]\n", {"micro_batch_size": 1}),
        ("base_model: {m}\nmicro_batch_size:\n  - 1\n  - 2\nsequence_len: 3\n", {"micro_batch_size": 1}),
        ("base_model: {m}\n'micro_batch_size': \"2\"", {"micro_batch_size": 1, "optimizer": "adamw_8bit"}),
        ("{{base_model: {m}, micro_batch_size: 2}}\n", {"micro_batch_size": 1, "adapter": None}),
        ("base_model: {m}\nadapter: >\n  lora\n  x\nlora_r: 4\n", {"adapter": "no"}),
        ("base_model: {m}\nadapter:\nlora_r: 4\n", {"adapter": "qlora", "load_in_4bit": True}),
        ("base_model: {m}\r\nlora_r: 4\r\n", {"lora_r": 8}),
    ],
)
def test_a_changed_copy_of_yaml_is_the_file_with_the_fields(text: str, fields: dict[str, Any], tmp_path: Path) -> None:
    text = text.format(m=MODEL)
    record = dataclasses.replace(_record(tmp_path), path=write(tmp_path, text, "other.yaml"))
    copy = make_changed_copy(record, fields)
    assert yaml.safe_load(copy) == {**yaml.safe_load(text), **fields}
    assert all(comment in copy for comment in ("# mine", "# this", "# two") if comment in text)


def test_a_changed_copy_of_json_and_toml_is_the_file_with_the_fields(tmp_path: Path) -> None:
    record = _record(tmp_path)
    as_json = dataclasses.replace(record, path=write(tmp_path, json.dumps(AXOLOTL), "a.json"))
    assert json.loads(make_changed_copy(as_json, {"lora_r": 4})) == {**AXOLOTL, "lora_r": 4}
    as_toml = dataclasses.replace(record, path=write(tmp_path, "lora_r = 8 # r\n[a]\nlora_r = 1\n", "a.toml"))
    changed = make_changed_copy(as_toml, {"lora_r": 4, "adapter": "lora"})
    assert changed == 'adapter = "lora"\nlora_r = 4\n[a]\nlora_r = 1\n'


def test_what_belongs_in_the_environment_is_a_comment_of_the_copy(tmp_path: Path) -> None:
    copy = make_changed_copy(_record(tmp_path), {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"})
    assert copy.endswith("# and in the environment of the run: PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True\n")
    assert yaml.safe_load(copy) == AXOLOTL


@pytest.mark.parametrize("target", ["train.yaml", "./train.yaml", "link.yaml", ".", "nowhere/x.yaml"])
def test_a_copy_never_goes_to_the_original_or_to_no_file(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = write(tmp_path, AXOLOTL)
    (tmp_path / "link.yaml").hardlink_to(original)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="--write-changes"):
        check_copy(target, original)


def test_a_script_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="printed and not written"):
        check_copy(str(tmp_path / "new.py"), "train.py")


def _record(folder: Path) -> Any:
    """Return the record of an axolotl file."""
    request = build_request({"model": write(folder, AXOLOTL)}, frozenset())
    assert request.source is not None
    return request.source.file

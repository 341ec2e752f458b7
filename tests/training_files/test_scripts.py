"""Arguments are read from the syntax tree: literals, names with one value, dtypes; nothing is run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from inspector.arguments.forms import build_request
from inspector.errors import UnsupportedModelError
from inspector.records.training_file import RequestSource
from inspector.training_files.changes import spell_change
from inspector.training_files.notices import list_file_notices
from inspector.training_files.scripts import read_script_calls

from .documents import MODEL, read

UNSLOTH = f"""
from unsloth import FastLanguageModel
import torch
max_seq_length = 512
model, tokenizer = FastLanguageModel.from_pretrained("{MODEL}", max_seq_length=max_seq_length, dtype=None,
                                                     load_in_4bit=False, token="hf_SECRETSECRETSECRETSECRET")
model = FastLanguageModel.get_peft_model(model, r=4, target_modules=["q_proj", "lm_head"], lora_alpha=8)
trainer = SFTTrainer(model=model, args=SFTConfig(per_device_train_batch_size=1, optim="adamw_8bit",
                     fp16=not is_bfloat16_supported(), bf16=is_bfloat16_supported(), learning_rate=rate()))
"""
TRL = f"""
from trl import DPOConfig, DPOTrainer
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("{MODEL}", torch_dtype=torch.bfloat16)
config = DPOConfig(per_device_train_batch_size=2 * 2, max_length=LENGTH, **more)
DPOTrainer(model, args=config, peft_config=LoraConfig(r=8, target_modules="all-linear"))
"""


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("4", 4),
        ("-1", -1),
        ("2 * 8 // 4 + 1 - 2", 3),
        ("not True", False),
        ("torch.bfloat16", "bfloat16"),
        ("torch.half", "float16"),
        ("['a', ('b',)]", ["a", ["b"]]),
        ("{'a': torch.float16}", {"a": "float16"}),
        ("{'a': 1, 'b': BitsAndBytesConfig(load_in_4bit=True)}", {"a": 1}),
        ("dict(a=1)", {"a": 1}),
        ("torch.cuda.is_bf16_supported()", True),
    ],
)
def test_a_value_that_needs_no_running_is_read(code: str, value: object) -> None:
    calls = read_script_calls(f"SFTConfig(optim={code})", "x")
    assert calls.arguments["args"] == {"optim": value}
    assert calls.unread == []


@pytest.mark.parametrize(
    "code",
    [
        "int(os.environ['BATCH'])",
        "unknown",
        "args.batch",
        "2 ** 9999",
        "1 // 0",
        "'a' * 3",
        "lambda: 1",
        "f'{x}'",
        "2**30 * 2**30 * 2**30",
    ],
)
def test_a_value_that_only_running_would_tell_is_unread(code: str) -> None:
    calls = read_script_calls(f"SFTConfig(optim={code})", "x")
    assert calls.unread == [("args", "optim")]
    assert calls.arguments["args"] == {}


@pytest.mark.parametrize(
    "code", ["x = 1\nx = 2", "for x in y:\n    pass\nx = 1", "x, z = 1, 2", "x = 1\nx += 1", "x = x", "pass"]
)
def test_a_name_with_another_value_than_one_literal_is_unread(code: str) -> None:
    assert read_script_calls(f"{code}\nSFTConfig(optim=x)", "x").unread == [("args", "optim")]


def test_arguments_of_a_literal_dictionary_are_read_and_those_of_another_noted() -> None:
    calls = read_script_calls("a = {'optim': 'sgd'}\nSFTConfig(**a, **b)", "x")
    assert (calls.arguments, calls.unread) == ({"args": {"optim": "sgd"}}, [("args", "**")])


def test_a_script_of_unsloth_is_read_with_its_defaults(tmp_path: Path) -> None:
    found = read(tmp_path, UNSLOTH, "train.py")
    settings = found.settings
    assert (found.record.framework, found.record.stage, found.record.unread) == ("Unsloth", "sft", ())
    assert (settings["model"], settings["seq_len"], settings["dtype"]) == (MODEL, 512, "bfloat16")
    assert (settings["batch_size"], settings["gradient_accumulation"]) == (1, 2)
    assert (settings["optimizer"], settings["mixed_precision"]) == ("adamw_8bit", "bf16")
    assert (settings["peft"].targets, settings["peft"].modules_to_save) == (("q_proj",), ("lm_head",))
    assert "quantization" not in settings
    assert "SECRET" not in repr(found)


def test_what_of_a_script_is_unread_is_named_with_what_was_assumed(tmp_path: Path) -> None:
    found = read(tmp_path, TRL, "train.py")
    settings = found.settings
    assert (found.record.framework, found.record.stage) == ("TRL", "dpo")
    assert [item.name for item in found.record.unread] == ["max_length in DPOConfig", "** in DPOConfig"]
    assert (settings["batch_size"], settings["dtype"], settings["seq_len"]) == (4, "bfloat16", 1024)
    assert (settings["peft"].r, settings["peft"].alpha) == (8, 8)


def test_a_script_of_transformers_has_transformers_defaults(tmp_path: Path) -> None:
    code = f"""
model = AutoModelForCausalLM.from_pretrained("{MODEL}")
Trainer(model=model, args=TrainingArguments("out", bf16=True))
"""
    found = read(tmp_path, code, "train.py")
    assert found.record.framework == "transformers"
    assert (found.settings["batch_size"], found.settings["mixed_precision"]) == (8, "bf16")
    assert "gradient_checkpointing" not in found.settings
    assert found.settings["dtype"] == "auto"


def test_fields_of_the_trainers_arguments_are_known_in_a_script_of_unsloth_and_a_slip_names_the_near_one(
    tmp_path: Path,
) -> None:
    """They are the same whichever call or section they stand in, ordinary ones among them."""
    ordinary = "learning_rate=2e-4, output_dir='out', warmup_steps=5, logging_steps=1, weight_decay=0.01, report_to='x'"
    code = f"{UNSLOTH}\nargs = SFTConfig({ordinary}, dataset_text_field='text', max_steps=60, learning_rte=1, zzz=2)"
    record = read(tmp_path, code, "train.py").record
    assert record.unknown == ("args.learning_rte", "args.zzz")
    (message,) = [
        notice.message for notice in list_file_notices(RequestSource(file=record)) if notice.code == "fields-unknown"
    ]
    assert message.endswith("were not read: args.learning_rte (did you mean learning_rate?), args.zzz.")


@pytest.mark.parametrize("trainer", ["OnlineDPOTrainer", "GKDTrainer", "DistillationTrainer"])
def test_a_trainer_whose_step_is_none_of_those_that_are_known_is_refused_by_its_name(
    trainer: str, tmp_path: Path
) -> None:
    code = f"from trl import *\n{trainer}(model='{MODEL}', args={trainer.replace('Trainer', 'Config')}(output_dir='x'))"
    with pytest.raises(UnsupportedModelError, match=rf"runs {trainer}, whose step is not traced"):
        read(tmp_path, code, "train.py")


def test_rloo_is_answered_with_the_passes_of_grpo(tmp_path: Path) -> None:
    code = f"RLOOTrainer(model='{MODEL}', args=RLOOConfig(output_dir='x', per_device_train_batch_size=4))"
    found = read(tmp_path, code, "train.py")
    assert (found.record.stage, found.settings["stage"], found.settings["reference"]) == ("rloo", "grpo", "model")
    assert [item.name for item in found.record.not_modelled] == ["stage"]


def test_a_change_of_a_script_is_said_in_the_classes_that_a_script_has(tmp_path: Path) -> None:
    """TRL's command line has load_in_4bit in its ModelConfig, which no script makes."""
    script = tmp_path / "train.py"
    lora = "peft_config=LoraConfig(r=8, target_modules='all-linear')"
    script.write_text(f"SFTTrainer(model='{MODEL}', args=SFTConfig(max_length=64), {lora})\n")
    request, _ = build_request(model=str(script), offline=True)
    packed = dataclasses.replace(request, quantization="nf4", double_quant=True)
    assert spell_change(request, packed) == {
        "load_in_4bit in BitsAndBytesConfig": True,
        "bnb_4bit_use_double_quant in BitsAndBytesConfig": True,
    }

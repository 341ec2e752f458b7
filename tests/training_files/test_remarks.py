"""What a framework would say of a file: fields that nothing reads, names of older releases, a missing model."""

from __future__ import annotations

from pathlib import Path

import pytest

import inspector
from inspector.errors import ModelUnavailableError, UsageError
from inspector.training_files.merge import build_request

from .documents import AXOLOTL, MODEL, TRL, read, write


def test_fields_of_a_plugin_that_axolotl_does_not_load_are_named(tmp_path: Path) -> None:
    content = AXOLOTL | {"liger_rope": True, "liger_swiglu": True, "cut_cross_entropy": True}
    found = read(tmp_path, content)
    assert [remark.code for remark in found.record.remarks] == ["fields-ignored"] * 2
    assert "liger_rope, liger_swiglu of" in found.record.remarks[0].message
    assert {"liger", "loss"} & set(found.settings) == set()
    both = ["axolotl.integrations.liger.LigerPlugin", "axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"]
    assert read(tmp_path, content | {"plugins": both}).record.remarks == ()


def test_a_name_that_trl_has_no_more_asks_for_its_release(tmp_path: Path) -> None:
    content = {"model_name_or_path": MODEL, "max_seq_length": 64, "per_device_train_batch_size": 1}
    (remark,) = read(tmp_path, content).record.remarks
    assert (remark.code, "before 0.20" in remark.message) == ("older-release", True)
    assert read(tmp_path, content, framework="trl==0.19").record.remarks == ()
    assert read(tmp_path, TRL).record.remarks == ()


def test_a_model_of_a_file_that_cannot_be_had_is_replaced_by_base_model(tmp_path: Path) -> None:
    path = write(tmp_path, AXOLOTL | {"base_model": "NousResearch/Llama-3.2-1B"})
    with pytest.raises(ModelUnavailableError, match=r"`base_model=meta-llama/Llama-3.2-1B`"):
        inspector.inspect(path, offline=True)


TYPED = """
def main(training_args, model_args):
    SFTTrainer(model=model_args.model_name_or_path, args=training_args)
main(*TrlParser((SFTConfig, ModelConfig)).parse_args_and_config())
"""


def test_a_script_whose_arguments_are_typed_says_where_they_can_be_read(tmp_path: Path) -> None:
    path = write(tmp_path, TYPED, "sft.py")
    with pytest.raises(UsageError, match="takes its model and its arguments from the command line: put them into a YA"):
        build_request({"model": path}, frozenset())
    (remark,) = read(tmp_path, TYPED, "sft.py").record.remarks
    assert (remark.code, "(TrlParser) and has none itself" in remark.message) == ("command-line", True)
    own = f"parser = HfArgumentParser()\nSFTTrainer(model={MODEL!r}, args=SFTConfig(max_length=64))"
    assert read(tmp_path, own, "own.py").record.remarks == ()


SECRET = "hf_abcdefghijklmnopqrstuvwxyz012345"


def test_a_secret_in_what_is_not_modelled_is_hidden(tmp_path: Path) -> None:
    record = read(tmp_path, AXOLOTL | {"adapter": SECRET}).record
    assert [item.name for item in record.not_modelled] == ["adapter"]
    assert SECRET not in repr(record.not_modelled)


def test_an_address_with_a_password_is_neither_asked_for_nor_repeated(tmp_path: Path) -> None:
    path = write(tmp_path, AXOLOTL | {"base_model": "https://me:hunter2hunter2@host/org/model"})
    with pytest.raises(UsageError, match="`base_model`") as caught:
        build_request({"model": path}, frozenset())
    assert "hunter2" not in str(caught.value)

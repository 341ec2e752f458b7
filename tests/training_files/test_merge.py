"""What was given beside a file goes before it, and a launcher's file goes before a file's defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inspector.errors import UsageError
from inspector.records.request import LoraOptions, Request
from inspector.records.training_file import Origin
from inspector.training_files.merge import build_request, find_given

from .documents import AXOLOTL, LLAMAFACTORY, MODEL, TRL, write

FSDP = {"distributed_type": "FSDP", "num_processes": 8, "mixed_precision": "fp16"}


def build(model: str, *, launch: tuple[str, ...] = (), **arguments: Any) -> Request:
    """Return the request of a file and of what is given beside it."""
    own = {name: arguments.pop(name) for name in ("framework", "base_model", "strict") if name in arguments}
    given = {"model": model, **arguments}
    return build_request(given, find_given(given), launch=launch, **own)


def test_an_option_goes_before_the_file_and_is_marked(tmp_path: Path) -> None:
    request = build(write(tmp_path, AXOLOTL), batch_size=4, dtype="float32")
    assert (request.recipe.batch_size, request.recipe.seq_len, request.dtype) == (4, 128, "float32")
    assert request.source is not None
    assert request.source.file is not None
    origins = {item.name: (item.origin, item.value) for item in request.source.file.fields}
    assert origins["micro_batch_size"] == (Origin.OPTION, 4)
    assert origins["sequence_len"] == (Origin.FILE, 128)
    assert origins["max_grad_norm"] == (Origin.DEFAULT, 1.0)


def test_what_goes_with_a_replaced_field_is_replaced_with_it(tmp_path: Path) -> None:
    content = TRL | {"optim": "sgd", "optim_args": "momentum=0.9", "load_in_4bit": True}
    request = build(write(tmp_path, content), optimizer="adafactor", quantization="int8")
    assert (request.recipe.optimizer, request.recipe.optim_args) == ("adafactor", None)
    assert (request.quantization, request.double_quant) == ("int8", None)


def test_targets_beside_a_file_change_the_adapter_that_it_has(tmp_path: Path) -> None:
    request = build(write(tmp_path, AXOLOTL), peft=LoraOptions(targets=["q_proj"], exclude_targets=["router"]))
    assert isinstance(request.peft, LoraOptions)
    assert request.peft.exclude_targets == ("router",)
    assert (request.peft.r, request.peft.targets) == (8, ("q_proj",))


def test_a_launchers_file_goes_before_defaults_and_behind_the_file(tmp_path: Path) -> None:
    launch = write(tmp_path, FSDP, "fsdp.yaml")
    by_default = build(write(tmp_path, LLAMAFACTORY), launch=(launch,), gpus="4090")
    assert (by_default.recipe.mixed_precision, by_default.gpu_count, by_default.sharding) == ("fp16", 8, "fsdp1")
    said = build(write(tmp_path, LLAMAFACTORY | {"bf16": True}), launch=(launch,))
    assert said.recipe.mixed_precision == "bf16"


def test_a_launch_of_several_cards_of_which_none_was_named_says_so(tmp_path: Path) -> None:
    launches = [write(tmp_path, FSDP | {"num_processes": count}, f"{count}.yaml") for count in (8, 1)]

    def list_remarks(path: str, **cards: Any) -> list[str]:
        request = build("gpt2", launch=(path,), **cards)
        assert request.source is not None
        return [item.code for item in request.source.launch[0].remarks]

    assert list_remarks(launches[0]) == ["cards-not-named"]
    assert list_remarks(launches[0], gpus="4090") == list_remarks(launches[1]) == []


def test_cards_are_about_a_gpu_that_was_named(tmp_path: Path) -> None:
    launch = write(tmp_path, FSDP, "fsdp.yaml")
    request = build(MODEL, launch=(launch,))
    assert (request.gpu_count, request.sharding) == (1, None)
    counted = build(MODEL, launch=(launch,), gpus="8x4090")
    assert (counted.gpu_count, counted.sharding) == (1, "fsdp1")
    at_hand = build_request({"model": MODEL}, frozenset(), launch=(launch,), at_hand=True)
    assert (at_hand.gpu_count, at_hand.sharding) == (8, "fsdp1")


@pytest.mark.parametrize("named", [{"gpus": "2x4090"}, {"gpus": ("4090",), "gpu_count": 2}])
def test_a_launchers_file_for_another_number_of_cards_than_was_named_is_refused(
    named: dict[str, Any], tmp_path: Path
) -> None:
    launch = write(tmp_path, FSDP, "fsdp.yaml")
    with pytest.raises(UsageError, match=r"fsdp\.yaml launches 8 processes, and 2 cards are named: name as many"):
        build(MODEL, launch=(launch,), **named)


@pytest.mark.parametrize("path", ["/fsx/models/llama", "./out/checkpoint-5", "~/models/none", "a/b/c"])
def test_a_path_of_another_machine_is_told_and_can_be_replaced(path: str, tmp_path: Path) -> None:
    name = write(tmp_path, AXOLOTL | {"base_model": path})
    with pytest.raises(UsageError, match="a path that is not on this machine; add `base_model`"):
        build(name)
    assert build(name, base_model=MODEL).model == MODEL


@pytest.mark.parametrize("content", ["SFTConfig()", "SFTTrainer(model=NAME, args=SFTConfig())"])
def test_a_file_without_a_model_asks_for_one(content: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names no model that can be read; add `base_model`"):
        build(write(tmp_path, content, "train.py"))


def test_documents_given_beside_a_file_share_its_row_or_say_how_long_theirs_is(tmp_path: Path) -> None:
    path = write(tmp_path, AXOLOTL | {"sample_packing": True})
    assert (build(path).recipe.packing, build(path).recipe.seq_len) == (1, 256)
    many = build(path, packing="8").recipe
    assert (many.packing, many.seq_len) == (8, 256)
    long = build(path, packing="4x512").recipe
    assert (long.packing, long.seq_len) == (4, 2048)


def test_strict_refuses_what_is_not_modelled(tmp_path: Path) -> None:
    assert build(write(tmp_path, AXOLOTL), strict=True).recipe.batch_size == 2
    with pytest.raises(UsageError, match=r"`strict` was given: fp8 \(either way\); drop these or `strict`"):
        build(write(tmp_path, AXOLOTL | {"fp8": True}), strict=True)


@pytest.mark.parametrize("beside", [{"framework": "axolotl"}, {"base_model": "x/y"}, {"strict": True}], ids=str)
def test_what_is_about_a_file_is_refused_without_one(beside: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="is about a training file"):
        build(MODEL, **beside)


def test_a_mistake_of_a_value_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, AXOLOTL | {"lora_dropout": 0.05})
    with pytest.raises(UsageError, match=r"train\.yaml: `batch_size` is 0"):
        build(path, batch_size=0)


@pytest.mark.parametrize(
    ("fields", "preparation"),
    [
        ({}, "axolotl"),
        ({"fsdp_config": {"transformer_layer_cls_to_wrap": "LlamaDecoderLayer"}}, "none"),
        ({"adapter": "lora", "load_in_8bit": True, "fsdp_config": {"offload_params": False}}, "axolotl"),
        ({"adapter": "lora", "load_in_8bit": True, "fsdp_config": {"cpu_ram_efficient_loading": True}}, "none"),
        ({"deepspeed": "deepspeed_configs/zero3_bf16.json"}, "none"),
    ],
)
def test_axolotl_leaves_a_packed_base_in_one_dtype_where_it_is_sharded(
    fields: dict[str, Any], preparation: str, tmp_path: Path
) -> None:
    request = build(write(tmp_path, AXOLOTL | {"adapter": "qlora", "load_in_4bit": True} | fields))
    assert request.preparation == preparation

"""Batches by task, what is assumed of numbers without values, and what stops a real step in the same way."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import inspector
from inspector.compat.numbers import RememberNumbers, find_number
from inspector.hardware.platform import Platform
from inspector.model.copying import copy_model
from inspector.trace.meta_kernels import META_KERNELS
from inspector.trace.rules.any_device import treat_meta_as_device
from inspector.trace.rules.matching import match_in_turn
from inspector.trace.tracer import Tracer
from inspector.workloads.batch import find_longest_sequence, make_batch_inputs
from inspector.workloads.inputs import Input, list_inputs
from inspector.workloads.tasks.adapters import add_adapter_inputs

RECIPE = inspector.Recipe(batch_size=2, seq_len=8, padding=False)


def tracer() -> Tracer:
    """Return a tracer without CUDA's rules."""
    return Tracer(Platform(torch_version=(2, 13)), on_cuda=False)


def write(folder: Path, **fields: Any) -> str:
    """Write a config.json; return its path."""
    path = folder / "config.json"
    path.write_text(json.dumps(fields))
    return str(path)


def test_what_a_ctc_loss_keeps_has_the_shape_that_its_kernel_makes() -> None:
    log_probs, targets = torch.zeros(6, 2, 4), torch.ones(5, dtype=torch.int64)
    arguments = ([6, 6], [2, 3])
    real = torch.ops.aten._ctc_loss.default(log_probs, targets, *arguments)
    made = META_KERNELS[torch.ops.aten._ctc_loss.default](log_probs, targets, *arguments)
    assert [item.shape for item in made] == [item.shape for item in real]


def test_checks_of_numbers_without_values_are_taken_to_pass() -> None:
    numbers = torch.empty(3, 4, device="meta")
    with tracer():
        assert not torch.isnan(numbers).any()
        assert torch.isfinite(numbers).all()
        assert (numbers[:, 2:] >= numbers[:, :2]).all()
        assert numbers.isnan().sum() == 0


def test_a_choice_by_numbers_without_values_is_no_check() -> None:
    numbers = torch.empty(3, 4, device="meta")
    with tracer(), pytest.raises(RuntimeError):
        numbers.max().item()


def test_predictions_are_matched_with_objects_in_turn() -> None:
    from transformers.loss import loss_for_object_detection

    told: list[bool] = []
    with match_in_turn(lambda: told.append(True)):
        costs = torch.empty(10, 3, device="meta").cpu()
        pairs = vars(loss_for_object_detection)["linear_sum_assignment"](costs)
    assert [list(item) for item in pairs] == [[0, 1, 2], [0, 1, 2]]
    assert told == [True]


def test_each_image_has_classes_and_boxes_of_its_objects() -> None:
    config = transformers.YolosConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=[32, 32])
    with torch.device("meta"):
        model = transformers.YolosForObjectDetection(config)
    inputs = dict(list_inputs(make_batch_inputs(model, RECIPE)))
    assert inputs["labels.boxes"].shape == (2, 7, 4)
    assert inputs["labels.class_labels"].shape == (2, 7)


def test_an_adapter_gets_the_tokens_that_invoke_it_amid_each_row() -> None:
    class Adapted:
        class active_peft_config:  # noqa: N801  # as PEFT calls it
            peft_type, alora_invocation_tokens = "LORA", [5, 6]

    made = add_adapter_inputs(Adapted(), {"input_ids": Input(shape=(2, 6), value=3)})["input_ids"]
    assert isinstance(made, Input)
    assert made.on("cpu").tolist() == [[3, 3, 5, 6, 3, 3]] * 2


def test_positions_that_are_numbered_in_a_buffer_bound_a_row() -> None:
    config = transformers.MraConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    with torch.device("meta"):
        model = transformers.MraForMaskedLM(config)
    assert find_longest_sequence(model) == config.max_position_embeddings


LLAMA4 = {
    "model_type": "llama4_text",
    "architectures": ["Llama4ForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "intermediate_size_mlp": 64,
    "vocab_size": 256,
    "num_local_experts": 4,
    "head_dim": 16,
    "dtype": "bfloat16",
}


def test_a_router_under_an_adapter_is_named_and_leaving_it_out_is_traced(tmp_path: Path) -> None:
    path = write(tmp_path, **LLAMA4)
    stopped = inspector.inspect(path, offline=True, peft=inspector.LoraOptions(r=4, targets="all-linear"))
    assert any('`targets="all-linear"` `exclude_targets=["router"]`' in notice.message for notice in stopped.warnings)
    without = inspector.LoraOptions(r=4, targets="all-linear", exclude_targets=["router"])
    traced = inspector.inspect(path, offline=True, peft=without)
    assert traced.training is not None
    assert "linear-left-out" not in {notice.code for notice in traced.warnings}  # as was asked for


def test_what_peft_refuses_of_a_state_space_is_named_and_leaving_it_out_attaches() -> None:
    config = transformers.Mamba2Config(
        architectures=["Mamba2ForCausalLM"],
        hidden_size=64,
        num_heads=8,
        head_dim=16,
        num_hidden_layers=1,
        vocab_size=64,
    )
    with pytest.raises(inspector.UsageError, match=r'`targets="all-linear"` `exclude_targets=\["out_proj"\]`'):
        inspector.inspect(config, count_only=True, peft=inspector.LoraOptions(r=4, targets="all-linear"))
    without = inspector.LoraOptions(r=4, targets="all-linear", exclude_targets=["out_proj"])
    counted = inspector.inspect(config, count_only=True, peft=without)
    # in_proj alone: 64 in; 2 x 128 inner, 2 x 8 groups of 128 states, 8 heads out
    assert counted.parameters.trainable == 4 * (64 + 2 * 128 + 2 * 8 * 128 + 8)


def test_infinities_are_read_as_transformers_saves_them(tmp_path: Path) -> None:
    config = transformers.Mamba2Config(hidden_size=64, num_heads=4, head_dim=32, num_hidden_layers=1, vocab_size=64)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(config.to_json_string()), "architectures": ["Mamba2ForCausalLM"]}))
    assert "__float__" in path.read_text()
    assert inspector.inspect(str(path), offline=True, count_only=True).parameters.base > 0


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_a_model_that_needs_packages_is_refused_with_the_command_that_installs_them(tmp_path: Path) -> None:
    path = write(tmp_path, model_type="detr", architectures=["DetrForObjectDetection"])
    with pytest.raises(inspector.InspectorError, match=r"packages that are not installed: run `pip install timm`\.$"):
        inspector.inspect(path, offline=True, assume_defaults=True, count_only=True)


def test_no_layer_is_left_out_of_a_trace_and_the_report_says_so(tmp_path: Path) -> None:
    small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "conv_dim": [8], "conv_stride": [64]}
    small |= {"conv_kernel": [64], "num_feat_extract_layers": 1, "num_conv_pos_embedding_groups": 2}
    sizes = {"num_hidden_layers": 6, "num_conv_pos_embeddings": 4, "vocab_size": 32, "layerdrop": 0.5}
    path = write(tmp_path, model_type="wav2vec2", architectures=["Wav2Vec2ForCTC"], **small, **sizes)
    reports = [
        inspector.inspect(path, offline=True, assume_defaults=True, recipe={"audio_seconds": 0.5}) for _ in range(2)
    ]
    peaks = {report.training.peak_allocated_bytes for report in reports if report.training is not None}
    assert len(peaks) == 1
    assert "all-layers" in {notice.code for notice in reports[0].warnings}


def test_numbers_that_a_class_keeps_as_tensors_have_their_values() -> None:
    with torch.device("meta"), RememberNumbers():
        kernel, stride = torch.tensor(7), torch.tensor(2)
        padding = torch.nn.Buffer(kernel - stride)
    layer = torch.nn.Module()
    layer.padding = padding
    assert find_number(copy_model(layer).get_buffer("padding")) == 5


def test_a_tensor_of_one_number_is_written_as_the_number() -> None:
    index = torch.empty((), dtype=torch.int64, device="meta")
    watching = tracer()
    watching.shadows.set(index, torch.tensor(3))
    with treat_meta_as_device(), watching:
        assert f"expert_{index}" == "expert_3"


def test_rows_of_a_class_that_looks_for_separators_have_three() -> None:
    config = transformers.LongformerConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, attention_window=4
    )
    with torch.device("meta"):
        model = transformers.LongformerForQuestionAnswering(config)
    rows = dict(list_inputs(make_batch_inputs(model, RECIPE)))["input_ids"].on("cpu")
    assert rows.eq(config.sep_token_id or 0).sum(1).tolist() == [3, 3]


def test_a_decoder_whose_start_is_not_named_gets_its_inputs() -> None:
    part: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    parts = [transformers.BertConfig(**part) for _ in range(2)]
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(*parts)
    with torch.device("meta"):
        model = transformers.EncoderDecoderModel(config)
    assert "decoder_input_ids" in make_batch_inputs(model, RECIPE)
    config.decoder_start_token_id, config.pad_token_id = 1, 0
    assert "decoder_input_ids" not in make_batch_inputs(model, RECIPE)


def test_transcripts_of_a_transducer_are_no_longer_than_speech(tmp_path: Path) -> None:
    encoder = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = transformers.ParakeetTDTConfig(encoder_config=encoder, vocab_size=33, decoder_hidden_size=8)
    with torch.device("meta"):
        model = transformers.ParakeetForTDT(config)
    recipe = inspector.Recipe(batch_size=2, seq_len=512, audio_seconds=2)
    inputs = dict(list_inputs(make_batch_inputs(model, recipe)))
    assert (inputs["labels"].shape, inputs["decoder_input_ids"].shape) == ((2, 8), (2, 9))


def test_pages_are_trained_with_boxes_of_tokens_and_their_image() -> None:
    sizes: dict[str, Any] = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 9}
    more: dict[str, Any] = {"coordinate_size": 4, "shape_size": 4, "input_size": 32}
    config = transformers.LayoutLMv3Config(**sizes, **more)
    with torch.device("meta"):
        pages: Any = transformers.LayoutLMv3ForTokenClassification(config)
        texts: Any = transformers.LayoutLMForTokenClassification(transformers.LayoutLMConfig(**sizes))
    made = make_batch_inputs(pages, RECIPE)
    shapes = {name: item.shape for name, item in made.items() if isinstance(item, Input)}
    assert shapes["bbox"] == (2, 8, 4)
    assert shapes["pixel_values"] == (2, 3, 32, 32)
    assert "pixel_values" not in make_batch_inputs(pages, dataclasses.replace(RECIPE, images=0))
    boxes = make_batch_inputs(texts, RECIPE)["bbox"]
    assert isinstance(boxes, Input)
    assert boxes.dtype is torch.int64

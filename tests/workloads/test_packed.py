"""A LoRA on weights that stay packed: what its step allocates, and where it is traced so.

What the layers allocate was seen on torch's CUDA build over stand-ins (tests/evidence/stand_in) with the real code:
transformers' `FP8Linear`, GPTQModel 7.7's `AwqGEMMTritonLinear` and `TritonV2Linear` under PEFT's own classes for them,
in a step of two Llama layers, event by event; only kernels ran into nothing. torchao 0.18's `Int8Tensor` was held
against the trace in the same way on the CPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import nn

import inspector
from inspector.hardware.platform import build_platform
from inspector.quantization.formats import FORMATS
from inspector.quantization.layout import Matrix
from inspector.quantization.packed.layers import AwqLinear, GptqLinear, Int8Linear
from inspector.records.tape import Category, EventKind
from inspector.trace.tracer import Tracer
from tests.trace.cpu_truth import assert_aligned, meta_step, real_step

_FIELDS: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 512,
    "vocab_size": 512,
    "num_hidden_layers": 2,
    "dtype": "float16",
    "tie_word_embeddings": False,
}
_METHODS: dict[str, dict[str, Any]] = {
    "fp8": {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "torchao": {
        "quant_method": "torchao",
        "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {}}},
    },
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"},
}
_LORA = inspector.LoraOptions(r=8, targets="all-linear")
# The linear layers of each of 2 layers; in float16 a weight has 2 bytes.
_MATRICES = [(256, 256)] * 4 + [(512, 256)] * 2 + [(256, 512)]
_LINEAR_BYTES = 2 * 2 * sum(rows * columns for rows, columns in _MATRICES)


def inspect(folder: Path, method: str | None, **changes: Any) -> inspector.Report:
    """Inspect a step on a checkpoint of a method."""
    path = folder / f"{method}.json"
    declared = {} if method is None else {"quantization_config": _METHODS[method]}
    path.write_text(json.dumps(_FIELDS | declared))
    given = {"peft": _LORA, "recipe": {"seq_len": 256}, "gpu": "h100", "advice": False, **changes}
    return inspector.inspect(str(path), offline=True, **given)


def count_packed_bytes(method: str) -> int:
    """Return what stands for the linear layers, in blocks of 512 bytes."""
    matrices = [Matrix(rows=rows, columns=columns, dtype="F16") for rows, columns in _MATRICES * 2]
    parts = [part for matrix in matrices for part in FORMATS[method].rule(_METHODS[method], matrix).parts]
    return sum(-(-(part.bytes or 0) // 512) * 512 for part in parts)


def list_sizes(layer: nn.Module, rows: int) -> list[int]:
    """Return what a forward and a backward pass of a layer allocate and free, its input and gradient left out."""
    with Tracer(build_platform(None)) as tracer, torch.device("meta"):
        tracer.hold(layer.parameters(), Category.WEIGHTS)
        given = torch.empty(rows, 512, dtype=torch.float16, requires_grad=True)
        gradient = torch.empty(rows, 256, dtype=torch.float16)
        begun = len(tracer.tape())
        product = layer(given)
        product.backward(gradient)
        events = tracer.tape()[begun:]
    workspaces = {event.block for event in events if "workspace" in event.op}
    return [
        event.bytes if event.kind is EventKind.ALLOCATE else -event.bytes
        for event in events
        if event.block not in workspaces
    ]


def make_layer(kind: type[AwqLinear | GptqLinear | Int8Linear], method: str) -> nn.Module:
    """Return a layer of 512 inputs and 256 outputs."""
    packed = FORMATS[method].rule(_METHODS[method], Matrix(rows=256, columns=512, dtype="F16"))
    with torch.device("meta"):
        return kind(nn.Linear(512, 256, bias=False), packed.parts)


def test_awq_unpacks_a_weight_for_each_product_and_fuses_few_rows() -> None:
    weight, rows = 2 * 512 * 256, 256
    dense = list_sizes(make_layer(AwqLinear, "awq"), rows)
    assert dense == [weight, 2 * rows * 256, -weight, weight, 2 * rows * 512, -weight]
    # Sums in float32, and a copy of them in float16.
    fused = list_sizes(make_layer(AwqLinear, "awq"), 64)
    assert fused == [4 * 64 * 256, 2 * 64 * 256, -4 * 64 * 256, weight, 2 * 64 * 512, -weight]


def test_gptq_keeps_each_unpacked_weight_until_its_backward_pass() -> None:
    weight, rows = 2 * 512 * 256, 256
    assert list_sizes(make_layer(GptqLinear, "gptq"), rows) == [weight, 2 * rows * 256, 2 * rows * 512, -weight]


def test_an_int8_weight_is_cast_for_a_product_and_kept() -> None:
    weight, rows, scales = 2 * 512 * 256, 256, 2 * 256
    # the product, its scales in float16, the scaled product; backward: scaled again, the input's gradient
    forward = [weight, 2 * rows * 256, scales, 2 * rows * 256, -2 * rows * 256]
    backward = [2 * rows * 256, -scales, 2 * rows * 512, -2 * rows * 256, -weight]
    sizes = list_sizes(make_layer(Int8Linear, "torchao"), rows)
    assert sizes[: len(forward)] == forward
    assert sorted(sizes[len(forward) :]) == sorted(backward)


def build_fp8(device: str) -> tuple[nn.Module, dict[str, torch.Tensor | bool]]:
    """Return a model whose layers are transformers' own for FP8, with an adapter, and a batch."""
    fp8 = transformers.integrations.finegrained_fp8
    fields = {key: value for key, value in _FIELDS.items() if key not in ("model_type", "dtype")}
    config = transformers.LlamaConfig(**{**fields, "attn_implementation": "eager"})
    with torch.device(device):
        model = transformers.LlamaForCausalLM._from_config(config, dtype=torch.float32)
        for name, module in list(model.named_modules()):
            if type(module) is nn.Linear and name != "lm_head":
                made = fp8.FP8Linear(module.in_features, module.out_features, block_size=(128, 128))
                model.set_submodule(name, made.requires_grad_(False))
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
        ids = torch.ones(1, 32, dtype=torch.int64)
    assert isinstance(adapted, nn.Module)
    return adapted, {"input_ids": ids, "labels": ids.clone(), "use_cache": False}


def test_a_step_on_fp8_layers_equals_a_real_one_event_by_event(monkeypatch: pytest.MonkeyPatch) -> None:
    fp8 = transformers.integrations.finegrained_fp8

    def multiply(x: torch.Tensor, weight: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return x.new_zeros((*x.shape[:-1], weight.shape[0]))

    monkeypatch.setattr(fp8, "_FINEGRAINED_FP8", fp8.FineGrainedFP8(multiply, multiply, multiply))
    assert_aligned(*real_step(build_fp8), meta_step(build_fp8))


@pytest.mark.parametrize("method", sorted(_METHODS))
@pytest.mark.one_of(2)
def test_a_lora_is_traced_on_packed_weights_and_judged(method: str, tmp_path: Path) -> None:
    report = inspect(tmp_path, method)
    assert report.quantization is not None
    assert report.training is not None
    assert report.quantization.traced_packed
    assert report.training.upper_bound is None
    in_float = inspect(tmp_path, None).training
    assert in_float is not None
    unpacked, left = (run.peak.breakdown[Category.WEIGHTS] for run in (in_float, report.training))
    assert unpacked - left == _LINEAR_BYTES - count_packed_bytes(method)
    unknown = {item.what for item in report.training.not_accounted} - {item.what for item in in_float.not_accounted}
    assert bool(unknown) == (method in ("gptq", "fp8"))
    assert any("on its packed weights" in notice.message for notice in report.warnings)


def test_gptq_without_checkpoints_takes_more_than_in_float_and_with_them_less(tmp_path: Path) -> None:
    peaks = {
        (method, checkpoints): inspect(
            tmp_path, method, recipe={"seq_len": 256, "gradient_checkpointing": checkpoints}
        ).training
        for method in (None, "gptq")
        for checkpoints in (False, True)
    }
    assert peaks["gptq", False].peak_allocated_bytes > peaks[None, False].peak_allocated_bytes  # type: ignore[union-attr]
    assert peaks["gptq", True].peak_allocated_bytes < peaks[None, True].peak_allocated_bytes  # type: ignore[union-attr]


def test_fp8_before_ada_is_loaded_dequantized(tmp_path: Path) -> None:
    old, new = (inspect(tmp_path, "fp8", gpu=gpu) for gpu in ("a100-80gb", "l40s"))
    in_float = inspect(tmp_path, None, gpu="a100-80gb")
    peaks = [report.training.peak_allocated_bytes for report in (old, new, in_float) if report.training is not None]
    assert peaks[0] == peaks[2] > peaks[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"peft": inspector.LoraOptions(r=8, targets="all-linear", dora=True)},
        {"autocast_adapter_dtype": False},
        {"gpu": "h100", "gpu_count": 2, "sharding": "fsdp"},
        {"workload": "forward"},
    ],
)
def test_what_is_not_known_of_packed_weights_keeps_its_bound(changes: dict[str, Any], tmp_path: Path) -> None:
    report = inspect(tmp_path, "awq", **changes)
    assert report.quantization is not None
    assert report.quantization.traced_packed is None
    if "workload" in changes:
        assert report.memory is not None
        in_float = inspect(tmp_path, None, **changes)
        assert in_float.memory is not None
        assert report.memory.peak_allocated_bytes == in_float.memory.peak_allocated_bytes

"""Stored tensors beside the module tree: what the comparison says is what a real `from_pretrained` reports."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from inspector.model.checkpoint.diff import NotComparableError, compare_checkpoint
from inspector.model.skeleton import build_skeleton
from inspector.pipeline import run
from inspector.records.checkpoint import Comparison, NamedTensors, ShapeDifference, StoredTensor
from inspector.records.request import Request
from inspector.runtime.quiet import silence_output
from inspector.source.safetensors_header import parse_header, read_header_length

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 30,
}
EXPERTS: dict[str, Any] = {**SMALL, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
T5: dict[str, Any] = {"d_model": 16, "d_ff": 24, "d_kv": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 30}
GPT2: dict[str, Any] = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 30, "n_positions": 8}
DEEPSEEK: dict[str, Any] = {
    **SMALL,
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "head_dim", "n_routed_experts"), 4),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok"), 2),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "moe_intermediate_size"), 8),
}
# Name of the class, its configuration, and what it stores under other names or in other parts than it has.
MODELS = [
    pytest.param(("LlamaForCausalLM", {**SMALL, "tie_word_embeddings": True}), id="tied"),
    pytest.param(("MixtralForCausalLM", EXPERTS), id="experts are fused"),
    pytest.param(("DeepseekV3ForCausalLM", DEEPSEEK), id="experts and a dense layer"),
    pytest.param(("T5ForConditionalGeneration", T5), id="encoder-decoder"),
    pytest.param(("GPT2LMHeadModel", GPT2), id="prefix"),
    pytest.param(("BertForMaskedLM", SMALL), id="encoder"),
]


def configuration(name: str, fields: dict[str, Any]) -> Any:
    model_class: type[PreTrainedModel] = getattr(transformers, name)
    assert model_class.config_class is not None
    return model_class.config_class(**fields, architectures=[name])


@pytest.fixture(scope="module", params=MODELS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Return a checkpoint that transformers saved and the class that it is of."""
    name, fields = request.param
    path = tmp_path_factory.mktemp("model")
    model_class = getattr(transformers, name)
    with silence_output():
        model_class(configuration(name, fields)).save_pretrained(path)
    return path, model_class


def stored_in(path: Path) -> dict[str, StoredTensor]:
    content = (path / "model.safetensors").read_bytes()
    length = read_header_length(content[:8], len(content), "it")
    return parse_header(content[8 : 8 + length], len(content), "it")


def builder(path: Path, model_class: type[PreTrainedModel]) -> Callable[[], PreTrainedModel]:
    config = transformers.AutoConfig.from_pretrained(path)
    return lambda: build_skeleton(copy.deepcopy(config), model_class, torch.float32, "it")


def really_loaded(path: Path, model_class: Any) -> dict[str, Any]:
    """Return the loading report of real weights on the CPU."""
    with silence_output():
        _, report = model_class.from_pretrained(path, output_loading_info=True, ignore_mismatched_sizes=True)
    found: dict[str, Any] = report
    return found


def accounted(found: Comparison, path: Path, model_class: type[PreTrainedModel]) -> int:
    """Return what of the stored elements neither P nor the reasons beside it explain."""
    base = sum(parameter.numel() for parameter in builder(path, model_class)().parameters())
    return sum(tensor.elements for tensor in stored_in(path).values()) - base - sum(found.beyond_parameters.values())


def changed(path: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """Return a copy of a checkpoint with other tensors."""
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_bytes((path / "config.json").read_bytes())
    return folder


def test_a_checkpoint_that_transformers_saved_has_no_differences(saved: tuple[Path, Any]) -> None:
    """Fused experts, other names, prefixes and tied weights are no differences."""
    path, model_class = saved
    found = compare_checkpoint(builder(path, model_class), stored_in(path), {})
    empty = NamedTensors(tensors=0, parameters=0, names=())
    assert accounted(found, path, model_class) == 0
    assert (found.not_in_model, found.not_in_checkpoint, found.mismatched) == (empty, empty, ())


def test_what_is_missing_is_what_a_real_load_misses(saved: tuple[Path, Any], tmp_path: Path) -> None:
    """Each third tensor but experts is taken away; the names that are drawn at random are the real loader's."""
    path, model_class = saved

    def thin(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in sorted(tensors) if ".experts." not in name][::3]:
            del tensors[name]

    folder = changed(path, tmp_path, thin)
    real = really_loaded(folder, model_class)
    missing = real["missing_keys"] | {name for name, _, _ in real["mismatched_keys"]}
    found = compare_checkpoint(builder(path, model_class), stored_in(folder), {})
    assert found.not_in_checkpoint.tensors + len(found.mismatched) == len(missing) > 0
    assert accounted(found, folder, model_class) == 0


def test_another_shape_is_what_a_real_load_refuses(saved: tuple[Path, Any], tmp_path: Path) -> None:
    """A vocabulary of one more, and what is left over."""
    path, model_class = saved

    def widen(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in list(tensors.items()):
            if tensor.shape[0] == 30 and tensor.dim() == 2:
                tensors[name] = torch.zeros(31, *tensor.shape[1:])
        tensors["surplus.weight"] = torch.zeros(5, 3)

    folder = changed(path, tmp_path, widen)
    real = really_loaded(folder, model_class)
    found = compare_checkpoint(builder(path, model_class), stored_in(folder), {})
    expected = {(name, tuple(stored), tuple(own)) for name, stored, own in real["mismatched_keys"]}
    assert {(item.name, item.stored, item.model) for item in found.mismatched} == expected != set()
    assert found.not_in_model == NamedTensors(tensors=1, parameters=15, names=("surplus.weight",))
    assert accounted(found, folder, model_class) == 0


def test_layers_that_the_loading_report_of_transformers_omits_are_listed(tmp_path: Path) -> None:
    """DeepSeek-V3 stores a layer for multi-token prediction that its class ignores: 61, whatever the model's depth."""
    config = configuration("DeepseekV3ForCausalLM", DEEPSEEK)
    with silence_output():
        transformers.DeepseekV3ForCausalLM(config).save_pretrained(tmp_path)
    stored = stored_in(tmp_path)
    extra = {name.replace("layers.1.", "layers.61."): tensor for name, tensor in stored.items() if "layers.1." in name}
    found = compare_checkpoint(builder(tmp_path, transformers.DeepseekV3ForCausalLM), {**stored, **extra}, {})
    assert found.not_in_model.tensors == len(extra)
    # Fused on the way, the experts are counted as they are stored.
    assert found.not_in_model.parameters == sum(tensor.elements for tensor in extra.values())
    assert "model.layers.61.mlp.experts.0-3.gate_proj.weight" in found.not_in_model.names


def test_stored_buffers_that_the_class_no_longer_loads_are_listed(tmp_path: Path) -> None:
    """GPT-2's attention masks are stored as if they were weights."""
    with silence_output():
        transformers.GPT2LMHeadModel(configuration("GPT2LMHeadModel", GPT2)).save_pretrained(tmp_path)
    old = {f"h.{layer}.attn.bias": StoredTensor(dtype="F32", shape=(1, 1, 8, 8), bytes=256) for layer in range(2)}
    found = compare_checkpoint(builder(tmp_path, transformers.GPT2LMHeadModel), {**stored_in(tmp_path), **old}, {})
    assert (found.not_in_model.tensors, found.not_in_model.parameters) == (2, 2 * 64)


def test_the_largest_fused_parameter_is_measured_in_bytes(tmp_path: Path) -> None:
    """Two layers of four experts: gate and up 2 x 24 x 16, down 16 x 24, in float32."""
    with silence_output():
        transformers.MixtralForCausalLM(configuration("MixtralForCausalLM", EXPERTS)).save_pretrained(tmp_path)
    found = compare_checkpoint(builder(tmp_path, transformers.MixtralForCausalLM), stored_in(tmp_path), {})
    assert found.largest_fused_bytes == 4 * (4 * 2 * 24 * 16)
    assert found.fused_bytes == 2 * 4 * (4 * 2 * 24 * 16 + 4 * 16 * 24)


def test_block_scales_of_fp8_are_no_difference(tmp_path: Path) -> None:
    """Weights of one byte have the model's names and shapes; their scales stand beside them."""
    with silence_output():
        transformers.LlamaForCausalLM(configuration("LlamaForCausalLM", SMALL)).save_pretrained(tmp_path)
    stored = {}
    for name, tensor in stored_in(tmp_path).items():
        stored[name] = tensor
        if "_proj" in name:
            stored[name] = StoredTensor(dtype="F8_E4M3", shape=tensor.shape, bytes=tensor.elements)
            scale = name.replace(".weight", ".weight_scale_inv")
            stored[scale] = StoredTensor(dtype="F32", shape=(1, 1), bytes=4)
    declared = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    found = compare_checkpoint(builder(tmp_path, transformers.LlamaForCausalLM), stored, declared)
    assert (found.not_in_model.tensors, found.not_in_checkpoint.tensors, found.mismatched) == (0, 0, ())
    assert found.beyond_parameters["scales"] == 2 * 7, "one block in each of seven projections of two layers"


def test_experts_that_are_not_complete_are_what_a_real_load_refuses(tmp_path: Path) -> None:
    """Three gates and four ups cannot be put together."""
    with silence_output():
        transformers.MixtralForCausalLM(configuration("MixtralForCausalLM", EXPERTS)).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.block_sparse_moe.experts.2.w1.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="conversion"):
        really_loaded(tmp_path, transformers.MixtralForCausalLM)
    report = run(Request(model=str(tmp_path), count_only=True))
    (warning,) = [notice for notice in report.warnings if notice.code == "does-not-load"]
    assert "conversion" in warning.message


@pytest.mark.parametrize("method", ["gptq", "awq", "mxfp4", 7])
def test_packed_formats_are_not_compared(method: object) -> None:
    """Their tensors are a quantizer's."""
    with pytest.raises(NotComparableError, match=f"quantized \\({method}\\)"):
        compare_checkpoint(lambda: pytest.fail("built"), {}, {"quantization_config": {"quant_method": method}})


def test_far_too_many_tensors_are_not_compared(tmp_path: Path) -> None:
    """A model of 21 tensors is not set beside 30,000."""
    config = configuration("LlamaForCausalLM", SMALL)
    stored = {f"x{number}": StoredTensor(dtype="U8", shape=(), bytes=1) for number in range(30_000)}
    with pytest.raises(NotComparableError, match="it holds 30,000 tensors, and the model has 21"):
        compare_checkpoint(
            lambda: build_skeleton(config, transformers.LlamaForCausalLM, torch.float32, "it"), stored, {}
        )


@pytest.mark.parametrize(
    "stored",
    [
        {"model.norm.weight": StoredTensor(dtype="F32", shape=(0, 2**62), bytes=0)},
        {"model.norm.weight": StoredTensor(dtype="F6_E2M3", shape=(16,), bytes=12)},
        {"model.norm.weight" + ".x" * 400: StoredTensor(dtype="F32", shape=(), bytes=4)},
        {"": StoredTensor(dtype="F32", shape=(1,), bytes=4)},
        {"model..norm.\x1b[31m.weight": StoredTensor(dtype="C64", shape=(1,), bytes=8)},
        {f"model.layers.{10**18}.self_attn.q_proj.weight": StoredTensor(dtype="F32", shape=(1,), bytes=4)},
    ],
)
def test_odd_tensors_are_compared_or_refused(stored: dict[str, StoredTensor]) -> None:
    """Names and shapes that no model has end in no traceback."""
    config = configuration("LlamaForCausalLM", SMALL)

    def build() -> PreTrainedModel:
        return build_skeleton(copy.deepcopy(config), transformers.LlamaForCausalLM, torch.float32, "it")

    fits = "F6_E2M3" in str(stored)
    with contextlib.suppress(NotComparableError):
        found = compare_checkpoint(build, stored, {})
        assert found.not_in_model.tensors + len(found.mismatched) == (0 if fits else 1)


def test_a_report_warns_of_what_is_drawn_at_random(tmp_path: Path) -> None:
    """The whole way: a directory without a head, read and inspected."""
    with silence_output():
        transformers.LlamaModel(configuration("LlamaModel", SMALL)).save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**fields, "architectures": ["LlamaForCausalLM"]}))
    report = run(Request(model=str(tmp_path), count_only=True))
    assert report.checkpoint is not None
    assert report.checkpoint.not_in_checkpoint == NamedTensors(tensors=1, parameters=480, names=("lm_head.weight",))
    (warning,) = [notice for notice in report.warnings if notice.code == "initialised-at-random"]
    assert "480" in warning.message
    assert "lm_head.weight" in warning.message
    assert report.checkpoint.parameters == report.parameters.base - 480


def test_a_report_warns_of_another_shape(tmp_path: Path) -> None:
    """A vocabulary that was extended in the config alone."""
    with silence_output():
        transformers.LlamaForCausalLM(configuration("LlamaForCausalLM", SMALL)).save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**fields, "vocab_size": 32}))
    report = run(Request(model=str(tmp_path), count_only=True))
    assert report.checkpoint is not None
    shapes = ShapeDifference(name="lm_head.weight", stored=(30, 16), model=(32, 16))
    assert shapes in (report.checkpoint.mismatched or ())
    assert "shape-mismatch" in [notice.code for notice in report.warnings]

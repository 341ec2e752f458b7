"""Write recorded_stored.json: what the libraries' own code stores of a small model in each format, names and shapes.

Run by hand, `python -m tests.model.record_stored`, in an environment that has the libraries beside the project
(bitsandbytes 0.50.2, gptqmodel 7.7.0, optimum 2.3.0, compressed-tensors 0.20.0, torchao 0.18.0, hqq 0.2.8). Where one
quantizes on the CPU, a checkpoint is quantized and saved. GPTQ and AWQ need calibration: there transformers' own
quantizer puts the layers of gptqmodel into the model, as it does to load such a checkpoint, and their buffers are what
is stored.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM, TorchAoConfig
from transformers.quantizers.auto import AutoHfQuantizer

OUTPUT = Path(__file__).parent / "recorded_stored.json"
# What the libraries ask for: multiples of 32, and groups of 128 that divide the inputs.
SIZES: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "vocab_size": 96,
    "tie_word_embeddings": False,
    "attention_bias": True,
}


def model() -> Any:
    """Return the small model with random weights."""
    torch.manual_seed(0)
    small: Any = LlamaForCausalLM(LlamaConfig(**SIZES))
    return small.to(torch.bfloat16)


def header(folder: Path) -> dict[str, list[Any]]:
    """Return dtype and shape of every tensor of a saved checkpoint."""
    tensors: dict[str, list[Any]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            found = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        tensors |= {name: [tensor["dtype"], tensor["shape"]] for name, tensor in found.items() if name[0] != "_"}
    return tensors


def saved(changed: Any) -> dict[str, Any]:
    """Save a model and return its configuration and its tensors."""
    with tempfile.TemporaryDirectory() as name:
        changed.save_pretrained(name)
        fields = json.loads((Path(name) / "config.json").read_text(encoding="utf-8"))
        return {"config": fields, "tensors": header(Path(name))}


def quantized(config: Any) -> dict[str, Any]:
    """Quantize while loading, and save."""
    with tempfile.TemporaryDirectory() as name:
        model().save_pretrained(name)
        loaded = LlamaForCausalLM.from_pretrained(
            name, quantization_config=config, dtype=torch.bfloat16, device_map="cpu"
        )
        return saved(loaded)


def made(config: dict[str, Any]) -> dict[str, Any]:
    """Let transformers put in the layers that load such a checkpoint, and save what they hold."""
    empty = model().to(torch.float16)
    quantizer = AutoHfQuantizer.from_config(dict(config), pre_quantized=True)
    quantizer.preprocess_model(empty, device_map={"": "cpu"})
    tensors = {name: [_name(tensor.dtype), list(tensor.shape)] for name, tensor in empty.state_dict().items()}
    fields = {**empty.config.to_diff_dict(), "dtype": "float16", "architectures": ["LlamaForCausalLM"]}
    return {"config": {**fields, "quantization_config": config}, "tensors": tensors}


def _name(dtype: torch.dtype) -> str:
    names = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.int32: "I32"}
    return names[dtype]


def written(plain: Any, state: dict[str, torch.Tensor], declared: dict[str, Any]) -> dict[str, Any]:
    """Write tensors into a safetensors file and return its header with the configuration."""
    with tempfile.TemporaryDirectory() as name:
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, Path(name) / "model.safetensors")
        tensors = header(Path(name))
    fields = {**plain.config.to_diff_dict(), "dtype": "bfloat16", "architectures": ["LlamaForCausalLM"]}
    return {"config": {**fields, "quantization_config": declared}, "tensors": tensors}


def compressed(layout: str, weights: dict[str, Any], inputs: dict[str, Any] | None = None) -> dict[str, Any]:
    """Compress with compressed-tensors, scales as it makes them."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    config = QuantizationConfig(
        config_groups={"group_0": group}, ignore=["lm_head"], quant_method="compressed-tensors", format=layout
    )
    plain = model()
    apply_quantization_config(plain, config)
    for module in plain.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name.endswith("scale"):
                parameter.data.fill_(1)
    compressor = ModelCompressor(quantization_config=config)
    compressor.compress_model(plain)
    return written(plain, dict(plain.state_dict()), config.model_dump(mode="json"))


def hqq(bits: int) -> dict[str, Any]:
    """Put HQQ's own layers into the model; transformers 5.23 neither loads nor saves them."""
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    settings = BaseQuantizeConfig(nbits=bits, group_size=64)
    plain = model()
    state = dict(plain.state_dict())
    for name, module in plain.model.named_modules(prefix="model"):
        if isinstance(module, torch.nn.Linear):
            layer = HQQLinear(module, settings, compute_dtype=torch.bfloat16, device="cpu", del_orig=False)
            state = {key: tensor for key, tensor in state.items() if not key.startswith(f"{name}.")}
            state |= {f"{name}.{key}": tensor for key, tensor in layer.state_dict().items()}
    return written(plain, state, {"quant_method": "hqq", "quant_config": settings, "skip_modules": ["lm_head"]})


# The linear layers of Qwen2.5-7B: outputs, inputs, whether there is a bias (its configuration in the catalogue).
QWEN = {
    "q_proj": (3584, 3584, True),
    "k_proj": (512, 3584, True),
    "v_proj": (512, 3584, True),
    "o_proj": (3584, 3584, False),
    "gate_proj": (18944, 3584, False),
    "up_proj": (18944, 3584, False),
    "down_proj": (3584, 18944, False),
}


def qwen(config: dict[str, Any]) -> dict[str, Any]:
    """Let transformers put in the layers of one block of Qwen2.5-7B in their full size."""
    layers = {name: torch.nn.Linear(columns, rows, bias=bias) for name, (rows, columns, bias) in QWEN.items()}
    small = model()
    small.model.layers[0].self_attn = torch.nn.ModuleDict({name: layers[name] for name in list(QWEN)[:4]})
    small.model.layers[0].mlp = torch.nn.ModuleDict({name: layers[name] for name in list(QWEN)[4:]})
    quantizer = AutoHfQuantizer.from_config(dict(config), pre_quantized=True)
    quantizer.preprocess_model(small, device_map={"": "cpu"})
    state = small.model.layers[0].state_dict()
    return {name: [_name(tensor.dtype), list(tensor.shape)] for name, tensor in state.items() if "_proj" in name}


def runs() -> dict[str, Any]:
    """Return every recorded format by name."""
    from torchao.quantization import Float8WeightOnlyConfig, Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig

    four = {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.bfloat16}
    eight = {"num_bits": 8, "strategy": "channel"}
    dynamic = {"num_bits": 8, "strategy": "token", "dynamic": True}
    return {
        "bitsandbytes nf4": lambda: quantized(BitsAndBytesConfig(**four, bnb_4bit_quant_type="nf4")),
        "bitsandbytes fp4": lambda: quantized(BitsAndBytesConfig(**four, bnb_4bit_quant_type="fp4")),
        "bitsandbytes nf4 double": lambda: quantized(
            BitsAndBytesConfig(**four, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
        ),
        "bitsandbytes int8": lambda: quantized(BitsAndBytesConfig(load_in_8bit=True)),
        **{
            f"gptq {bits} bits, groups of {size}": lambda bits=bits, size=size: made(
                {"quant_method": "gptq", "bits": bits, "group_size": size, "desc_act": False, "sym": True}
            )
            for bits, size in ((4, 128), (4, 32), (8, -1), (2, 64), (3, 128))
        },
        "awq groups of 128": lambda: made(
            {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}
        ),
        "awq groups of 64": lambda: made(
            {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": True}
        ),
        "compressed-tensors int4": lambda: compressed(
            "pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 128, "symmetric": True}
        ),
        "compressed-tensors int4 asymmetric": lambda: compressed(
            "pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 128, "symmetric": False}
        ),
        "compressed-tensors int8 by channel": lambda: compressed("pack-quantized", eight),
        "compressed-tensors w8a8": lambda: compressed("int-quantized", {**eight, "symmetric": True}, dynamic),
        "compressed-tensors w8a8 asymmetric": lambda: compressed(
            "int-quantized", {**eight, "symmetric": False}, dynamic
        ),
        "compressed-tensors fp8": lambda: compressed(
            "float-quantized", {**eight, "type": "float"}, {**dynamic, "type": "float"}
        ),
        "compressed-tensors fp8 static": lambda: compressed(
            "float-quantized",
            {"num_bits": 8, "type": "float", "strategy": "tensor"},
            {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False},
        ),
        "compressed-tensors fp8 blocks": lambda: compressed(
            "float-quantized",
            {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]},
            {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 128, "dynamic": True},
        ),
        "compressed-tensors nvfp4 weights": lambda: compressed(
            "nvfp4-pack-quantized", {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
        ),
        "compressed-tensors nvfp4": lambda: compressed(
            "nvfp4-pack-quantized",
            {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
            {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "dynamic": "local"},
        ),
        "torchao int8": lambda: quantized(TorchAoConfig(Int8WeightOnlyConfig())),
        "torchao int8 dynamic": lambda: quantized(TorchAoConfig(Int8DynamicActivationInt8WeightConfig())),
        "torchao float8": lambda: quantized(TorchAoConfig(Float8WeightOnlyConfig())),
        "hqq 4 bits": lambda: hqq(4),
        "hqq 8 bits": lambda: hqq(8),
    }


def main() -> None:
    """Record every format, and say which failed."""
    recorded = {}
    for name, make in runs().items():
        try:
            with contextlib.redirect_stdout(sys.stderr):
                recorded[name] = make()
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
    libraries = (
        "torch",
        "transformers",
        "bitsandbytes",
        "gptqmodel",
        "optimum",
        "compressed-tensors",
        "torchao",
        "hqq",
    )
    blocks = {
        method: qwen({"quant_method": method, "bits": 4, "group_size": 128, **fields})
        for method, fields in (("gptq", {"sym": True, "desc_act": False}), ("awq", {"zero_point": True}))
    }
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(each)}" for name, each in recorded.items())
    versions = json.dumps({name: metadata.version(name) for name in libraries})
    OUTPUT.write_text(
        f'{{"versions": {versions}, "qwen2.5-7b": {json.dumps(blocks)}, "formats": {{\n{lines}\n}}}}\n',
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()

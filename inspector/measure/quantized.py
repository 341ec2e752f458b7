"""A quantized model on meta -> the same model on a GPU, made by transformers, bitsandbytes and PEFT themselves.

The trace follows what `from_pretrained` with a `BitsAndBytesConfig`, the trainer's preparation of the base and
`get_peft_model` do, so these run here as they are, over a checkpoint that does not exist: every matrix in it is a piece
of one block of random numbers, as large as the largest of them, so that the host holds no copy of the model. On the
GPU one float weight after the other is packed, as from files. A checkpoint that is stored packed has packed weights;
transformers loads these with threads, which is switched off, because what they leave between blocks is chance.

Not covered: weights that a checkpoint stores in another form than the model's class has them (routed experts one by
one, which transformers puts together while it loads).
"""

from __future__ import annotations

import copy
import gc
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import peft
import torch
from torch import Tensor, nn

from inspector.model.adapter.peft_names import strip_wrappers
from inspector.model.build import BuiltModel
from inspector.model.changes.preparation import let_inputs_require_gradients, prepare_base
from inspector.model.checkpoint.diff import load_one_by_one
from inspector.model.skeleton import build_skeleton
from inspector.quantization.bitsandbytes.modules import Int8Params, Params4bit
from inspector.records.request import Preparation
from inspector.workloads.base import base_model

__all__ = ["forget_tables", "load_quantized_model"]

# The standard deviation that most configurations name (initializer_range), and the scale of packed weights.
_DEVIATION = 0.02
_SCALE = 0.05


def load_quantized_model(built: BuiltModel, device: torch.device) -> nn.Module:
    """Return the model that `built`, a PeftModel on meta with bitsandbytes' stand-ins, stands for, on `device`."""
    model: Any = built.model
    base = base_model(model)
    config, quantizer = copy.deepcopy(base.config), base.hf_quantizer
    config.__dict__.pop("quantization_config", None)
    skeleton = build_skeleton(copy.deepcopy(config), type(base), config.dtype, "the model")
    checkpoint = dict(_build_checkpoint(skeleton, _list_packed(base) if quantizer.pre_quantized else {}))
    if quantizer.pre_quantized:
        config.quantization_config = quantizer.quantization_config.to_dict()
    forget_tables()
    with load_one_by_one():
        loaded = type(base).from_pretrained(
            None,
            config=config,
            state_dict=checkpoint,
            dtype=config.dtype,
            quantization_config=None if quantizer.pre_quantized else quantizer.quantization_config,
            device_map={"": device},
        )
    loaded = prepare_base(loaded, built.preparation)
    attached: Any = peft.get_peft_model(loaded, copy.deepcopy(model.active_peft_config))
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, parameter in attached.named_parameters():
        parameter.data = parameter.data.to(dtypes.get(name, parameter.dtype))
    if built.preparation is Preparation.AXOLOTL:
        let_inputs_require_gradients(attached)
    gc.collect()  # what loading leaves in cycles
    result: nn.Module = attached
    return result


def forget_tables() -> None:
    """Drop what bitsandbytes keeps for the whole process: tables of 8-bit types, paged tensors, optimizer overrides."""
    library: Any = sys.modules.get("bitsandbytes")
    if library is not None:
        library.functional.name2qmap.clear()
        library.functional.GlobalPageManager.get_instance().paged_tensors.clear()
        library.optim.GlobalOptimManager.get_instance().initialize()


def _list_packed(base: nn.Module) -> dict[str, Params4bit | Int8Params]:
    """Return the packed weights of a model by their names without PEFT's wrappers."""
    return {
        strip_wrappers(base, name): parameter
        for name, parameter in base.named_parameters()
        if isinstance(parameter, (Params4bit, Int8Params))
    }


def _build_checkpoint(
    skeleton: nn.Module, packed: Mapping[str, Params4bit | Int8Params]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the entries of a checkpoint: matrices are random, scales of norms ones, biases zeros, tied weights once."""
    parameters = dict(skeleton.named_parameters())
    largest = max(parameters.values(), key=nn.Parameter.numel)
    block = torch.empty(largest.numel(), dtype=largest.dtype).normal_(0.0, _DEVIATION)
    for name, parameter in parameters.items():
        if name in packed:
            yield from _build_packed_entries(name, packed[name], block)
        elif parameter.dim() > 1:
            yield name, block[: parameter.numel()].view(parameter.shape)
        else:
            yield name, torch.full(parameter.shape, float(name.endswith("weight")), dtype=parameter.dtype)


def _build_packed_entries(name: str, parameter: Params4bit | Int8Params, block: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield what bitsandbytes stores of a packed weight: any bytes, with scales that keep the weights small."""
    weight = block.view(parameter.dtype)[: parameter.numel()].view(parameter.shape)
    yield name, weight
    if isinstance(parameter, Int8Params):
        module = name.removesuffix(".weight")
        yield f"{module}.SCB", torch.full(parameter.shape[:1], _SCALE)
        yield f"{module}.weight_format", torch.zeros((), dtype=torch.uint8)
        return
    from bitsandbytes import functional  # type: ignore[import-not-found]  # only where it was asked for

    ours = parameter.quant_state
    assert ours is not None, "a skeleton's weights are quantized"
    state = functional.QuantState(
        absmax=torch.full(ours.absmax.shape, _SCALE).to(ours.absmax.dtype),
        shape=ours.shape,
        code=functional.get_4bit_type(ours.quant_type, device="cpu"),
        blocksize=ours.blocksize,
        quant_type=ours.quant_type,
        dtype=ours.dtype,
    )
    if ours.state2 is not None:
        state.offset = torch.tensor(_SCALE)
        state.state2 = functional.QuantState(
            absmax=torch.zeros(ours.state2.absmax.shape),
            code=functional.create_dynamic_map(),
            blocksize=ours.state2.blocksize,
            dtype=torch.float32,
        )
        state.nested = True
    for key, value in state.as_dict(packed=True).items():
        yield f"{name}.{key}", value

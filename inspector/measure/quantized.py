"""A quantized model on meta -> the same model on a GPU, made by transformers, bitsandbytes and PEFT themselves.

The trace follows what `from_pretrained` with a `BitsAndBytesConfig`, `prepare_model_for_kbit_training` and
`get_peft_model` do, so these run here as they are, over a checkpoint that does not exist: every matrix in it is a piece
of one block of random numbers, as large as the largest of them, so that the host holds no copy of the model. On the
GPU one float weight after the other is packed, as from files.

Not covered: weights that a checkpoint stores in another form than the model's class has them (routed experts one by
one, which transformers puts together while it loads).
"""

from __future__ import annotations

import copy
import gc
import sys
from typing import Any

import peft
import torch
from torch import Tensor, nn

from inspector.model.skeleton import build_skeleton
from inspector.trace.training import base_model

__all__ = ["forget_tables", "load_quantized_on"]

# The standard deviation that most configurations name (initializer_range).
_DEVIATION = 0.02


def load_quantized_on(model: Any, device: torch.device) -> nn.Module:
    """Return the model that `model`, a PeftModel on meta with bitsandbytes' stand-ins, stands for, on `device`."""
    base = base_model(model)
    config = copy.deepcopy(base.config)
    quantization = base.hf_quantizer.quantization_config
    config.__dict__.pop("quantization_config", None)
    forget_tables()
    loaded = type(base).from_pretrained(
        None,
        config=config,
        state_dict=_checkpoint(build_skeleton(copy.deepcopy(config), type(base), config.dtype, "the model")),
        dtype=config.dtype,
        quantization_config=quantization,
        device_map={"": device},
    )
    loaded = peft.prepare_model_for_kbit_training(loaded, use_gradient_checkpointing=False)
    attached: nn.Module = peft.get_peft_model(loaded, copy.deepcopy(model.active_peft_config))
    gc.collect()  # what loading leaves in cycles
    return attached


def forget_tables() -> None:
    """Drop what bitsandbytes keeps on the GPU for the whole process: the tables of 8-bit types, and whom they serve."""
    library: Any = sys.modules.get("bitsandbytes")
    if library is not None:
        library.functional.name2qmap.clear()
        library.functional.GlobalPageManager.get_instance().paged_tensors.clear()
        library.optim.GlobalOptimManager.get_instance().initialize()


def _checkpoint(skeleton: nn.Module) -> dict[str, Tensor]:
    """Return a tensor for each parameter, tied ones once: matrices are random, scales of norms ones, biases zeros."""
    parameters = dict(skeleton.named_parameters())
    largest = max(parameter.numel() for parameter in parameters.values())
    block = torch.empty(largest, dtype=max(parameters.values(), key=nn.Parameter.numel).dtype)
    block.normal_(0.0, _DEVIATION)
    made: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        if parameter.dim() > 1:
            made[name] = block[: parameter.numel()].view(parameter.shape)
        else:
            made[name] = torch.full(parameter.shape, float(name.endswith("weight")), dtype=parameter.dtype)
    return made

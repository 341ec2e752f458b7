"""What a trainer does to the dtypes of a quantized base and of its adapter before the first step.

Trainers differ here more than in the step itself: 13.9 or 10.0 GB for one QLoRA of 7 B parameters. Sources:
peft/utils/other.py, `prepare_model_for_kbit_training` (0.21); trl/trainer/sft_trainer.py (0.26 and newer: nothing is
prepared, and on packed weights whatever trains becomes bfloat16 but DoRA's magnitudes); llamafactory/model/adapter.py
(0.9.4: nothing is prepared, and what trains becomes float32); axolotl/loaders/model.py (0.19), `_configure_embedding_
dtypes`. What of it is memory while a model loads is replayed in `workloads.quantized_load`.

Not covered: axolotl's `fp32_norms`, `embeddings_skip_upcast` and LoftQ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import peft
import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from inspector.records.request import AdapterDtype, Preparation

__all__ = ["cast_adapter", "let_inputs_require_gradients", "list_restored", "list_upcast_first", "prepare_base"]

_ADAPTER_DTYPES = {AdapterDtype.FLOAT32: torch.float32, AdapterDtype.BFLOAT16: torch.bfloat16}
# axolotl/loaders/utils.py, `get_linear_embedding_layers`: the embedding and the head by type of model.
_EMBEDDINGS = {
    "gpt_neox": ("embed_in", "embed_out"),
    "falcon": ("word_embeddings", "lm_head"),
    "nemotron_h": ("embeddings", "lm_head"),
    "bailing_hybrid": ("word_embeddings", "lm_head"),
}
_USUAL_EMBEDDINGS = ("embed_tokens", "lm_head")
_MAGNITUDE = "lora_magnitude_vector"


def prepare_base(model: PreTrainedModel, preparation: Preparation) -> PreTrainedModel:
    """Prepare a model with packed weights for an adapter, and note what each parameter was before."""
    for parameter in model.parameters():
        if not hasattr(parameter, "loaded_dtype"):
            parameter.loaded_dtype = parameter.dtype  # type: ignore[attr-defined]
    if preparation is Preparation.NONE:
        return model
    if preparation is Preparation.AXOLOTL:
        for _, parameter in list_upcast_first(model):
            parameter.data = parameter.data.to(torch.float32)
    peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if preparation is Preparation.AXOLOTL:
        for _, parameter in list_restored(model):
            parameter.data = parameter.data.to(parameter.loaded_dtype)  # type: ignore[attr-defined]
    return model


def let_inputs_require_gradients(attached: PeftModel) -> None:
    """Let embeddings return what requires gradients, checkpointed or not (axolotl/loaders/adapter.py, load_adapter)."""
    base: Any = attached.get_base_model()
    base.enable_input_require_grads()


def list_upcast_first(model: PreTrainedModel) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield what axolotl makes float32 before PEFT prepares the rest: norms, embeddings, the head and routers."""
    yield from _list_parameters(model, lambda name: "norm" in name or name.endswith(".gate"))


def list_restored(model: PreTrainedModel) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield what axolotl turns back to the dtype of the model, in the order of the modules: norms, embeddings, head."""
    yield from _list_parameters(model, lambda name: "norm" in name)


def cast_adapter(model: nn.Module, dtype: AdapterDtype) -> None:
    """Cast what trains to the dtype of the adapter, and note what each parameter was before.

    DoRA's magnitudes stay in float32, as in TRL: their updates are smaller than bfloat16 can hold.
    """
    wanted = _ADAPTER_DTYPES.get(dtype)
    for name, parameter in model.named_parameters():
        is_cast = parameter.requires_grad and parameter.is_floating_point() and _MAGNITUDE not in name
        if wanted is not None and is_cast and parameter.dtype is not wanted:
            parameter.loaded_dtype = parameter.dtype  # type: ignore[attr-defined]
            parameter.data = parameter.data.to(wanted)


def _list_parameters(model: PreTrainedModel, is_named: Callable[[str], bool]) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters of the modules with such a name, and of the embedding and the head, each once."""
    embeddings = _EMBEDDINGS.get(model.config.model_type, _USUAL_EMBEDDINGS)
    seen: set[nn.Parameter] = set()
    for name, module in model.named_modules():
        is_embedding = any(part in name for part in embeddings) and hasattr(module, "weight")
        for own, parameter in module.named_parameters(prefix=name) if is_named(name) or is_embedding else ():
            if parameter.is_floating_point() and parameter not in seen:
                seen.add(parameter)
                yield own, parameter

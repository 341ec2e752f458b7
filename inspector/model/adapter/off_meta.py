"""What PEFT gives an adapter elsewhere than on meta, put right after it was attached there.

Not covered: an adapter that is attached to a model on the GPU, where AdaLoRA's counters are moved whatever their dtype.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.adalora.layer import AdaLoraLayer
from torch import Tensor, nn

from inspector.compat.peft import make_monte_carlo_sampler, monte_carlo_samplers, pass_over_truncation
from inspector.model.adapter.peft_names import find_adapted_layers
from inspector.runtime.patches import replace_attribute, restore_changes

__all__ = ["complete_adapter"]


def complete_adapter(model: PeftModel) -> None:
    """Give an adapter that was attached on meta the parts and the flags that it has elsewhere."""
    for _, layer in find_adapted_layers(model):
        if isinstance(layer, AdaLoraLayer):
            _freeze_counters(layer)
        if hasattr(layer, "lora_monteclora_sampler"):
            _make_samplers(layer)
        # KaSA takes the smallest singular values out of the base weight while it attaches (lora/variants.py).
        pass_over_truncation(layer)
        _place_indices(layer)


def _freeze_counters(layer: Any) -> None:
    """Freeze the rank counters of AdaLoRA on a base in float32.

    PEFT makes them so that they do not train. In another dtype it moves them to the base's, which makes new parameters
    of them that do (tuners/tuners_utils.py, `_move_adapter_to_device_of_base_layer`).
    """
    weight = getattr(layer.get_base_layer(), "weight", None)
    if weight is not None and weight.dtype is torch.float32:
        for counter in layer.ranknum.values():
            counter.requires_grad = False


def _place_indices(layer: Any) -> None:
    """Give the places of WaveFT's and SHiRA's coefficients, which are no buffers: they stay where PEFT draws them.

    That is the CPU, where an adapter is attached before the model goes to the GPU. SHiRA has as many places as weights
    (tuners/shira/layer.py, `update_layer`).
    """
    for name, weights in getattr(layer, "shira_weight", {}).items():
        layer.shira_indices[name] = torch.zeros((), dtype=torch.int32, device="cpu").expand(2, weights.numel())
    found: dict[str, Tensor] = getattr(layer, "waveft_indices", {})
    for name, indices in found.items():
        if indices.is_meta:
            found[name] = torch.zeros((), dtype=indices.dtype, device="cpu").expand(indices.shape)


def _make_samplers(layer: Any) -> None:
    """Make MonteCLoRA's samplers, which PEFT does in the first forward pass where the adapter was made on meta.

    On a real device it makes them while it attaches, so that they train and are saved (tuners/lora/variants.py,
    `MontecloraLinearVariant.init`).
    """
    for name in layer.lora_A:
        if name not in layer.lora_monteclora_sampler:
            with _draw_nothing():
                sampler = make_monte_carlo_sampler(layer, name)
            layer.lora_monteclora_sampler[name] = sampler
            weight = getattr(layer.get_base_layer(), "weight", None)
            if (
                weight is not None and weight.dtype.is_floating_point
            ):  # moved with the adapter; parameters alone go back
                for buffer in sampler.buffers():
                    buffer.data = buffer.data.to(weight.dtype)


@contextlib.contextmanager
def _draw_nothing() -> Iterator[None]:
    """Let samplers hold samples without values inside the block."""
    with restore_changes():
        replace_attribute(monte_carlo_samplers(), "BufferedMontecloraSampler", _Samples)
        yield


class _Samples:
    """Samples that lie on the CPU, where PEFT draws them while it attaches an adapter: zeros that take no memory.

    Each is copied to the device by the layer that takes it (tuners/lora/monteclora.py, `MontecloraSampler.forward`).
    """

    def __init__(self, model: nn.Module, buffer_size: int = 150, device: Any = None) -> None:
        samples, size, rank = int(model.num_samples), int(model.in_features), int(model.out_features)  # type: ignore[arg-type]
        shapes = {"z_mvn": (samples, size, rank), "z_wishart": (rank, rank), "z_dirichlet": (samples,)}
        zero = torch.zeros((), dtype=torch.float32, device="cpu")
        self._sample = {name: zero.expand(shape) for name, shape in shapes.items()}

    def get(self) -> dict[str, Tensor]:
        """Return a sample."""
        return self._sample

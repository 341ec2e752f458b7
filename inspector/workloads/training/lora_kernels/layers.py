"""Layers of a model with axolotl's LoRA kernels in them: which have what it takes, and what calls a kernel.

Source: axolotl 0.21.0, monkeypatch/lora_kernels.py. It writes the source of an attention class anew, so that queries,
keys and values are one call; here the first of the three layers that is called makes all of them.

Not covered: the embedding's kernel, routed experts, and the projections of linear attention.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from inspector.records.steps.losses import LoraKernel
from inspector.workloads.base import base_model
from inspector.workloads.training.lora_kernels.functions import AttentionLayers, GatedLayers, OutputLayer, Weights

__all__ = ["apply_lora_kernels", "explain_left_out", "settle_lora_kernels"]

_OF_ATTENTION = ("q_proj", "k_proj", "v_proj")
_OF_AN_MLP = ("gate_proj", "up_proj", "down_proj")
# How a forward names its projections where axolotl can write it anew (QKV_PATCHES, ORIGINAL_O_CODE).
_LAYOUTS = (
    "self.q_proj(hidden_states).view(hidden_shape)",
    "self.q_proj(hidden_states).view(*input_shape, -1, self.head_dim * 2)",
)
_OUTPUT = "attn_output = self.o_proj(attn_output)\n"
_OF_LINEAR_ATTENTION = ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj")


@contextlib.contextmanager
def apply_lora_kernels(model: Any, kernels: tuple[LoraKernel, ...]) -> Iterator[None]:
    """Let the layers of a model run the kernels inside the block; a layer without an adapter stays as it is."""
    for layer in _list_layers(base_model(model)):
        attention = _find_attention(layer)
        mlp: Any = getattr(layer, "mlp", None)
        if attention is not None and {LoraKernel.QKV, LoraKernel.O} & set(kernels):
            _join(attention, is_fused=LoraKernel.QKV in kernels and _have_adapters(attention, _OF_ATTENTION))
        if attention is not None and LoraKernel.O in kernels and _have_adapters(attention, ("o_proj",)):
            attention.o_proj.forward = _make_projection(attention.o_proj)
        if LoraKernel.MLP in kernels and _have_adapters(mlp, _OF_AN_MLP):
            mlp.forward = _make_mlp(mlp)
    yield


def settle_lora_kernels(model: Any, asked: tuple[LoraKernel, ...]) -> tuple[LoraKernel, ...]:
    """Return the kernels that some layer of a model runs."""
    layers = _list_layers(base_model(model))
    refused = dict(_list_refused(base_model(model), layers))
    running = {LoraKernel.QKV: _OF_ATTENTION, LoraKernel.O: ("o_proj",), LoraKernel.MLP: _OF_AN_MLP}

    def runs(kernel: LoraKernel) -> bool:
        is_mlp = kernel is LoraKernel.MLP
        owners = (getattr(layer, "mlp", None) if is_mlp else _find_attention(layer) for layer in layers)
        return kernel not in refused and any(_have_adapters(owner, running[kernel]) for owner in owners)

    return tuple(kernel for kernel in asked if runs(kernel))


def explain_left_out(model: Any, asked: tuple[LoraKernel, ...]) -> Iterator[str]:
    """Yield why kernels that were asked for are not traced where a model has an adapter that they are for."""
    layers = _list_layers(base_model(model))
    for kernel, why in _list_refused(base_model(model), layers):
        if kernel in asked:
            yield f"{kernel}: {why}"
    if any(_have_any_adapter(getattr(layer, "linear_attn", None), _OF_LINEAR_ATTENTION) for layer in layers):
        yield "the projections of linear attention have one as well, which keeps less: PEFT's layers are traced"


def _list_refused(base: Any, layers: list[nn.Module]) -> Iterator[tuple[LoraKernel, str]]:
    """Yield the kernels that a model has no use for, as axolotl finds out, and those of DoRA."""
    if any(hasattr(module, "lora_magnitude_vector") and module.lora_magnitude_vector for module in base.modules()):
        for kernel in LoraKernel:
            yield kernel, "with DoRA it keeps norms and products, too: PEFT's layers are traced"
        return
    kinds: set[Any] = {type(layer.self_attn) for layer in layers if hasattr(layer, "self_attn")}
    for kind in kinds:
        source = inspect.getsource(kind.forward)
        if _OUTPUT not in source or not any(layout in source for layout in _LAYOUTS):
            for kernel in (LoraKernel.QKV, LoraKernel.O):
                yield kernel, f"axolotl refuses it for {kind.__name__}, which names its projections otherwise"
            break
    text = base.config.get_text_config()
    names = (getattr(text, name, None) for name in ("hidden_act", "hidden_activation", "mlp_hidden_act"))
    activation = next((str(name) for name in names if name), "")
    has_mlp = any(_find_parts(getattr(layer, "mlp", None), _OF_AN_MLP) for layer in layers)
    if has_mlp and activation != "silu" and "gelu" not in activation:
        yield LoraKernel.MLP, f"axolotl has none for the activation {activation}"


def _list_layers(base: Any) -> list[nn.Module]:
    """Return the layers of the language model (`get_layers`)."""
    inner = getattr(base, "model", base)
    for owner in (getattr(base, "language_model", None), getattr(inner, "language_model", None), inner):
        layers = getattr(owner, "layers", None)
        if isinstance(layers, nn.ModuleList):
            return list(layers)
    return []


def _find_attention(layer: Any) -> Any:
    """Return the attention of a layer with projections of its own, None where it has none."""
    for name in ("self_attn", "mixer"):
        found = getattr(layer, name, None)
        if _find_parts(found, (*_OF_ATTENTION, "o_proj")):
            return found
    return None


def _find_parts(owner: Any, names: tuple[str, ...]) -> bool:
    """Tell whether a module has all these layers."""
    return all(getattr(owner, name, None) is not None for name in names)


def _have_adapters(owner: Any, names: tuple[str, ...]) -> bool:
    return all(hasattr(getattr(owner, name, None), "lora_A") for name in names)


def _have_any_adapter(owner: Any, names: tuple[str, ...]) -> bool:
    return any(hasattr(getattr(owner, name, None), "lora_A") for name in names)


def _read_weights(projection: Any) -> Weights:
    """Return what a layer multiplies by (`get_lora_parameters`); an adapter that is off is none."""
    inner = projection.get_base_layer()
    state = getattr(inner.weight, "quant_state", None)
    if projection.disable_adapters or projection.merged:
        return Weights(weight=inner.weight, bias=inner.bias, state=state, a=None, b=None, scale=None)
    name = projection.active_adapters[0]
    a, b = projection.lora_A[name].weight, projection.lora_B[name].weight
    return Weights(weight=inner.weight, bias=inner.bias, state=state, a=a, b=b, scale=projection.scaling[name])


def _drop(projection: Any, x: Tensor) -> Tensor | None:
    """Return the input as the adapter of a layer gets it where that is another tensor (`_apply_dropout`)."""
    dropout = None if projection.disable_adapters else projection.lora_dropout[projection.active_adapters[0]]
    if dropout is None or isinstance(dropout, nn.Identity) or not projection.training:
        return None
    dropped: Tensor = dropout(x)
    return dropped


def _call(function: Any, x: Tensor, projections: tuple[Any, ...]) -> Any:
    """Run a kernel on layers of one input, which share what is dropped."""
    weights = tuple(map(_read_weights, projections))
    matrices = [matrix for of in weights for matrix in (of.a, of.b)]
    return function.apply(x, _drop(projections[0], x), weights, *matrices)


def _make_mlp(mlp: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: _call(GatedLayers, x, tuple(getattr(mlp, name) for name in _OF_AN_MLP))


def _make_projection(projection: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: _call(OutputLayer, x, (projection,))


def _join(attention: Any, *, is_fused: bool) -> None:
    """Let the first projection of an attention make the outputs of all three, and the others hand theirs out.

    Where one has no adapter they run as they are, but one after the other.
    """
    projections = tuple(getattr(attention, name) for name in _OF_ATTENTION)
    own = tuple(projection.forward for projection in projections)
    made: dict[str, Tensor] = {}

    def make_all(x: Tensor) -> Tensor:
        outputs = _call(AttentionLayers, x, projections) if is_fused else tuple(forward(x) for forward in own)
        q, made["k_proj"], made["v_proj"] = outputs
        result: Tensor = q
        return result

    attention.q_proj.forward = make_all
    for name in _OF_ATTENTION[1:]:
        getattr(attention, name).forward = lambda _x, name=name: made.pop(name)

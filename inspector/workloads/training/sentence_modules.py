"""What sentence-transformers runs behind the pooling of an encoder: `Dense` and `Normalize`, as modules.json has them.

A Dense is trained with the encoder, also where that has an adapter: the library freezes the encoder alone. It is put
into the model when a run is prepared, so that the loop, the optimizer and the tape have it; the parameter counts are
those of the encoder.

Source: sentence-transformers 6.2, base/modules/dense.py and normalize.py; tests/workloads/test_sentence_transformers.py
holds them against the library.

Not covered: other modules behind the pooling, and a Dense with a residual or with other features than the vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from inspector.records.source import SentenceModule

__all__ = ["add_sentence_modules", "describe_sentence_modules", "run_sentence_modules"]

_NAME = "sentence_modules"
_ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    item.__name__: item for item in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid)
}


class _Dense(nn.Module):
    """A linear layer and its activation."""

    def __init__(self, linear: nn.Linear, activation: nn.Module) -> None:
        super().__init__()
        self.linear, self.activation_function = linear, activation

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Replace the vector of each text."""
        x = features["sentence_embedding"]
        out = self.activation_function(self.linear(x))
        features["sentence_embedding"] = out
        return features


class _Normalize(nn.Module):
    """A vector of length 1 for each text."""

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Replace the vector of each text."""
        x = features["sentence_embedding"]
        features["sentence_embedding"] = functional.normalize(x, p=2, dim=-1)
        return features


def _list_modules(base: Any) -> Sequence[SentenceModule]:
    """Return what is behind the pooling of an encoder."""
    return getattr(base.config, "sentence_modules", None) or ()


def add_sentence_modules(base: Any) -> None:
    """Put what runs behind the pooling into an encoder, on its device and in its dtype."""
    weight: Tensor = next(base.parameters())
    behind = nn.Module()
    for place, item in enumerate(_list_modules(base)):
        if item.kind == "Normalize":
            behind.add_module(f"normalize_{'abcdefghijklmnop'[place]}", _Normalize())
        elif _is_known(item):
            linear = nn.Linear(item.in_features or 0, item.out_features or 0, bias=item.bias, device=weight.device)
            dense = _Dense(linear.to(base.dtype), _ACTIVATIONS[item.activation or "Tanh"]())
            behind.add_module(f"dense_{'abcdefghijklmnop'[place]}", dense)
    if list(behind.children()):
        base.add_module(_NAME, behind)


def run_sentence_modules(base: Any, features: dict[str, Any]) -> dict[str, Any]:
    """Return the features with what the modules behind the pooling make of them."""
    behind = getattr(base, _NAME, None)
    for module in () if behind is None else behind.children():
        features = module(features)
    return features


def _count_parameters(base: Any) -> int:
    """Return the parameters of what runs behind the pooling."""
    sizes = (
        (item.in_features or 0) * (item.out_features or 0) + (item.out_features or 0) * item.bias
        for item in _list_modules(base)
        if _is_known(item)
    )
    return sum(sizes)


def describe_sentence_modules(base: Any) -> str:
    """Return what runs behind the pooling, and what does not, as a sentence, or nothing."""
    modules = _list_modules(base)
    known = [item for item in modules if item.kind == "Normalize" or _is_known(item)]
    unknown = [item.kind for item in modules if item not in known]
    names = [
        f"Dense {item.in_features:,} to {item.out_features:,}" if item.in_features else item.kind for item in known
    ]
    words = f" Behind it run {' and '.join(names)} of modules.json." if names else ""
    count = _count_parameters(base)
    if count:
        words = f"{words[:-1]}: {count:,} parameters that are trained and not part of P."
    return f"{words} Not traced: {', '.join(unknown)}." if unknown else words


def _is_known(item: SentenceModule) -> bool:
    """Tell whether a module is a Dense that is traced."""
    return (
        bool(item.in_features and item.out_features) and item.is_plain and (item.activation or "Tanh") in _ACTIVATIONS
    )

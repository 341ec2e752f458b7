"""Methods that compute with the base weights while PEFT attaches them, run on meta where shapes follow from shapes.

FRoD decomposes the weights of all layers together, AdaMSS each layer's, and clusters its rows. PEFT's own code runs;
what it reads of values is answered here by a shape.

- FRoD: its matrices have the sizes of the weights, its sparse places are a share of theirs. All but the diagonal is
  what they are drawn from, whatever the weights hold.
- AdaMSS: `num_subspaces` clusters of rows, as even as can be. A cluster has a matrix of [rank, r] and one of [rows,
  rank], whose rank is `subspace_rank` or the cluster's rows: with a rank of 1, PEFT's default, as many parameters
  whichever rows are in which cluster. With another rank they hang on the smallest clusters, and the method is refused
  with what it can be at most (`refuse_unknown_ranks`). scikit-learn, which PEFT clusters with, is not needed.

Source: PEFT 0.21, tuners/frod/model.py and layer.py, tuners/adamss/layer.py and utils.py.
Not covered: AdaMSS's even clusters are an assumption where the step allocates by cluster.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import importlib.util
import math
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import accelerate
import torch
from peft import PeftConfig, PeftModel
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from inspector.errors import UnsupportedModelError
from inspector.model.adapter.peft_names import find_adapted_layers
from inspector.runtime.patches import replace_attribute, replace_item, restore_changes
from inspector.units import format_count

__all__ = ["cluster_evenly", "decompose_by_shape", "refuse_unknown_ranks", "stand_in_for_clustering"]


class _ByShape(TorchFunctionMode):
    """Keep what is computed on meta there, and answer what follows from sizes alone."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one function of torch."""
        kwargs = kwargs or {}
        first = args[0] if args else None
        if isinstance(first, Tensor) and first.is_meta:
            if func is Tensor.item:  # a rank, of which there is one at least and at most
                return 1
            if func in (Tensor.cpu, Tensor.__setitem__):
                return first
            if func is Tensor.to:
                kwargs = {name: value for name, value in kwargs.items() if name != "device"}
            if func is Tensor.__getitem__ and _selects_by_values(args[1]):
                return _select(first, args[1])
        if func in _MAKERS:
            kwargs = {**{name: value for name, value in kwargs.items() if name != "generator"}, "device": "meta"}
        if func is torch.tensor:  # sizes, which are read
            kwargs = {**kwargs, "device": "cpu"}
        return func(*args, **kwargs)


_MAKERS = (torch.arange, torch.randperm)


def _selects_by_values(index: Any) -> bool:
    """Tell whether an index is a mask on meta, or has one in it."""
    return any(
        isinstance(item, Tensor) and item.is_meta and item.dtype is torch.bool
        for item in (index if isinstance(index, tuple) else (index,))
    )


def _select(values: Tensor, index: Any) -> Tensor:
    """Return what FRoD's masks select: of all pairs of a row and a column those off the diagonal, else everything."""
    if isinstance(index, tuple) or values.dim() == 1:
        return values
    pairs = values.shape[0]
    return values.new_empty((pairs - math.isqrt(pairs), *values.shape[1:]))


@contextlib.contextmanager
def decompose_by_shape(_model: PreTrainedModel) -> Iterator[None]:
    """Let PEFT attach FRoD on meta inside the block."""
    with accelerate.init_empty_weights(include_buffers=True), _ByShape():
        yield


@contextlib.contextmanager
def cluster_evenly(_model: PreTrainedModel) -> Iterator[None]:
    """Let PEFT attach AdaMSS on meta inside the block, with clusters of as many rows each as can be."""
    layer = importlib.import_module("peft.tuners.adamss.layer")
    with restore_changes(), accelerate.init_empty_weights(include_buffers=True):
        replace_attribute(layer, "slice_pca", _make_components)
        replace_attribute(layer, "clustering_Z", _cluster)
        with _ByShape():
            yield


def _make_components(weight: Tensor, rank: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    """Return the singular vectors of a weight of [1, 1, rows, columns]: [1, 1, rank, columns], [1, 1, rows, rank]."""
    rows, columns = weight.shape[2:]
    rank = min(rank, rows, columns)
    return weight.new_empty((1, 1, rank, columns)), weight.new_empty((1, 1, rows, rank))


def _cluster(vectors: Tensor, clusters: int, _iterations: int) -> tuple[Tensor, int]:
    """Return which cluster each row is in, and how many there are."""
    rows = vectors.shape[0]
    clusters = min(clusters, rows)
    return torch.tensor([row * clusters // rows for row in range(rows)], device="cpu"), clusters


def refuse_unknown_ranks(model: PeftModel, config: PeftConfig) -> None:
    """Refuse an AdaMSS adapter whose ranks follow the values of the weights, with what they can be.

    Raises UnsupportedModelError. Each cluster has a rank between 1 and `subspace_rank`.
    """
    most = getattr(config, "subspace_rank", 1)
    if most == 1:
        return
    least_count = most_count = 0
    for _, found in find_adapted_layers(model):
        layer: Any = found
        rank, clusters = layer.adamss_newB[model.active_adapter].shape[0], layer.num_subspaces[model.active_adapter]
        rows = layer.out_features
        least_count += clusters * rank + rows
        most_count += min(clusters * most, rows) * rank + rows * most
    raise UnsupportedModelError(
        f"ADAMSS with subspace_rank = {most} trains between {format_count(least_count)} and {format_count(most_count)} "
        "parameters of its own: the ranks of its clusters follow the values of the base weights, and without a "
        "download there are none. With subspace_rank = 1, PEFT's default, it is counted."
    )


@contextlib.contextmanager
def stand_in_for_clustering() -> Iterator[None]:
    """Let PEFT find scikit-learn inside the block, which it asks for where an AdaMSS configuration is made."""
    with restore_changes():
        if importlib.util.find_spec("sklearn") is None:
            package = ModuleType("sklearn")
            package.__spec__ = importlib.machinery.ModuleSpec("sklearn", None)
            replace_item(sys.modules, "sklearn", package)
        yield

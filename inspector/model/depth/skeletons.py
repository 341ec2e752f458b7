"""The skeletons of one model at several depths: the whole one is built once, to see which of its layers repeat.

The shallow ones are copies of what is left of it. A few layers are worth keeping: the whole model is built anew where
somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import nn
from transformers import PreTrainedModel

from inspector.compat.torch import children_of
from inspector.model.copying import copy_model
from inspector.model.truncate import Cut, find_cut

__all__ = ["MOST_EXTRA_PERIODS", "Skeletons"]

# How much deeper than the shallowest one the deepest shallow model is.
MOST_EXTRA_PERIODS = 2


class Skeletons:
    """A model before its adapter: whole, as `build` makes it, and with few of its layers, as `cut` says of them.

    `cut` is None where no layers are left out.
    """

    def __init__(self, build: Callable[[], PreTrainedModel]) -> None:
        self._build = build
        model = build()
        self.cut: Cut | None = find_cut(model)
        if self.cut is None:
            self._unused: PreTrainedModel | None = model
            return
        self._left = model
        parent = model.get_submodule(self.cut.parent)
        self._put(parent, self.cut.choose_layers(self._list(parent), MOST_EXTRA_PERIODS))

    @property
    def missing(self) -> int:
        """Return how many periods of layers the shallowest model lacks."""
        return 0 if self.cut is None else self.cut.missing

    def take_whole(self) -> PreTrainedModel:
        """Return a whole model of the caller's own."""
        if self.cut is None and self._unused is not None:
            model, self._unused = self._unused, None
            return model
        return self._build()

    def take(self, extra_periods: int) -> PreTrainedModel:
        """Return a model of the caller's own with so many periods more than the shallowest one."""
        if self.cut is None:
            return self.take_whole()
        if extra_periods > MOST_EXTRA_PERIODS:
            model = self._build()
        else:
            parent = self._left.get_submodule(self.cut.parent)
            layers = self._list(parent)
            self._put(parent, self.cut.choose_layers(layers, extra_periods))
            model = copy_model(self._left)
            self._put(parent, layers)
        self.cut.apply(model, extra_periods)
        return model

    def _list(self, parent: nn.Module) -> list[nn.Module]:
        """Return the layers that are left."""
        assert self.cut is not None
        return list(cast(nn.ModuleList, children_of(parent)[self.cut.name]))

    def _put(self, parent: nn.Module, layers: list[nn.Module]) -> None:
        """Leave these layers in the list."""
        assert self.cut is not None
        children_of(parent)[self.cut.name] = nn.ModuleList(layers)

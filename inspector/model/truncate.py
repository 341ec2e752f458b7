"""A model with fewer of its repeated layers, and how many are missing: what it does for three it does for eighty.

A stack is a list of layers. Layers are of one kind where they hold the same modules, shapes and settings, what their
configuration says of each layer included; kinds may alternate (sliding and full attention), which makes a period of
several layers. What is left of the stack with the longest periodic run are the layers before that run, two of its
periods, and all that follows. Other stacks stay as they are: where two grow at once (an encoder and its decoder), what
a layer of one adds to a tape may read as what one of the other adds.

Does not cover: layers that share parameters, and settings that depend on the depth otherwise than by counting. Such
models are left whole.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from inspector.compat.torch import buffers_of, children_of, parameters_of

__all__ = ["Cut", "count_missing_periods", "find_cut", "map_to_shallow", "shorten_model"]

# How many periods stay: the first layer of a model may do what others do not, and the last one, too.
_KEPT = 2
# Names of configurations that hold numbers of layers.
_NUMBERS = re.compile(r"_(index|indexes|indices|layers)$")
_SETTINGS = (bool, int, float, str, tuple, type(None))
# The modules of a layer with their paths in it.
_Modules: TypeAlias = Sequence[tuple[str, nn.Module]]


@dataclass(frozen=True, slots=True)
class _Stack:
    """A list of layers in its model, with the longest run of `periods` of `period` layers in it, from `start` on."""

    parent: nn.Module
    name: str
    start: int
    period: int
    periods: int
    counters: Mapping[str, AbstractSet[str]]

    @property
    def layers(self) -> nn.ModuleList:
        """Return the list of layers as it is in the model now."""
        layers = children_of(self.parent)[self.name]
        assert isinstance(layers, nn.ModuleList)
        return layers

    @property
    def missing(self) -> int:
        """Return how many periods the shallow stack lacks."""
        return self.periods - _KEPT


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What `shorten_model` leaves of the list `name` in the module `parent`: the first of `periods` of its layers.

    These are of `period` layers each, from `start` on. `count` is how many layers the whole list has, `counters` are
    the settings that count them, by the path of their module in a layer.
    """

    parent: str
    name: str
    start: int
    period: int
    periods: int
    count: int
    counters: Mapping[str, AbstractSet[str]]

    @property
    def path(self) -> str:
        """Return the path of the list."""
        return f"{self.parent}.{self.name}" if self.parent else self.name

    @property
    def missing(self) -> int:
        """Return how many periods the shallowest model lacks."""
        return self.periods - _KEPT

    def count_kept(self, extra_periods: int) -> int:
        """Return how many layers before the cut are left where so many periods more than the fewest possible stay."""
        return self.start + (_KEPT + extra_periods) * self.period

    def choose_layers(self, layers: Sequence[nn.Module], extra_periods: int) -> list[nn.Module]:
        """Return those of the layers that stay, of all or of those that stay where more periods do."""
        behind = self.count - self.start - self.periods * self.period
        return [*layers[: self.count_kept(extra_periods)], *layers[len(layers) - behind :]]

    def apply(self, model: PreTrainedModel, extra_periods: int) -> None:
        """Take layers out of a model, in place: of a whole one, or of one that lost some without being told."""
        parent = model.get_submodule(self.parent)
        left = self.choose_layers(list(cast(nn.ModuleList, children_of(parent)[self.name])), extra_periods)
        children_of(parent)[self.name] = nn.ModuleList(left)
        first, end = self.count_kept(extra_periods), self.start + self.periods * self.period
        for layer in left[first:]:
            for name, module in layer.named_modules():
                for attribute in self.counters.get(name, ()):
                    setattr(module, attribute, getattr(module, attribute) - (end - first))
        config = getattr(parent, "config", None)
        if isinstance(config, PretrainedConfig):
            _shorten_config(config, self.count, first, end)


def find_cut(model: PreTrainedModel) -> Cut | None:
    """Return what `shorten_model` would take out of a model, None where too much would be left to be worth it."""
    stack = _find_stack_to_shorten(model)
    if stack is None:
        return None
    return Cut(
        parent=next(path for path, module in model.named_modules() if module is stack.parent),
        name=stack.name,
        start=stack.start,
        period=stack.period,
        periods=stack.periods,
        count=len(stack.layers),
        counters=stack.counters,
    )


def shorten_model(model: PreTrainedModel, extra_periods: int = 0) -> int:
    """Take periods of layers out of a model, in place, and return how many are missing where `extra_periods` is 0.

    `extra_periods` of these stay all the same. None is taken out, and 0 returned, where too much would be left to be
    worth it.
    """
    cut = find_cut(model)
    if cut is None:
        return 0
    cut.apply(model, extra_periods)
    return cut.missing


def _shorten_config(config: PretrainedConfig, count: int, first: int, end: int) -> None:
    """Let a configuration say of a stack of `count` layers what it says of those outside `first` to `end`."""
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == count:
            setattr(config, name, value[:first] + value[end:])
        elif type(value) is int and value == count and "layer" in name:
            setattr(config, name, count - (end - first))


def count_missing_periods(model: PreTrainedModel) -> int:
    """Return how many periods of layers `shorten_model` would say that are missing, and change nothing."""
    stack = _find_stack_to_shorten(model)
    return 0 if stack is None else stack.missing


def map_to_shallow(model: PreTrainedModel, extra_periods: int = 0) -> Callable[[str], str]:
    """Return what gives the name that a part of a whole model has in the one that `shorten_model` makes of it.

    A part of a layer that is missing there has the name of its like in the last period that is left.
    """
    stack = _find_stack_to_shorten(model)
    if stack is None:
        return lambda name: name
    count = (stack.missing - extra_periods) * stack.period
    end = stack.start + stack.periods * stack.period
    parent = next(path for path, module in model.named_modules() if module is stack.parent)
    prefix = f"{parent}.{stack.name}." if parent else f"{stack.name}."

    def rename(name: str) -> str:
        index, _, rest = name.removeprefix(prefix).partition(".")
        if not name.startswith(prefix) or not index.isdecimal() or int(index) < end - count:
            return name
        left = (
            int(index) - count if int(index) >= end else end - count - stack.period + (int(index) - end) % stack.period
        )
        return f"{prefix}{left}.{rest}"

    return rename


def _find_stack_to_shorten(model: PreTrainedModel) -> _Stack | None:
    """Return the stack that lacks the most layers, None where too much would be left to be worth it."""
    stack = _find_longest_stack(model)
    if stack is None:
        return None
    whole = len(stack.layers)
    left = whole - stack.missing * stack.period
    # Two shallow models are run in place of the whole one, and its tape is extrapolated from theirs.
    return None if 3 * (left + left + stack.period) >= 2 * whole else stack


def _find_longest_stack(model: PreTrainedModel) -> _Stack | None:
    """Return the stack that lacks the most layers, None where none lacks any."""
    stacks = [stack for stack in _find_stacks(model) if stack.missing > 0]
    return max(stacks, key=lambda stack: stack.period * stack.missing, default=None)


def _find_stacks(model: PreTrainedModel) -> Iterator[_Stack]:
    """Yield the lists of layers that are in no other list, with the longest periodic run in each."""
    seen: set[int] = set()
    found: set[int] = set()
    left: list[nn.Module] = [model]
    while left:
        module = left.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        for name, child in module.named_children():
            if not isinstance(child, nn.ModuleList) or len(child) < 2:
                continue
            # Walked once: of a deep model these are ten thousand modules.
            walked = [[] if layer is None else list(layer.named_modules()) for layer in child]
            if not _hold_their_own(walked):
                continue
            found.add(id(child))
            config, counters = getattr(module, "config", None), _find_counters(walked)
            kinds = _number_kinds(walked, counters, config, _count_early(model, module))
            start, period, periods = _find_longest_run(kinds)
            if start + period * periods < len(child) and any(_list_numbered(config, len(child))):
                continue  # the layers behind would be other numbers
            yield _Stack(module, name, start, period, periods, counters)
        if id(module) not in found:
            left += [child for child in reversed(children_of(module).values()) if child is not None]


def _hold_their_own(walked: Sequence[_Modules]) -> bool:
    """Tell whether layers have parameters and share none."""
    owned = [
        {id(item) for _, module in modules for item in parameters_of(module).values() if item is not None}
        for modules in walked
    ]
    return all(owned) and sum(map(len, owned)) == len(set().union(*owned))


def _list_numbered(config: Any, count: int) -> Iterator[list[int]]:
    """Yield which of `count` layers a configuration names by their numbers: those with full attention, ..."""
    for name, value in vars(config).items() if config is not None else ():
        if not isinstance(value, (list, tuple)) or not 0 < len(value) < count or not _NUMBERS.search(name):
            continue
        if all(type(number) is int and 0 <= number < count for number in value) and len(set(value)) == len(value):
            yield list(value)


def _count_early(model: PreTrainedModel, parent: nn.Module) -> int:
    """Return to how many of a stack's first layers features of images are added (DeepStack, as in Qwen3-VL)."""
    if "deepstack_visual_embeds" not in inspect.signature(type(parent).forward).parameters:
        return 0
    return len(getattr(getattr(model.config, "vision_config", None), "deepstack_visual_indexes", None) or ())


def _number_kinds(
    walked: Sequence[_Modules], counters: Mapping[str, AbstractSet[str]], config: Any, early: int = 0
) -> list[int]:
    """Return a number for each layer, equal for layers of one kind; the `early` first ones are each of their own."""
    by_layer = [
        value
        for value in (vars(config).values() if config is not None else ())
        if isinstance(value, list) and len(value) == len(walked)
    ]
    numbers: dict[tuple[Any, ...], int] = {}
    kinds = []
    for index, modules in enumerate(walked):
        kind = (
            _describe_kind(modules, counters),
            *(repr(values[index]) for values in by_layer),
            *(index in numbers for numbers in _list_numbered(config, len(walked))),
            min(index, early),
        )
        kinds.append(numbers.setdefault(kind, len(numbers)))
    return kinds


def _describe_kind(modules: _Modules, counters: Mapping[str, AbstractSet[str]]) -> tuple[Any, ...]:
    """Return what two layers of one kind have in common, of the `modules` of one."""
    parts: list[Any] = []
    seen: set[int] = set()
    for name, module in modules:
        skipped = counters.get(name, set())
        parts.append((name, type(module)))
        parts += sorted(
            (key, repr(value))
            for key, value in vars(module).items()
            if isinstance(value, _SETTINGS) and key not in skipped
        )
        for key, tensor in (*parameters_of(module).items(), *buffers_of(module).items()):
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                parts.append((key, type(tensor), tensor.shape, tensor.dtype, tensor.requires_grad))
    return tuple(parts)


def _find_counters(walked: Sequence[_Modules]) -> dict[str, set[str]]:
    """Return the settings, by the path of their module in a layer, that count the layers."""
    values: dict[tuple[str, str], list[int]] = {}
    for index, modules in enumerate(walked):
        for name, module in modules:
            for key, value in vars(module).items():
                if type(value) is int:
                    values.setdefault((name, key), []).append(value - index)
    counters: dict[str, set[str]] = {}
    for (name, key), offsets in values.items():
        # What is the same everywhere counts nothing; what is in one layer alone tells nothing.
        if len(offsets) > 1 and len(set(offsets)) == 1:
            counters.setdefault(name, set()).add(key)
    return counters


def _find_longest_run(kinds: list[int]) -> tuple[int, int, int]:
    """Return where the longest periodic run starts, how long its period is, and how often it is there."""
    best = (0, 1, 1)
    for period in range(1, len(kinds) // 2 + 1):
        start = 0
        while start + period <= len(kinds):
            end = start + period
            while end < len(kinds) and kinds[end] == kinds[end - period]:
                end += 1
            periods = (end - start) // period
            if periods * period > best[1] * best[2] and periods > 1:
                best = (start, period, periods)
            start = max(end - period, start) + 1
    return best

"""A model whose modules lie on several cards, one after the other, as `device_map="auto"` of transformers puts them.

transformers' own planner decides which module lies where. accelerate's hooks move what a module takes to the card of
that module, and what the model returns back to the first one (accelerate/hooks.py, `AlignDevicesHook`). On meta all
cards are one device, so that each block is noted with its card: that of the op's first tensor, as on CUDA. Modules on
the CPU wait there and come to the first card for as long as they run.

One trace has the events of all cards, and a card's tape is its own part of them. Not covered: what model code moves by
itself but for labels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from inspector.compat.device_map import (
    find_device_map,
    list_kept_in_place,
    replace_cross_entropy,
    replace_grouping,
)
from inspector.compat.torch import current_autograd_node, storage_address, tree_leaves, tree_map
from inspector.errors import UsageError, quoted
from inspector.hardware.platform import Platform
from inspector.model.build import BuiltModel
from inspector.records.recipe import Recipe
from inspector.records.steps.ranks import DeviceMap
from inspector.records.tape import Category, Event, EventKind, Phase
from inspector.trace.meta_cache import Results
from inspector.trace.tracer import Tracer
from inspector.workloads.base import NotTraceableError, Workload, base_model
from inspector.workloads.run import trace_run

__all__ = ["trace_cards"]

aten = torch.ops.aten
_HOST = -1
# Where a machine has less, transformers goes on to the disk.
_HOST_BYTES = 2**50


class Placement:
    """Which card each module lies on, -1 for the host."""

    def __init__(self, cards: Mapping[str, int]) -> None:
        self.cards = dict(cards)
        self.main = min((card for card in self.cards.values() if card != _HOST), default=0)
        self._known: dict[str, int] = {}

    def find(self, module: str) -> int:
        """Return the card of a module by its path: that of the nearest one that the map names."""
        if module not in self._known:
            name = module
            while name and name not in self.cards:
                name = name.rpartition(".")[0]
            self._known[module] = self.cards.get(name, self.main)
        return self._known[module]


def _place_modules(bare: nn.Module, launch: DeviceMap, *, is_packed: bool) -> Placement:
    """Return where the modules of a model without its adapter lie; raise UsageError for a map that cannot be."""
    asked = launch.device_map
    if not isinstance(asked, str):
        return Placement(_check_map(bare, asked, launch.world_size))
    share = 0.9 if launch.world_size == 1 else 1.0  # transformers/integrations/accelerate.py, `get_balanced_memory`
    share *= 0.9 if is_packed else 1.0  # quantizers/quantizer_bnb_4bit.py, `adjust_max_memory`
    memory: dict[int | str, int] = {card: int(launch.card_bytes * share) for card in range(launch.world_size)}
    return Placement(_check_map(bare, find_device_map(bare, asked, {**memory, "cpu": _HOST_BYTES}), launch.world_size))


def _check_map(bare: nn.Module, asked: Mapping[str, Any], count: int) -> dict[str, int]:
    """Return a map with numbers of cards; raise UsageError where it names others, a disk, or leaves a module out."""
    cards = {str(name): _read_card(name, where, count) for name, where in asked.items()}
    for name, _ in bare.named_parameters():
        if not any(key == "" or name == key or name.startswith(f"{key}.") for key in cards):
            raise UsageError(f"`device_map` leaves out {quoted(name, 80)}: say where each module lies.")
    return cards


def _read_card(name: str, where: Any, count: int) -> int:
    """Return a card's number, -1 for the host."""
    if where == "cpu":
        return _HOST
    if where == "disk":
        raise UsageError(
            f"`device_map` puts {quoted(name, 80)} on a disk, which is not traced: add cards, or put it on the cpu."
        )
    text = str(where).removeprefix("cuda:").removeprefix("cuda")
    if isinstance(where, bool) or not text.isdecimal() or int(text) >= count:
        raise UsageError(f"`device_map` puts {quoted(name, 80)} on {quoted(where, 40)}, and there are {count} cards.")
    return int(text)


def trace_cards(
    workload: Workload,
    built: BuiltModel,
    bare: nn.Module,
    recipe: Recipe,
    platform: Platform,
    launch: DeviceMap,
    *,
    is_packed: bool = False,
    results: Results | None = None,
    states: list[Any] | None = None,
    assumed: set[str] | None = None,
) -> list[list[Event]]:
    """Return the tapes of all steps of a resolved `recipe`, one for each card; the model is changed.

    `bare` is the model without its adapter, by which the map is made; `states` and `assumed` are as for `trace_run`.
    """
    placement = _place_modules(base_model(bare), launch, is_packed=is_packed)
    _refuse_training_on_host(workload, placement)
    tracers: list[CardTracer] = []

    def make_tracer(*args: Any, **kwargs: Any) -> CardTracer:
        tracers.append(CardTracer(*args, placement=placement, **kwargs))
        return tracers[0]

    def watch() -> contextlib.AbstractContextManager[None]:
        return _watch_cards(tracers[0], built.model)

    tape = trace_run(
        workload,
        built,
        recipe,
        platform,
        results=results,
        states=states,
        assumed=assumed,
        make_tracer=make_tracer,
        watch=watch,
        attaches_on_card=True,
    )
    cards = tracers[0].list_cards()[: len(tape)]  # what ends after the run is on no tape
    return _split_by_card(tape, cards, launch.world_size)


class CardTracer(Tracer):
    """Record the memory of a model that lies on several cards, and which card each event is on."""

    def __init__(self, *args: Any, placement: Placement, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._placement = placement
        self._card = placement.main
        self._card_of_events: list[int] = []
        self._card_of_blocks: dict[int, int] = {}
        self._workspaces_of_cards: set[tuple[str, bool, int]] = set()
        self._lent: dict[nn.Module, list[int]] = {}
        # Events of an optimizer that made a number before the state of its parameter, which lies on the same card.
        self._unplaced: list[int] = []

    def list_cards(self) -> list[int]:
        """Return the card of each event of the tape."""
        return self._card_of_events

    @contextlib.contextmanager
    def use(self, card: int) -> Iterator[None]:
        """Make the first tensors of ops on a card inside the block."""
        before, self._card = self._card, card
        try:
            yield
        finally:
            self._card = before

    def find_card(self, tensor: Tensor) -> int | None:
        """Return the card that a tensor lies on, None where it is not known."""
        block = self._blocks.get(storage_address(tensor.untyped_storage()))
        return None if block is None else self._card_of_blocks.get(block)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an op on the card of its first tensor that is more than a number."""
        if func is aten.stack.default:  # of norms, each of which is sent to the first card before
            args = ([self._send_norm(item, self.find_card(args[0][0]) or 0) for item in args[0]], *args[1:])
        found = None
        for leaf in tree_leaves((args, kwargs or {})):
            if isinstance(leaf, Tensor) and leaf.is_meta and (card := self.find_card(leaf)) is not None:
                found = card if found is None or leaf.dim() else found
                if leaf.dim():
                    break
        device = (kwargs or {}).get("device")
        if func is aten._to_copy.default and device is not None and device.index is not None:
            found = device.index
        before = len(self._card_of_events)
        with self.use(self._card if found is None or found == _HOST else found):
            result = super().__torch_dispatch__(func, types, args, kwargs)
        if self._phase is Phase.OPTIMIZER:
            if found is None:
                self._unplaced += range(before, len(self._card_of_events))
            elif self._unplaced:
                self._place_numbers(found)
        return result

    def _send_norm(self, norm: Tensor, card: int) -> Tensor:
        """Return a norm on a card; no op is seen while another one is."""
        if self.find_card(norm) in (None, card):
            return norm
        moved = self.copy(norm, card)
        with self.use(card):
            self._see(moved, "aten._to_copy.default")
        return moved

    def _place_numbers(self, card: int) -> None:
        """Put the numbers that were made before a parameter's state on its card."""
        for index in self._unplaced:
            self._card_of_events[index] = card
            self._card_of_blocks[self._events[index][1]] = card
        self._unplaced = []

    def attach(self, model: nn.Module) -> None:
        """Let modules take what they are given on their own cards, and the model return it on the first one."""
        base = base_model(model)
        kept = list_kept_in_place(base)
        on_host = _HOST in self._placement.cards.values()
        for name in self._placement.cards:
            top = base.get_submodule(name)
            for path, module in top.named_modules(prefix=name):
                if module is not top and next(module.parameters(), None) is None:
                    continue
                where = self._placement.find(path)
                card = self._placement.main if where == _HOST else where
                module.register_forward_pre_hook(self._make_hook(card, kept), with_kwargs=True)
                if where == _HOST and next(module.parameters(recurse=False), None) is not None:
                    module.register_forward_pre_hook(self._lend)
                    module.register_forward_hook(self._take_back)
        if on_host or len(set(self._placement.cards.values())) > 1:
            base.register_forward_hook(self._return_outputs)

    def send(self, value: Any, card: int, kept: frozenset[str] = frozenset()) -> Any:
        """Return a value whose tensors lie on a card: those of other cards are copied."""
        if isinstance(value, Mapping):
            return type(value)({key: item if key in kept else self.send(item, card) for key, item in value.items()})  # type: ignore[call-arg]  # a mapping's own class
        return tree_map(lambda leaf: self._send_tensor(leaf, card) if isinstance(leaf, Tensor) else leaf, value)

    def _send_tensor(self, tensor: Tensor, card: int) -> Tensor:
        if not tensor.is_meta or self.find_card(tensor) in (None, card):
            return tensor
        if tensor.is_floating_point():
            moved: Tensor = _Move.apply(tensor, self, card)  # type: ignore[no-untyped-call]  # torch leaves it untyped
            return moved
        moved = self.copy(tensor, card)
        value = self.shadows.find(tensor)
        if value is not None:
            self.shadows.set(moved, value)
        return moved

    def copy(self, tensor: Tensor, card: int) -> Tensor:
        """Return a copy of a tensor on a card."""
        with self.use(card):
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")

    def _make_hook(self, card: int, kept: frozenset[str]) -> Any:
        def take(_module: nn.Module, args: Any, kwargs: Any) -> Any:
            self._card = card
            return tuple(self.send(item, card) for item in args), self.send(kwargs, card, kept)

        return take

    def _return_outputs(self, _module: nn.Module, _args: Any, output: Any) -> Any:
        self._card = self._placement.main
        return self.send(output, self._card)

    def _lend(self, module: nn.Module, _args: Any) -> None:
        """Bring the weights of a module on the host to the card, until it has run."""
        with self.use(self._placement.main):
            blocks = [self._allocate(item.untyped_storage().nbytes(), "to device") for item in _list_own(module)]
        for block in blocks:
            self._categories.assign(block, Category.WEIGHTS)
        self._lent[module] = blocks

    def _take_back(self, module: nn.Module, _args: Any, _output: Any) -> None:
        for block in self._lent.pop(module, []):
            self._release(block)

    def _allocate(self, size: int, op: str) -> int:
        card = self._find_card_of_load() if self._phase is Phase.LOAD else self._card
        if card == _HOST:
            block = self.hold_on_host(size)
            self._sizes[block] = size
            self._card_of_blocks[block] = _HOST
            return block
        with self.use(card):
            return super()._allocate(size, op)

    def _find_card_of_load(self) -> int:
        """Return where what is loaded lies: with its module; buffers are kept on the cards."""
        module = self._modules[-1]
        return self._placement.find(module) if module else self._card

    def _release(self, block: int) -> None:
        if self._card_of_blocks.get(block) == _HOST:
            del self._sizes[block]
            self.release_from_host(block)
            return
        super()._release(block)

    def _record(self, kind: EventKind, block: int, size: int, op: str) -> None:
        super()._record(kind, block, size, op)
        if kind is EventKind.ALLOCATE:
            self._card_of_blocks[block] = self._card
        self._card_of_events.append(self._card_of_blocks.get(block, self._card))

    def _take_workspace(self, library: str, size: int) -> None:
        """Record the workspace of a handle, of which each card has its own."""
        key = (library, current_autograd_node() is not None, self._card)
        if key not in self._workspaces_of_cards:
            self._workspaces_of_cards.add(key)
            self._categories.assign(self._allocate(size, f"{library} workspace"), Category.OTHER)


class _Move(torch.autograd.Function):
    """A copy on another card, whose gradient is copied back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, tracer: CardTracer, card: int) -> Tensor:
        """Copy a tensor to a card."""
        ctx.tracer, ctx.source = tracer, tracer.find_card(tensor)
        return tracer.copy(tensor, card)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Copy its gradient back."""
        return ctx.tracer.copy(gradient, ctx.source), None, None


@contextlib.contextmanager
def _watch_cards(tracer: CardTracer, model: nn.Module) -> Iterator[None]:
    """Let what looks at devices see cards inside the block: losses, and what groups tensors by device."""
    tracer.attach(model)
    replace_cross_entropy(lambda target, source: tracer.send(target, tracer.find_card(source) or 0))
    replace_grouping(lambda tensor: tracer.find_card(tensor) or 0)
    yield


def _split_by_card(tape: list[Event], cards: list[int], count: int) -> list[list[Event]]:
    """Return the events of each card; those of the host are the first card's."""
    tapes: list[list[Event]] = [[] for _ in range(count)]
    for event, card in zip(tape, cards, strict=True):
        for number in range(count) if event.kind is EventKind.EMPTY_CACHE else (max(card, 0),):
            tapes[number].append(event)
    return tapes


def _refuse_training_on_host(workload: Workload, placement: Placement) -> None:
    """Raise NotTraceableError where weights that train wait on the host."""
    if workload.info.trains and _HOST in placement.cards.values():
        raise NotTraceableError(
            "the cards do not hold the model, and weights that `device_map` leaves on the CPU are not trained there: "
            "add cards, or shard it with `sharding=fsdp`"
        )


def _list_own(module: nn.Module) -> list[Tensor]:
    """Return the parameters of a module itself."""
    return list(module.parameters(recurse=False))

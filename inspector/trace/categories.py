"""What a block of memory is for: the only file that decides it.

Three things tell. Who owns a tensor: a parameter by its role in the census (`find_category`), a batch, an optimizer.
Where it was made: past the output projection, in a block that is computed again, in the backward pass of the loss
(`Categories.find`). And, for what none of these decides, how long it lived: what a phase made and left alive is what
the workload says that this phase keeps, and the rest were temporaries (`Categories.close`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from inspector.compat.torch import current_autograd_node, next_sequence_number, sequence_number
from inspector.records.model import Role
from inspector.records.tape import Category, Phase

__all__ = ["Categories", "find_category"]

# The phases in which a head makes logits.
_WITH_LOGITS = (Phase.FORWARD, Phase.REFERENCE, Phase.PREFILL, Phase.DECODE)
# What the norm of all gradients comes from; the norms it is made of die with the call.
_NORM = "aten.linalg_vector_norm.default"
_COPY = "aten.clone.default"
_SHARE = "aten.div.Tensor"


def find_category(role: Role) -> Category:
    """Return the category of a parameter: copies of `modules_to_save` are weights, as the modules they replace."""
    return Category.ADAPTER if role is Role.ADAPTER else Category.WEIGHTS


class Categories:
    """The category of every block of one run, as far as it is known by now.

    `trained` are the parameters whose gradients are gradients, `heads` are the modules that make logits, `kept` says
    what a block is for that a phase made and left alive. `list_cached` returns the tensors of a KV cache as they are
    now.
    """

    def __init__(
        self,
        *,
        trained: tuple[nn.Parameter, ...] = (),
        heads: tuple[nn.Module | None, ...] = (),
        kept: Mapping[Phase, Category] | None = None,
        list_cached: Callable[[], Iterable[Tensor]] | None = None,
    ) -> None:
        self._trained = trained
        self._heads = tuple(head for head in heads if head is not None)
        self._kept = kept or {}
        self._list_cached = list_cached
        self._categories: dict[int, Category] = {}
        self._input_shapes: set[torch.Size] = set()
        self._phase = Phase.LOAD
        self._is_past_head = False
        # Whether the last block is a whole number, as labels are counted in.
        self._is_counted = False
        # Autograd numbers its nodes as they are made: those from here on belong to the head and the loss.
        self._head_sequence: int | None = None

    def __getitem__(self, block: int) -> Category:
        """Return what a block is for: temporary where nothing says otherwise."""
        return self._categories.get(block, Category.TEMPORARIES)

    def take_over(self, before: Categories) -> None:
        """Keep what is known of blocks from before."""
        self._categories.update(before._categories)

    def assign(self, block: int, category: Category, tensor: Tensor | None = None) -> None:
        """Say what a block is for, and which tensor it holds."""
        self._categories[block] = category
        if category is Category.INPUTS and tensor is not None:
            self._input_shapes.add(tensor.shape)

    def enter(self, phase: Phase) -> None:
        """Begin a phase; behind a reference's pass the forward pass goes on, with the loss."""
        goes_on = self._phase is Phase.REFERENCE and phase is Phase.FORWARD and self._head_sequence is not None
        self._is_past_head = goes_on
        if phase is Phase.FORWARD and not goes_on:
            self._head_sequence = None
        self._phase = phase

    def enter_module(self, module: nn.Module) -> None:
        """Note that a module is at work."""
        if self._phase in _WITH_LOGITS and any(module is head for head in self._heads):
            self._is_past_head = True
            if self._phase is Phase.FORWARD:
                self._head_sequence = next_sequence_number()

    def find(self, block: int, tensor: Tensor, op: str, module: str) -> None:
        """Note what a new block is for where that is clear at once."""
        category = self._find(tensor, op, module)
        self._is_counted = tensor.dtype is torch.int64 and not tensor.dim()
        if category is not None:
            self._categories[block] = category

    def gradients(self) -> Iterator[Tensor]:
        """Yield the gradients that exist when a backward phase ends."""
        if self._phase is Phase.BACKWARD:
            yield from (parameter.grad for parameter in self._trained if parameter.grad is not None)

    def cached(self) -> Iterable[Tensor]:
        """Return the tensors of the KV cache, as they are when a phase ends."""
        return () if self._list_cached is None else self._list_cached()

    def close(self, alive: Iterable[int]) -> None:
        """Give the blocks that the phase made and left alive the category of what keeps them, unless they have one."""
        kept = self._kept.get(self._phase)
        if kept is not None:
            for block in alive:
                self._categories.setdefault(block, kept)

    def _find(self, tensor: Tensor, op: str, module: str) -> Category | None:
        """Return what a new block is for, None where only its lifetime says."""
        if self._phase in _WITH_LOGITS:
            if self._is_past_head:
                return Category.LOGITS_AND_LOSS
            in_layer = any(part.isdigit() for part in module.split("."))
            # A copy of an input in another dtype is no mask: images may have one channel.
            is_mask = tensor.dim() == 4 and tensor.shape[1] == 1 and tensor.shape not in self._input_shapes
            return Category.ATTENTION_MASK if is_mask and not in_layer else None
        if self._phase is Phase.BACKWARD:
            if torch.is_grad_enabled():
                return Category.ACTIVATIONS  # a checkpointed block is computed again
            node = current_autograd_node()
            if self._head_sequence is not None and node is not None and sequence_number(node) >= self._head_sequence:
                return Category.LOGITS_AND_LOSS
        if self._phase is Phase.OPTIMIZER and op == _COPY and tensor.shape in self._input_shapes:
            return Category.INPUTS  # the next batch, which comes while this one is there
        is_share = op == _SHARE and self._is_counted
        if self._phase is Phase.OPTIMIZER and (tensor.dtype is torch.int64 or op == _NORM or is_share):
            # The labels of the next batch, counted, and the norm that is logged: no optimizer keeps such integers.
            return Category.LOGITS_AND_LOSS
        if self._phase is Phase.LOAD:
            # What a loop makes before its first step: further micro-batches, and scalars for the log.
            return Category.INPUTS if tensor.dim() else Category.LOGITS_AND_LOSS
        return None

"""The values of a traced training step: the recipe, the tape of memory events, and what the tape folds to.

Part of the data dictionary, with the same rules as `inspector.records`: field names are JSON keys, sizes are
integers of bytes.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = [
    "BatchInput",
    "BlockShape",
    "Category",
    "Event",
    "EventKind",
    "MemoryPhase",
    "Peak",
    "Phase",
    "Recipe",
    "TopModule",
    "TrainingMemory",
    "Unaccounted",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one training step runs; names and defaults follow transformers' TrainingArguments.

    `batch_size` rows of `seq_len` tokens are one micro-batch; `gradient_accumulation` of them make an update. `seq_len`
    is None in the recipe of a traced step whose model takes no tokens.
    `optimizer` is a name of transformers' `optim` that `inspector.optimizer_names` knows, `optim_args` its arguments as
    `key=value,key=value`. `max_grad_norm` 0 turns clipping off. `padding` says whether the batch has padded
    rows (an attention mask then exists); None means padded when the batch is larger than 1. `loop` is whose step runs:
    "trainer" (transformers.Trainer) or "plain" (a bare PyTorch loop). `attention` is sdpa, eager or flash_attention_2,
    `sdpa_backend` which fused kernel: auto, flash, efficient, cudnn or math.

    `mixed_precision` is no, bf16 or fp16: autocast, and for fp16 a scaled loss, as TrainingArguments(bf16=, fp16=).
    `use_reentrant` is the key of gradient_checkpointing_kwargs. `use_cache` says whether the forward pass fills a KV
    cache; None is what Trainer does, which is off. `alloc_conf` holds settings of the caching allocator as
    PYTORCH_CUDA_ALLOC_CONF has them; None is what that variable says.
    """

    batch_size: int = 1
    seq_len: int | None = 1024
    gradient_accumulation: int = 1
    mixed_precision: str = "no"
    optimizer: str = "adamw_torch"
    optim_args: str | None = None
    gradient_checkpointing: bool = False
    use_reentrant: bool = False
    max_grad_norm: float = 1.0
    padding: bool | None = None
    loop: str = "trainer"
    attention: str = "sdpa"
    sdpa_backend: str = "auto"
    use_cache: bool | None = None
    alloc_conf: str | None = None


class Category(str, enum.Enum):
    """What a block of memory holds; every live block has exactly one category, which a retag may change.

    WEIGHTS: parameters of the base model, saved copies included. ADAPTER: parameters that PEFT added.
    BUFFERS: registered buffers. GRADIENTS: `.grad` of parameters. OPTIMIZER: optimizer state.
    ACTIVATIONS: made in the forward pass and kept for the backward pass.
    ATTENTION_MASK: masks and what they are expanded to. LOGITS_AND_LOSS: the output of the head and all that the
    loss makes of it. TEMPORARIES: alive within a phase only, kernel workspaces included. INPUTS: the batch.
    OTHER: persistent memory that no tensor of the model holds, such as cuBLAS workspaces.
    """

    WEIGHTS = "weights"
    ADAPTER = "adapter"
    BUFFERS = "buffers"
    GRADIENTS = "gradients"
    OPTIMIZER = "optimizer"
    ACTIVATIONS = "activations"
    ATTENTION_MASK = "attention_mask"
    LOGITS_AND_LOSS = "logits_and_loss"
    TEMPORARIES = "temporaries"
    INPUTS = "inputs"
    OTHER = "other"


class Phase(str, enum.Enum):
    """When an event happened: loading and attaching, then forward, backward and optimizer of each step."""

    LOAD = "load"
    FORWARD = "forward"
    BACKWARD = "backward"
    OPTIMIZER = "optimizer"


class EventKind(str, enum.Enum):
    """ALLOCATE makes a block, FREE ends it, RETAG changes the category of a live block, EMPTY_CACHE acts on all."""

    ALLOCATE = "allocate"
    FREE = "free"
    RETAG = "retag"
    EMPTY_CACHE = "empty_cache"


class Event(NamedTuple):
    """One event on the tape.

    `block` identifies the memory (an index that is never used again, -1 for EMPTY_CACHE), `bytes` is what was asked for
    (0 for a zero-size tensor, which takes no block). `step` is 0 for loading, then counts steps from 1. `module` is the
    path of the module at work and `op` the operation, both empty where there is none. `category` is that of the block
    from this event on; for FREE it repeats the last one. A tuple, because a tape has tens of thousands.
    """

    kind: EventKind
    block: int
    phase: Phase
    bytes: int = 0
    category: Category = Category.TEMPORARIES
    step: int = 0
    module: str = ""
    op: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPhase:
    """One phase of one step (step 0 is loading): what is held when it ends and at most during it.

    `peak_allocated_bytes` is what `torch.cuda.max_memory_allocated()` returns at the phase's end when peaks were reset
    at its start; likewise for reserved.
    """

    name: Phase
    step: int
    end_allocated_bytes: int
    peak_allocated_bytes: int
    end_reserved_bytes: int
    peak_reserved_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The event after which the most bytes are allocated; `breakdown` names every category and sums to the peak."""

    event_index: int
    step: int
    phase: Phase
    module: str
    op: str
    breakdown: Mapping[Category, int]

    @property
    def allocated_bytes(self) -> int:
        """Return the sum of the parts: the peak itself."""
        return sum(self.breakdown.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class TopModule:
    """A module path (empty where no module was at work) and the bytes it allocated that are alive at the peak."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockShape:
    """What rules of thumb know of a model: the sizes of its equal blocks, by the names of its configuration."""

    hidden_size: int
    layer_count: int
    head_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unaccounted:
    """Memory that a real step may take and the trace does not know; `why` says when, in a few words."""

    what: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchInput:
    """One tensor of the traced micro-batch."""

    name: str
    shape: Sequence[int]
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingMemory:
    """What two traced training steps take.

    `peak_allocated_bytes` and `peak_reserved_bytes` are what `torch.cuda.max_memory_allocated()` and
    `max_memory_reserved()` would return, over loading and both steps. `phases` are loading and the phases of the second
    step (the first has no optimizer state yet); `end_of_step_allocated_bytes` is of that step too. `platform` says for
    which GPU architecture and torch the kernels were chosen, `inputs` what a micro-batch consists of. The CUDA context
    comes on top of all figures.
    """

    recipe: Recipe
    platform: str
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    overhead_bytes: int
    overhead_source: str
    end_of_step_allocated_bytes: int
    peak: Peak
    phases: Sequence[MemoryPhase]
    top_modules: Sequence[TopModule]
    not_accounted: Sequence[Unaccounted]
    inputs: Sequence[BatchInput] | None = None

    @property
    def total_bytes(self) -> int:
        """Return what nvidia-smi would show for the process at its peak."""
        return self.peak_reserved_bytes + self.overhead_bytes

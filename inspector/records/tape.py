"""The tape: every allocation and every free of what was traced."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["MAKING", "Category", "Event", "EventKind", "Phase", "WorkloadInfo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadInfo:
    """A kind of run, such as a training step.

    `name` is that of `--workload` and, where `key` is not given, the report's key for what the run takes. `title` heads
    its section, `label` stands before its recipe on the first screen, `summary` is its line in `--help`. `module` is
    where its code is, imported when it runs. `recipe_fields` are the fields of a `Recipe` that change it, `phases` its
    phases with what they are called, `note` which steps those are. `kept` says what a block is for that a phase made
    and left alive. `sized_until` is the first phase whose blocks do not depend on the batch size and the sequence
    length: a trace of the phases before it is enough for another size; None where all of them depend on it. `trains`
    tells whether weights are updated, so that an adapter and an optimizer mean something. `generates` tells whether
    tokens are chosen that later steps read; the state of the run is then a cache of keys and values, other ones after
    each step.
    """

    name: str
    title: str
    label: str
    summary: str
    module: str
    recipe_fields: frozenset[str]
    phases: Mapping[Phase, str]
    note: str
    kept: Mapping[Phase, Category]
    sized_until: Phase | None = None
    trains: bool = False
    generates: bool = False
    key: str = ""

    @property
    def report_key(self) -> str:
        """Return the key of the report for what the run takes."""
        return self.key or self.name


class Category(str, enum.Enum):
    """What a block of memory holds; every block has exactly one category, from its first event to its last.

    WEIGHTS: parameters of the base model, saved copies included. ADAPTER: parameters that PEFT added.
    BUFFERS: registered buffers. GRADIENTS: `.grad` of parameters. OPTIMIZER: optimizer state.
    ACTIVATIONS: made in the forward pass and kept for the backward pass. KV_CACHE: keys, values and states of the
    tokens so far, which generation keeps. GATHERED: parameters of a rank that are whole for as long as they are used.
    COMMUNICATION: what collectives send and receive.
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
    KV_CACHE = "kv_cache"
    GATHERED = "gathered"
    COMMUNICATION = "communication"
    ATTENTION_MASK = "attention_mask"
    LOGITS_AND_LOSS = "logits_and_loss"
    TEMPORARIES = "temporaries"
    INPUTS = "inputs"
    OTHER = "other"


class Phase(str, enum.Enum):
    """When an event happened: loading and attaching, then forward, backward and optimizer of each step.

    GENERATE: answers are sampled before the forward pass. REFERENCE: a pass beside the forward pass without gradients,
    which a preference is measured by.
    Of a generation the prompt goes through the model in PREFILL, and each further token in a step of DECODE.
    """

    LOAD = "load"
    GENERATE = "generate"
    REFERENCE = "reference"
    FORWARD = "forward"
    BACKWARD = "backward"
    OPTIMIZER = "optimizer"
    PREFILL = "prefill"
    DECODE = "decode"


class EventKind(str, enum.Enum):
    """ALLOCATE makes a block, FREE ends it, EMPTY_CACHE is `torch.cuda.empty_cache()` and names no block.

    HOST_ALLOCATE and HOST_FREE are of blocks in host memory, which the allocator of the GPU does not see.
    """

    ALLOCATE = "allocate"
    FREE = "free"
    EMPTY_CACHE = "empty_cache"
    HOST_ALLOCATE = "host_allocate"
    HOST_FREE = "host_free"


# The kinds of events that make a block.
MAKING = frozenset((EventKind.ALLOCATE, EventKind.HOST_ALLOCATE))


class Event(NamedTuple):
    """One event on the tape.

    `block` identifies the memory (an index that is never used again, -1 for EMPTY_CACHE), `bytes` is what was asked for
    (0 for a zero-size tensor, which takes no block). `step` is 0 for loading, then counts steps from 1. `module` is the
    path of the module at work and `op` the operation, both empty where there is none. `category` is what the block is
    for, the same in all its events: a tape is written when it is over and what became of each block is known. `stream`
    is the CUDA stream that the block is asked for on, 0 for the default one. A tuple, because a tape has tens of
    thousands.
    """

    kind: EventKind
    block: int
    phase: Phase
    bytes: int = 0
    category: Category = Category.TEMPORARIES
    step: int = 0
    module: str = ""
    op: str = ""
    stream: int = 0

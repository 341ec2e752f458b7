"""What a tape folds to, and bytes that need no tape."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from inspector.records.recipe import Recipe
from inspector.records.steps.ranks import Ranks
from inspector.records.tape import Category, Phase, WorkloadInfo

__all__ = [
    "ACTIVATION_RULES",
    "BatchInput",
    "BlockShape",
    "CacheFacts",
    "CacheLayers",
    "CacheTensor",
    "ContextPoint",
    "CurvePoint",
    "LayerKind",
    "MemoryPhase",
    "Peak",
    "RunMemory",
    "StaticBytes",
    "StaticRecipe",
    "Textbook",
    "TextbookDifference",
    "TextbookRule",
    "TopModule",
    "Unaccounted",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPhase:
    """One phase of one step (step 0 is loading): what is held when it ends and at most during it.

    `peak_allocated_bytes` is what `torch.cuda.max_memory_allocated()` returns at the phase's end when peaks were reset
    at its start; likewise for reserved. Of a generation `module` and `op` say where that is: None elsewhere, or where
    the phase starts with its peak.
    """

    name: Phase
    step: int
    end_allocated_bytes: int
    peak_allocated_bytes: int
    end_reserved_bytes: int
    peak_reserved_bytes: int
    module: str | None = None
    op: str | None = None


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


class LayerKind(str, enum.Enum):
    """What a layer keeps of the tokens so far.

    FULL: keys and values of all. SLIDING: of the last ones, as many as its window has, less one. CHUNKED: of those in
    its chunk. LATENT: one compressed vector a token for all heads, and its rotary part (MLA). INDEXED: keys, values and
    what an indexer finds them by. STATE: a state of fixed size (linear attention, state spaces, convolutions).
    STATE_AND_FULL: a state, and keys and values of all tokens. CROSS: keys and values of the encoder's tokens.
    """

    FULL = "full"
    SLIDING = "sliding"
    CHUNKED = "chunked"
    LATENT = "latent"
    INDEXED = "indexed"
    STATE = "state"
    STATE_AND_FULL = "state_and_full"
    CROSS = "cross"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheTensor:
    """A tensor of a layer's cache at the end, of all sequences. `grows` tells whether it has a row for each token."""

    name: str
    shape: Sequence[int]
    dtype: str
    grows: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLayers:
    """Layers that keep the same: how many, and the tensors of one.

    `bytes_per_token` is what a token of a sequence takes in one layer while no window is full, `fixed_bytes` what all
    sequences take there whatever their length, `window` the most tokens that are kept, None for all.
    """

    kind: LayerKind
    count: int
    tensors: Sequence[CacheTensor]
    bytes_per_token: int
    fixed_bytes: int
    window: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFacts:
    """What a generation keeps of the tokens so far.

    `cache_class` is transformers' class. `bytes_per_token` is what one more token of a sequence takes while no window
    is full; cross attention does not grow and is left out. `at_end_bytes` is what all sequences hold after the last
    step.
    """

    cache_class: str = field(metadata={"key": "class"})
    bytes_per_token: int
    at_end_bytes: int
    layers: Sequence[CacheLayers]

    def lengthen(self, tokens: int, batch_size: int) -> CacheFacts:
        """Return what the cache holds when it has rows of so many tokens more; those of the encoder stay."""
        layers = []
        for item in self.layers:
            grows = item.kind is not LayerKind.CROSS
            tensors = [
                dataclasses.replace(tensor, shape=(*tensor.shape[:-2], tensor.shape[-2] + tokens, tensor.shape[-1]))
                if grows and tensor.grows
                else tensor
                for tensor in item.tensors
            ]
            layers.append(dataclasses.replace(item, tensors=tensors))
        at_end_bytes = self.at_end_bytes + tokens * batch_size * self.bytes_per_token
        return dataclasses.replace(self, at_end_bytes=at_end_bytes, layers=layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """A step of a generation: how many tokens are chosen when it ends, and what is allocated and reserved then.

    `peak_allocated_bytes` is the most that was allocated during it.
    """

    new_tokens: int
    peak_allocated_bytes: int
    end_allocated_bytes: int
    reserved_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextPoint:
    """What a generation takes with prompts of another length; None where it cannot run or be traced, as `reason` says.

    `total_bytes` is reserved bytes with the CUDA context, on the first card that was named, `fits` whether it fits it.
    """

    prompt_len: int
    peak_allocated_bytes: int | None = None
    total_bytes: int | None = None
    fits: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowMedia:
    """What each row of a batch holds beside text: `count` images, videos or sounds (`kind`) of so many `tokens`."""

    kind: str
    count: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WithoutGradient:
    """Trained parameters that the step gives no gradient: their names, folded over layers, and what they are."""

    name: str
    parameters: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMemory:
    """What a run takes, such as two training steps.

    `peak_allocated_bytes` and `peak_reserved_bytes` are what `torch.cuda.max_memory_allocated()` and
    `max_memory_reserved()` would return, over loading and both steps. `phases` are loading and the phases of the second
    step (the first has no optimizer state yet); `end_of_step_allocated_bytes` is of that step too. `platform` says for
    which GPU architecture and torch the kernels were chosen, `inputs` what a micro-batch consists of, `media` what its
    rows hold beside text, `without_gradient` which trained parameters get none. The CUDA context comes on top
    of all figures. `limit_bytes` is what the allocator has on the card, where cached blocks have to be
    given back for the run to fit: all figures are those under it. None where they are those of a device without an end.
    `host_bytes` is the most that waits in host memory at a time, None where nothing does.
    `workload` says what ran, `defaults` names the fields of the recipe that have their default. `upper_bound` says why
    the figures are more than what really runs takes, `lower_bound` why they are less, None where they are not. `curve`
    is a generation over its tokens, at powers of two and at the end. `ranks` says which of several ranks all figures
    are of, None where one card has the whole run.
    """

    workload: WorkloadInfo
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
    defaults: Sequence[str] = ()
    limit_bytes: int | None = None
    upper_bound: str | None = None
    lower_bound: str | None = None
    host_bytes: int | None = None
    inputs: Sequence[BatchInput] | None = None
    media: RowMedia | None = None
    without_gradient: Sequence[WithoutGradient] | None = None
    curve: Sequence[CurvePoint] | None = None
    ranks: Ranks | None = None

    @property
    def total_bytes(self) -> int:
        """Return what nvidia-smi would show for the process at its peak."""
        return self.peak_reserved_bytes + self.overhead_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticRecipe:
    """Bytes of one recipe that follow from counts and dtypes alone: no activations, no workspace, no context.

    `frozen_bytes` are weights that are not trained, `trained_bytes` weights that are; gradients and optimizer state
    belong to the latter.
    """

    frozen_bytes: int
    trained_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    buffers_bytes: int

    @property
    def total_bytes(self) -> int:
        """Return the sum of the parts."""
        return self.frozen_bytes + self.trained_bytes + self.gradients_bytes + self.optimizer_bytes + self.buffers_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticBytes:
    """Static bytes of full fine-tuning and, where an adapter was asked for, of training the adapter."""

    optimizer: str
    full: StaticRecipe
    adapter: StaticRecipe | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextbookDifference:
    """One cause of the difference between a rule and the exact bytes; `bytes` is exact minus rule."""

    cause: str
    bytes: int


# Names of the rules that say something of activations alone; the others are of what is held throughout.
ACTIVATION_RULES = ("activations", "activations, as quoted")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextbookRule:
    """A rule of thumb beside the exact figure; `differences` add up to `exact_bytes - bytes`."""

    name: str
    formula: str
    bytes: int
    source: str
    exact_bytes: int
    differences: Sequence[TextbookDifference] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Textbook:
    """The rules of thumb that apply to the request."""

    rules: Sequence[TextbookRule]

"""The values that describe stored weights: what a source holds, what loading takes of it, and how it fits the model.

Part of the data dictionary, with the same rules as `inspector.records`: field names are JSON keys, sizes are integers
of bytes, counts are integers of elements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = [
    "CheckpointFacts",
    "Comparison",
    "FormatComparison",
    "FormatDifference",
    "LeftOut",
    "LoadCost",
    "NamedTensors",
    "ShapeDifference",
    "StoredCheckpoint",
    "StoredFile",
    "StoredTensor",
    "StoredVariant",
]


# --- source: what is stored -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One tensor of a safetensors header: `dtype` is safetensors' name (BF16), `bytes` the length of its data."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def elements(self) -> int:
        """Return the number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One file of a repository or directory; `bytes` is its size, None where the source does not say."""

    name: str
    bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Files of one kind that `from_pretrained` does not load: "pickle", "gguf", "other files", and so on."""

    kind: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVariant:
    """Weights that are loaded only with `variant=name`; `dtypes` is elements by dtype where the headers were read."""

    name: str
    files: int
    bytes: int
    dtypes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCheckpoint:
    """What a source holds of a model's weights, as far as it says.

    `format` is that of the files that `from_pretrained` loads ("safetensors" or "pickle"), None where it would find
    none. `weights` are those files, `companions` the small ones that it downloads beside them (config.json, the index).
    `tensors` are the tensors in `weights` by name, None where no header was read. `repository_bytes` and
    `repository_files` are everything that is stored, `left_out` what of it is not loaded, by kind. `parameters` and
    `dtypes` stand in for `tensors` where only totals are known.
    """

    format: str | None = None
    weights: Sequence[StoredFile] = ()
    companions: Sequence[StoredFile] = ()
    tensors: Mapping[str, StoredTensor] | None = None
    variants: Sequence[StoredVariant] = ()
    left_out: Sequence[LeftOut] = ()
    repository_bytes: int | None = None
    repository_files: int | None = None
    parameters: int | None = None
    dtypes: Mapping[str, int] | None = None


# --- model: how it fits -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedTensors:
    """Tensors on one side only: how many, their elements, their names folded over layers (all of them in JSON)."""

    tensors: int
    parameters: int
    names: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeDifference:
    """A tensor that both sides have in different shapes; `from_pretrained` refuses to load it."""

    name: str
    stored: Sequence[int]
    model: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Names and shapes of the checkpoint beside the module tree, after transformers' own renaming and fusing.

    `not_in_model` is stored and not loaded, `not_in_checkpoint` is drawn at random when the model is loaded.
    `refusal` is why `from_pretrained` refuses the whole. `beyond_parameters` are stored elements beside the model's
    unique parameters, by reason; missing ones are negative. `fused_bytes` is the size of parameters that loading puts
    together from several stored tensors, as it fuses experts, `largest_fused_bytes` that of the largest one.
    """

    not_in_model: NamedTensors
    not_in_checkpoint: NamedTensors
    mismatched: Sequence[ShapeDifference] = ()
    refusal: str | None = None
    beyond_parameters: Mapping[str, int] = field(default_factory=dict)
    fused_bytes: int = 0
    largest_fused_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatDifference:
    """Tensors that the headers of a quantized checkpoint have and its format does not, or otherwise, or only expects.

    `names` are folded over layers, `tensors` is how many they are; all have the same dtypes and shapes. A side that
    does not have them has no dtype and no shape, and no bytes. The bytes are of all tensors.
    """

    names: Sequence[str]
    tensors: int
    expected_dtype: str | None = None
    expected_shape: Sequence[int] | None = None
    expected_bytes: int = 0
    stored_dtype: str | None = None
    stored_shape: Sequence[int] | None = None
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatComparison:
    """The headers of a quantized checkpoint beside the tensors that its format makes of the model.

    `stored_bytes` is `expected_bytes` and `varying_bytes`, the size of texts whose length depends on data, and what the
    `differences` say.
    """

    method: str
    expected_bytes: int
    stored_bytes: int
    varying_bytes: int = 0
    differences: Sequence[FormatDifference] = ()


# --- the report -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadCost:
    """What one call of `from_pretrained` takes at most: `host_bytes` of main memory, `gpu_bytes` or None for no GPU.

    `way` is "default", "low_memory" or "device_map"; `call` is what the user writes. `gpu_bytes` of the first two is
    what the model takes once it is moved there.
    """

    way: str
    call: str
    host_bytes: int
    gpu_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFacts:
    """The stored weights of the inspected model; what the source does not say is None.

    `bytes`, `files` and `largest_file_bytes` are of the weight files that `from_pretrained` downloads by default,
    `download_bytes` adds the small files that come with them. `tensors`, `tensor_bytes`, `dtypes` (elements by
    safetensors dtype) and `parameters` (their sum) come from the headers. `beyond_parameters` adds up to `parameters`
    minus P; what is left over is `unexplained`. `weights` are the files themselves. `by_format` sets the headers of a
    quantized checkpoint beside its format.
    """

    format: str | None = None
    bytes: int | None = None
    files: int | None = None
    largest_file_bytes: int | None = None
    weights: Sequence[StoredFile] | None = None
    download_bytes: int | None = None
    repository_bytes: int | None = None
    repository_files: int | None = None
    left_out: Sequence[LeftOut] | None = None
    variants: Sequence[StoredVariant] | None = None
    tensors: int | None = None
    tensor_bytes: int | None = None
    dtypes: Mapping[str, int] | None = None
    parameters: int | None = None
    beyond_parameters: Mapping[str, int] | None = None
    not_in_model: NamedTensors | None = None
    not_in_checkpoint: NamedTensors | None = None
    mismatched: Sequence[ShapeDifference] | None = None
    by_format: FormatComparison | None = None
    loading: Sequence[LoadCost] | None = None

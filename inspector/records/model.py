"""What the model stage finds: files -> meta model -> counts."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inspector.records.checkpoint import Comparison, FormatComparison
from inspector.records.diffusion import Component
from inspector.records.notice import Notice
from inspector.records.source import Published, ServedFrom

__all__ = [
    "AdapterFacts",
    "Census",
    "Counted",
    "MatchedNames",
    "ModelFacts",
    "QuantizationFacts",
    "Role",
    "TensorKind",
    "TreeRow",
]


class Role(str, enum.Enum):
    """What a parameter is for; every unique parameter has exactly one role.

    EMBEDDING: token, position, type and patch embeddings, class tokens.
    ATTENTION: projections, biases and parameters of attention, linear attention included.
    MLP: feed-forward blocks, routers and shared experts included.
    EXPERTS: routed experts, of which a token uses some only.
    NORM: normalisation weights and biases, wherever they sit.
    LM_HEAD: the output projection when it is not tied to the embedding.
    VISION, AUDIO: the tower of that kind in a model that also has a text part, its projector included.
    OTHER: whatever else, such as state-space mixers, poolers and classification heads.
    ADAPTER: what PEFT adds and trains or keeps for the adapter.
    SAVED_COPIES: the copies that PEFT's `modules_to_save` makes.
    """

    EMBEDDING = "embedding"
    ATTENTION = "attention"
    MLP = "mlp"
    EXPERTS = "experts"
    NORM = "norm"
    LM_HEAD = "lm_head"
    VISION = "vision"
    AUDIO = "audio"
    OTHER = "other"
    ADAPTER = "adapter"
    SAVED_COPIES = "saved_copies"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Which model was inspected. `model_class` is the transformers class, printed as `class` in JSON."""

    id: str
    revision: str | None = None
    model_class: str = field(metadata={"key": "class"})
    model_type: str
    dtype: str
    source: ServedFrom
    adapter_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeRow:
    """One row of the module tree, in definition order.

    `name` is the dotted path, with identical neighbours folded into a range (`model.layers.0-63`), `depth` its level
    (0 is the model itself) and `repeat` how many modules the row stands for. `count`, `trainable` and `bytes` add up
    over all of them; `count` is the number of unique parameters that are counted at this row or below it.
    `shared_with` names the first owner of a parameter that the row holds but does not count again.
    """

    name: str
    type: str
    depth: int
    repeat: int = 1
    count: int
    trainable: int
    bytes: int
    shared_with: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """The parameters of a model, each counted once by identity, tied ones included.

    `base` is the count before the adapter (P), `total` after it, `trainable` is P_a. `groups` splits `total` by role.
    `active` is what one token uses of an expert model, without the adapter. `dtypes` is bytes by dtype of all
    parameters; `buffers` is the number of elements in buffers and `buffer_bytes` their size. `tied` lists the names
    that share one parameter.
    """

    base: int
    total: int
    trainable: int
    buffers: int
    buffer_bytes: int
    active: int | None = None
    groups: Mapping[Role, int]
    dtypes: Mapping[str, int]
    trainable_dtypes: Mapping[str, int]
    tied: Sequence[Sequence[str]] = ()
    tree: Sequence[TreeRow] = ()
    published: Published | None = None

    @property
    def frozen(self) -> int:
        """Return the number of parameters that are not trained."""
        return self.total - self.trainable

    @property
    def bytes(self) -> int:
        """Return the size of all parameters, buffers left out."""
        return sum(self.dtypes.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedNames:
    """Names asked for (`targets`, `modules_to_save`) and what they hit.

    `matched` are full module or parameter paths, folded over layers (`model.layers.0-63.mlp.up_proj`),
    `matched_count` is the number of modules behind them, `unmatched` are the names that hit nothing.
    """

    matched: Sequence[str]
    matched_count: int
    unmatched: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFacts:
    """The adapter as PEFT attached it.

    `file_bytes` is the size of adapter_model.safetensors as PEFT would save it, None where that depends on values.
    `autocast_adapter_dtype` is what `get_peft_model` was asked for, `dtype` what a trainer cast the adapter to
    afterwards (a name of `AdapterDtype`); None where the adapter was attached elsewhere.
    """

    type: str
    config: Mapping[str, Any]
    targets: MatchedNames | None = None
    modules_to_save: MatchedNames | None = None
    file_bytes: int | None = None
    autocast_adapter_dtype: bool | None = None
    dtype: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationFacts:
    """The base weights in quantized form: which they are, and what they weigh.

    `method` is nf4, fp4 or int8 of bitsandbytes, or the method that the checkpoint declares; `source` says who asked
    for it: "request" or "checkpoint". `modules` are the converted layers, folded, `kept` the linear layers that stay in
    float. `parameters` is the number of quantized weights, `weight_bytes` their packed size and `scale_bytes` all that
    is kept to unpack them; `kept_bytes` are the remaining parameters as they are loaded. `stored_bytes` is the size of
    all tensors of a checkpoint in this format, which no file holds where it was asked for on loading; None also where
    it depends on data. None where no rule is known for the format. `dequantized_bytes` is the size of all parameters in
    the dtype of the model. `compute_dtype` is the dtype of products. `trains` says whether an adapter can be trained on
    the quantized weights as they are, `preparation` what happens to them before (a name of `Preparation`, None without
    an adapter), `note` what else there is to know. `traced_packed` is true where the step is traced on the
    packed weights of a checkpoint in another format than bitsandbytes', None elsewhere.
    """

    method: str
    source: str
    compute_dtype: str | None = None
    double_quant: bool | None = None
    modules: Sequence[str] | None = None
    modules_count: int | None = None
    kept: Sequence[str] | None = None
    parameters: int | None = None
    weight_bytes: int | None = None
    scale_bytes: int | None = None
    kept_bytes: int | None = None
    stored_bytes: int | None = None
    dequantized_bytes: int
    trains: bool | None = None
    preparation: str | None = None
    note: str | None = None
    traced_packed: bool | None = None

    @property
    def loaded_bytes(self) -> int | None:
        """Return the size of all parameters as they are loaded, where the format is known."""
        if self.weight_bytes is None or self.scale_bytes is None or self.kept_bytes is None:
            return None
        return self.weight_bytes + self.scale_bytes + self.kept_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorKind:
    """What decides which state an optimizer keeps for a parameter.

    8-bit ones tell the weights of embeddings apart, Muon and Adam-mini go by `name`, which is that of the parameter
    without the numbers of layers, and Adam-mini by the weights of a head, 0 where a model has none.
    """

    dtype: str
    shape: tuple[int, ...]
    is_embedding: bool
    name: str = "weight"
    head_elements: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What the model stage hands on: everything that follows from the module tree alone.

    `base_dtypes` is bytes by dtype of the base model before the adapter, `base_buffer_bytes` the size of its buffers,
    `base_frozen_dtypes` bytes by dtype of what its class itself does not train, and `base_tensors` how many parameters
    of each kind it trains; `trained_tensors` are those that train with the adapter.
    `comparison` sets the stored tensors beside the model, where both are known,
    `by_format` those of a quantized checkpoint beside its format. `components` are the models of a pipeline.
    """

    model: ModelFacts
    census: Census
    base_dtypes: Mapping[str, int]
    base_buffer_bytes: int
    base_frozen_dtypes: Mapping[str, int] = field(default_factory=dict)
    base_tensors: Mapping[TensorKind, int] = field(default_factory=dict)
    trained_tensors: Mapping[TensorKind, int] = field(default_factory=dict)
    adapter: AdapterFacts | None = None
    quantization: QuantizationFacts | None = None
    comparison: Comparison | None = None
    by_format: FormatComparison | None = None
    components: Sequence[Component] = ()
    notices: Sequence[Notice] = ()

"""Every value that crosses a stage, in pipeline order: the project's data dictionary.

What a user sees as JSON is `Report.to_dict()`, and the field names below are its keys (docs/json.md describes them).
Counts are numbers of elements and end in `_count` or say what they count; sizes are integers of bytes and end in
`_bytes`. A field that does not apply is None here and absent from the JSON. Totals are computed from their parts.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inspector.checkpoint_records import CheckpointFacts, Comparison, FormatComparison, StoredCheckpoint
from inspector.fit_records import Search, Verdict
from inspector.training_records import MemoryPhase, Peak, Recipe, TrainingMemory

__all__ = [
    "ACTIVATION_RULES",
    "SCHEMA",
    "AdapterFacts",
    "Census",
    "Counted",
    "LoraOptions",
    "MatchedNames",
    "ModelFacts",
    "Notice",
    "Published",
    "QuantizationFacts",
    "Report",
    "Request",
    "Role",
    "ServedFrom",
    "SourceFiles",
    "StaticBytes",
    "StaticRecipe",
    "Textbook",
    "TextbookDifference",
    "TextbookRule",
    "TreeRow",
    "plain",
]

SCHEMA = "inspector/1"


class ServedFrom(str, enum.Enum):
    """Where the configuration came from.

    HUB: asked for over the network in this run (a file may still have come from the cache once its commit was known).
    CACHE: the local Hugging Face cache, with no request made or after the network failed.
    LOCAL: a file or directory on this machine, or an object of the Python API.
    BUNDLED: the catalogue that ships with the inspector.
    """

    HUB = "hub"
    CACHE = "cache"
    LOCAL = "local"
    BUNDLED = "bundled"


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
class Notice:
    """Something the user should know beside the figures. `code` is stable, kebab-case; `message` is one sentence."""

    code: str
    message: str


# --- what the user asks for -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraOptions:
    """The LoRA adapter of `--lora`, `--targets` and `--modules-to-save`; None leaves PEFT's own default."""

    r: int | None = None
    alpha: int | None = None
    dropout: float | None = None
    bias: str | None = None
    dora: bool = False
    rslora: bool = False
    targets: str | Sequence[str] | None = None
    modules_to_save: Sequence[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One inspection. `model` is what the user named, or a live object of the Python API.

    `peft` is one of: None (full fine-tuning), LoraOptions, a mapping of PEFT config fields with `peft_type`, or a live
    `peft.PeftConfig`. `quantization` is none, nf4, fp4 or int8, None what the checkpoint declares, and `double_quant`
    packs the scales of 4-bit weights too. `autocast_adapter_dtype` is that of PEFT's `get_peft_model`: whether an
    adapter in half precision becomes float32. `gpus` are names as people write them, `gpu_memory` sizes with a unit;
    the first of them decides for which GPU the step is traced. `fit` is the quantity to turn up until that GPU is full,
    `advice` whether to look for what makes the step fit a named GPU or, where it fits, for what could be turned up.
    """

    model: Any
    revision: str | None = None
    dtype: str = "auto"
    model_class: str | None = None
    trust_remote_code: bool = False
    offline: bool = False
    quantization: str | None = None
    double_quant: bool | None = None
    peft: Any = None
    autocast_adapter_dtype: bool = True
    recipe: Recipe = field(default_factory=Recipe)
    gpus: Sequence[str] = ()
    gpu_memory: Sequence[str] = ()
    fit: str | None = None
    advice: bool = True
    count_only: bool = False
    depth: int = 3


# --- source: what the user named -> files -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A count that somebody else published for the same model.

    `parameters` is a number of elements, `kind` says what was counted, `source` where it stands. `explanation` says in
    a sentence why it differs from the model's own count, where that is known.
    """

    parameters: int
    kind: str
    source: str
    explanation: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFiles:
    """What a source delivered for one model.

    `config` is the parsed config.json. `code_location` is the Hub id or directory that remote code would come from.
    `checkpoint_dtype` is the dtype of the stored weights where the config does not say it, `checkpoint` what is stored.
    `adapter_config` and `adapter_id` are set when the user named an adapter; the rest is then of its base model.
    """

    id: str
    revision: str | None = None
    served_from: ServedFrom
    config: Mapping[str, Any]
    code_location: str | None = None
    checkpoint_dtype: str | None = None
    published: Published | None = None
    adapter_config: Mapping[str, Any] | None = None
    adapter_id: str | None = None
    checkpoint: StoredCheckpoint | None = None
    notices: Sequence[Notice] = ()


# --- model: files -> meta model -> counts -----------------------------------------------------------------------------


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
    `autocast_adapter_dtype` is what `get_peft_model` was asked for, None where the adapter was attached elsewhere.
    """

    type: str
    config: Mapping[str, Any]
    targets: MatchedNames | None = None
    modules_to_save: MatchedNames | None = None
    file_bytes: int | None = None
    autocast_adapter_dtype: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationFacts:
    """The base weights in quantized form: which they are, and what they weigh.

    `method` is nf4, fp4 or int8 of bitsandbytes, or the method that the checkpoint declares; `source` says who asked
    for it: "request" or "checkpoint". `modules` are the converted layers, folded, `kept` the linear layers that stay in
    float. `parameters` is the number of quantized weights, `weight_bytes` their packed size and `scale_bytes` all that
    is kept to unpack them; `kept_bytes` are the remaining parameters as they are loaded. `stored_bytes` is the size of
    all tensors of a checkpoint in this format, which nobody stores where it was asked for on loading; None also where
    it depends on data. None where no rule is known for the format. `dequantized_bytes` is the size of all parameters in
    the dtype of the model. `compute_dtype` is the dtype of products. `trains` says whether an adapter can be trained on
    the quantized weights as they are, `note` what else there is to know.
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
    note: str | None = None

    @property
    def loaded_bytes(self) -> int | None:
        """Return the size of all parameters as they are loaded, where the format is known."""
        if self.weight_bytes is None or self.scale_bytes is None or self.kept_bytes is None:
            return None
        return self.weight_bytes + self.scale_bytes + self.kept_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What the model stage hands on: everything that follows from the module tree alone.

    `base_dtypes` is bytes by dtype of the base model before the adapter, `base_buffer_bytes` the size of its buffers,
    `base_frozen_dtypes` bytes by dtype of what its class itself does not train.
    `trainable` is the counted model itself on meta, for a step to be traced; it belongs to the inspection alone, and is
    None where the model is the caller's. `comparison` sets the stored tensors beside the model, where both are known,
    `by_format` those of a quantized checkpoint beside its format.
    """

    model: ModelFacts
    census: Census
    base_dtypes: Mapping[str, int]
    base_buffer_bytes: int
    base_frozen_dtypes: Mapping[str, int] = field(default_factory=dict)
    adapter: AdapterFacts | None = None
    quantization: QuantizationFacts | None = None
    trainable: Any = None
    comparison: Comparison | None = None
    by_format: FormatComparison | None = None
    notices: Sequence[Notice] = ()


# --- memory: counts -> bytes that need no traced step -----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticRecipe:
    """Bytes of one way to train that follow from counts and dtypes alone: no activations, no workspace, no context.

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


# --- the whole --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything one inspection found. Renderers see this and nothing else."""

    versions: Mapping[str, str]
    model: ModelFacts
    parameters: Census
    quantization: QuantizationFacts | None = None
    adapter: AdapterFacts | None = None
    checkpoint: CheckpointFacts | None = None
    static: StaticBytes | None = None
    training: TrainingMemory | None = None
    textbook: Textbook | None = None
    fit: Sequence[Verdict] | None = None
    search: Search | None = None
    warnings: Sequence[Notice] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as the JSON object of schema `inspector/1`: plain values, keys that do not apply absent."""
        return {"schema": SCHEMA, **plain(self)}

    def _repr_html_(self) -> str:
        """Show the report as a table in a notebook."""
        # The one step up the pipeline: IPython asks the object itself, and only renderers know how a report looks.
        from inspector.render.html import render_html

        return render_html(self)


# Computed values that belong to the JSON beside a record's own fields.
_COMPUTED: dict[type, tuple[str, ...]] = {
    Census: ("frozen", "bytes"),
    QuantizationFacts: ("loaded_bytes",),
    StaticRecipe: ("total_bytes",),
    TrainingMemory: ("total_bytes",),
}
# Values that only say where on the tape something was found.
_INTERNAL: dict[type, tuple[str, ...]] = {
    Peak: ("event_index", "step"),
    MemoryPhase: ("step", "end_reserved_bytes", "peak_reserved_bytes"),
}


def plain(value: Any) -> Any:
    """Turn records, enums, mappings and sequences into dicts, strings and lists, leaving out fields that are None."""
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value):
        items = [(item.metadata.get("key", item.name), getattr(value, item.name)) for item in dataclasses.fields(value)]
        items += [(name, getattr(value, name)) for name in _COMPUTED.get(type(value), ())]
        internal = _INTERNAL.get(type(value), ())
        return {key: plain(item) for key, item in items if item is not None and key not in internal}
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value

"""What the user asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inspector.checks import (
    Choice,
    check_choice,
    check_count,
    check_flag,
    check_model,
    check_names,
    check_number,
    check_text,
    describe_value,
)
from inspector.errors import UsageError
from inspector.records.engines.serving import ServingOptions
from inspector.records.fit import Quantity
from inspector.records.recipe import Recipe
from inspector.records.steps.device_map import check_device_map
from inspector.records.training_file import RequestSource

__all__ = [
    "AdapterDtype",
    "LoraBias",
    "LoraOptions",
    "Preparation",
    "QuantStorage",
    "Quantization",
    "Request",
    "Sharding",
    "WeightDtype",
]


_MOST_CONTEXTS = 16


class WeightDtype(Choice):
    """The dtype of the base weights.

    AUTO: what the checkpoint declares. FLOAT32, BFLOAT16, FLOAT16: torch's dtype of that name.
    """

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"

    @classmethod
    def aliases(cls) -> Mapping[str, str]:
        """Return the short names that trainers have for them."""
        return {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


class Quantization(Choice):
    """How bitsandbytes quantizes the base weights while they are loaded.

    NONE: not at all; weights that are stored quantized are counted in float.
    NF4, FP4: 4 bits a weight, normal or plain floating-point codes, with a scale for each 64.
    INT8: LLM.int8().
    """

    NONE = "none"
    NF4 = "nf4"
    FP4 = "fp4"
    INT8 = "int8"

    @classmethod
    def aliases(cls) -> Mapping[str, str]:
        """Return what people call 8 bits."""
        return {"8bit": "int8", "8-bit": "int8", "llm.int8": "int8"}

    @classmethod
    def unclear_names(cls) -> Mapping[str, str]:
        """Return what people call 4 bits: QLoRA's are nf4, `load_in_4bit=True` alone takes fp4."""
        return {
            name: f"{name} may be nf4, which QLoRA takes, or fp4, the default of load_in_4bit; give one of them"
            for name in ("4bit", "4-bit", "int4", "q4")
        }


class QuantStorage(Choice):
    """The dtype of the tensors that hold 4-bit weights (`bnb_4bit_quant_storage`); FSDP shards those of floats alone.

    UINT8, FLOAT16, BFLOAT16, FLOAT32: torch's dtype of that name.
    """

    UINT8 = "uint8"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"

    @classmethod
    def aliases(cls) -> Mapping[str, str]:
        """Return the short names that trainers have for them."""
        return {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


class Preparation(Choice):
    """What happens to a base with packed weights before an adapter trains on it.

    PEFT: `prepare_model_for_kbit_training`, which makes what is left in half precision float32.
    NONE: nothing, as TRL 0.26 and newer and LLaMA-Factory train.
    AXOLOTL: PEFT's, and then norms, embeddings and the head are bfloat16 again; inputs require gradients.
    """

    PEFT = "peft"
    NONE = "none"
    AXOLOTL = "axolotl"


class AdapterDtype(Choice):
    """The dtype in which what trains beside a frozen base is trained.

    AUTO: PEFT's, as `autocast_adapter_dtype` says. FLOAT32, BFLOAT16: cast to it once it is attached.
    """

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"

    @classmethod
    def aliases(cls) -> Mapping[str, str]:
        """Return the short names that trainers have for them."""
        return {"fp32": "float32", "bf16": "bfloat16"}


class LoraBias(Choice):
    """Which biases train beside a LoRA adapter, as LoraConfig's `bias`.

    NONE: none. ALL: those of the whole model. LORA_ONLY: those of the layers that carry the adapter.
    """

    NONE = "none"
    ALL = "all"
    LORA_ONLY = "lora_only"


class Sharding(Choice):
    """What of a run is sharded over several GPUs.

    ZERO1: the optimizer's state. ZERO2: gradients, too. ZERO3, FSDP (which is FSDP2) and FSDP1: weights, too.
    """

    FSDP = "fsdp"
    FSDP1 = "fsdp1"
    ZERO1 = "zero1"
    ZERO2 = "zero2"
    ZERO3 = "zero3"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraOptions:
    """A LoRA adapter in few words; None leaves PEFT's own default.

    `r`, `alpha`, `dropout`, `bias`, `dora` and `rslora` are LoraConfig's r, lora_alpha, lora_dropout, bias, use_dora
    and use_rslora, `targets` its target_modules, `exclude_targets` its exclude_modules, and `modules_to_save` has its
    name. `by_name` takes all-linear for the names of the linear layers there are, as axolotl and LLaMA-Factory list
    them: experts in one parameter are none.
    Raises UsageError where a field is not of its type, out of its range or none of its choices.
    """

    r: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    bias: LoraBias | str | None = None
    dora: bool = False
    rslora: bool = False
    targets: str | Sequence[str] | None = None
    modules_to_save: Sequence[str] | None = None
    by_name: bool = False
    exclude_targets: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Check every field; `bias` becomes a member of its enum."""
        check_flag("dora", self.dora)
        check_flag("rslora", self.rslora)
        check_flag("by_name", self.by_name)
        if self.r is not None:
            object.__setattr__(self, "r", check_count("r", self.r))
        if self.alpha is not None:
            check_number("alpha", self.alpha)
        if self.dropout is not None and check_number("dropout", self.dropout) >= 1:
            raise UsageError(f"`dropout` is {describe_value(self.dropout)}; give a number from 0 to below 1.")
        if self.bias is not None:
            object.__setattr__(self, "bias", check_choice("bias", self.bias, LoraBias))
        if self.targets is not None and not isinstance(self.targets, str):
            object.__setattr__(self, "targets", check_names("targets", self.targets, '"q_proj", "v_proj"'))
        if self.exclude_targets is not None and not isinstance(self.exclude_targets, str):
            excluded = check_names("exclude_targets", self.exclude_targets, '"router"')
            object.__setattr__(self, "exclude_targets", excluded)
        if self.modules_to_save is not None:
            saved = check_names("modules_to_save", self.modules_to_save, '"lm_head"')
            object.__setattr__(self, "modules_to_save", saved)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One inspection. `model` is what the user named, or a live object of the Python API.

    `assume_defaults` goes on where a config.json does not say how large the model is, with the defaults of its class.
    `workload` is what runs (a name of `workloads.registry`), `recipe` how. `torch` is the release of the machine that
    will run it, None the installed one.
    `peft` is one of: None (full fine-tuning), LoraOptions, a mapping of PEFT config fields with `peft_type`, or a live
    `peft.PeftConfig`. `quantization` None is what the checkpoint declares, and `double_quant` packs the scales of 4-bit
    weights too; `quant_storage` is the dtype of the tensors that hold them, None bitsandbytes' uint8.
    `autocast_adapter_dtype` is that of PEFT's `get_peft_model`: whether an adapter in half precision becomes float32;
    `adapter_dtype` says what a trainer makes of it afterwards, and `preparation` what it does to
    packed weights before. `gpus` are names as people write them, `2x4090` for two, `gpu_memory` sizes as text with a
    unit or as integers of bytes; one alone is taken for a list. The first of them decides for which GPU the step is
    traced. `gpu_count` is how many of each card one run has, `sharding` what of it is sharded over them, with
    `sharding_settings` of a file, fields of `Fsdp1` or `Fsdp2`. `device_map` puts its modules on them instead, as
    transformers' argument of that name, `tensor_parallel` cuts each layer over so many, and `expert_parallel` leaves
    each of so many its share of a layer's experts, whole. `nodes` are machines that the cards stand in, of which each
    has all shards: FSDP's hybrid strategy. `margin` is how much of a GPU is to stay free, as text or in bytes; None
    what is not known of the card. `fit` is the quantity to turn up until that GPU is full, `advice` whether to look
    for what makes the step fit a named GPU or, where it fits, for what could be turned up. `extrapolate` lets the tape
    of a deep model be worked out from those of shallow ones, and that of a long generation from short ones.
    `context` are further prompt lengths of a generation, to say what it takes with them.
    `serving` is a serving engine with its options, in the place of a step. `source` are the files that it was read
    from.

    Choices may be given as text and are members of their enums afterwards. Raises UsageError, which names the argument
    of the Python API, where a field is not of its type, out of its range or none of its choices.
    """

    model: Any
    revision: str | None = None
    dtype: WeightDtype | str = WeightDtype.AUTO
    model_class: str | None = None
    trust_remote_code: bool = False
    assume_defaults: bool = False
    offline: bool = False
    quantization: Quantization | str | None = None
    double_quant: bool | None = None
    quant_storage: QuantStorage | str | None = None
    peft: Any = None
    autocast_adapter_dtype: bool = True
    adapter_dtype: AdapterDtype | str = AdapterDtype.AUTO
    preparation: Preparation | str = Preparation.PEFT
    workload: str = "training"
    recipe: Recipe = field(default_factory=Recipe)
    torch: str | None = None
    gpus: Sequence[str] = ()
    gpu_memory: Sequence[str | int] = ()
    gpu_count: int = 1
    sharding: Sharding | str | None = None
    sharding_settings: Mapping[str, Any] | None = None
    device_map: str | Mapping[str, int | str] | None = None
    tensor_parallel: int | None = None
    expert_parallel: int | None = None
    nodes: int | None = None
    margin: str | int | None = None
    fit: Quantity | str | None = None
    advice: bool = True
    extrapolate: bool = True
    count_only: bool = False
    context: Sequence[int] = ()
    depth: int = 3
    serving: ServingOptions | None = None
    source: RequestSource | None = None

    def __post_init__(self) -> None:
        """Check every field but `peft`, whose types PEFT has; choices become members of their enums."""
        flags = ("trust_remote_code", "assume_defaults", "offline", "autocast_adapter_dtype", "advice", "count_only")
        for name in (*flags, "extrapolate"):
            check_flag(name, getattr(self, name))
        if self.double_quant is not None:
            check_flag("double_quant", self.double_quant)
        if self.revision is not None:
            check_text("revision", self.revision, '"main"')
        check_text("workload", self.workload, '"training"')
        if self.torch is not None:
            check_text("torch", self.torch, '"2.10"')
        if self.model_class is not None:
            check_text("model_class", self.model_class, '"Qwen2ForCausalLM"')
        if not isinstance(self.recipe, Recipe):
            raise UsageError(f"`recipe` is {describe_value(self.recipe)}; give a Recipe.")
        if self.serving is not None and not isinstance(self.serving, ServingOptions):
            raise UsageError(f"`serving` is {describe_value(self.serving)}; give ServingOptions.")
        checked: dict[str, object] = {
            "model": check_model(self.model),
            "dtype": check_choice("dtype", self.dtype, WeightDtype),
            "adapter_dtype": check_choice("adapter_dtype", self.adapter_dtype, AdapterDtype),
            "preparation": check_choice("preparation", self.preparation, Preparation),
            "gpus": _check_gpus(self.gpus),
            "gpu_memory": _check_sizes(self.gpu_memory),
            "gpu_count": check_count("gpu_count", self.gpu_count),
            "depth": check_count("depth", self.depth, least=0),
        }
        if self.quantization is not None:
            checked["quantization"] = check_choice("quantization", self.quantization, Quantization)
        if self.quant_storage is not None:
            checked["quant_storage"] = check_choice("quant_storage", self.quant_storage, QuantStorage)
        if self.context:
            checked["context"] = _check_context(self.context)
        if self.margin is not None:
            checked["margin"] = _check_margin(self.margin)
        if self.sharding is not None:
            checked["sharding"] = check_choice("sharding", self.sharding, Sharding)
        if self.fit is not None:
            checked["fit"] = check_choice("fit", self.fit, Quantity)
        if self.tensor_parallel is not None:
            checked["tensor_parallel"] = check_count("tensor_parallel", self.tensor_parallel, least=2)
            if self.device_map is not None:
                raise UsageError("`device_map` leaves layers whole, and `tensor_parallel` cuts them: give one of them.")
        if self.expert_parallel is not None:
            checked["expert_parallel"] = check_count("expert_parallel", self.expert_parallel, least=2)
            if self.device_map is not None:
                raise UsageError("`device_map` leaves layers whole, `expert_parallel` does not: give one of them.")
        if self.nodes is not None:
            checked["nodes"] = check_count("nodes", self.nodes)
        if self.device_map is not None:
            checked["device_map"] = check_device_map(self.device_map)
            if self.sharding is not None:
                raise UsageError("`device_map` puts each module on one card, and `sharding` on all: give one of them.")
        for name, value in checked.items():
            object.__setattr__(self, name, value)


def _check_gpus(value: Any) -> tuple[str, ...]:
    """Return the names of GPUs, given as none, one or several."""
    items = _as_tuple(value)
    for item in items:
        if not isinstance(item, str):
            raise UsageError(
                f'`gpu` is {describe_value(item)}; give a name as in `inspect gpus`, such as "4090", or a list of '
                "names."
            )
    return items


def _check_sizes(value: Any) -> tuple[str | int, ...]:
    """Return the memory sizes of GPUs, given as none, one or several."""
    items = _as_tuple(value)
    for item in items:
        if not _is_size(item):
            raise UsageError(
                f'`gpu_memory` is {describe_value(item)}; give text with a unit, such as "24GiB", an integer of bytes, '
                "or a list of these."
            )
    return items


def _check_context(value: Any) -> tuple[int, ...]:
    """Return lengths of prompts, the shortest first, each once."""
    if not isinstance(value, (list, tuple)):
        raise UsageError(f"`context` is {describe_value(value)}; give a list of lengths, as in [4096, 32768].")
    lengths = tuple(sorted({check_count("context", item) for item in value}))
    if len(lengths) > _MOST_CONTEXTS:
        raise UsageError(f"`context` has {len(lengths)} lengths, more than {_MOST_CONTEXTS}; give fewer.")
    return lengths


def _check_margin(value: Any) -> str | int:
    """Return a size of memory."""
    if not _is_size(value):
        raise UsageError(
            f'`margin` is {describe_value(value)}; give text with a unit, such as "1GiB", or an integer of bytes.'
        )
    size: str | int = value
    return size


def _is_size(value: Any) -> bool:
    """Tell whether a value can be a size of memory."""
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    """Return none, one or several as a tuple."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)

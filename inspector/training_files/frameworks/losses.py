"""What trainers do by themselves, by release: their loss, the base under an adapter, and the mask of a batch.

Sources are those of `workloads.training.lm_losses` and `model.preparation`. TRL's collator and those of LLaMA-Factory
and axolotl pad with the tokenizer, which makes a mask also where nothing is padded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inspector.records.request import AdapterDtype, Preparation
from inspector.records.training_file import Origin
from inspector.training_files.fields import LESS, Settings, Values, parse_version

__all__ = [
    "LORA_KERNELS",
    "choose_adapter_dtype",
    "choose_lora_kernels",
    "choose_trl_loss",
    "read_liger",
    "settle_axolotl_loss",
    "settle_liger",
    "settle_trl_loss",
    "settle_trl_preparation",
]

# Kernels of layers by the keys of `liger_kernel_config`; what is not named there is on.
_LAYERS = ("rope", "rms_norm", "swiglu", "geglu")
# axolotl's, by the names of `lora_mlp_kernel` and its neighbours.
LORA_KERNELS = ("mlp", "qkv", "o")
_FUSED_LOSS = "fused_linear_cross_entropy"
_FUSED, _CHUNKED = "1.15", "1.7"
# Since when TRL leaves a packed base as it is loaded, by stage.
_UNPREPARED = {"dpo": "0.29"}
_UNPREPARED_OTHERS = "0.26"
_OF_SFT = (None, "nll", "chunked_nll")


def read_liger(config: Mapping[str, Any] | None, *, has_loss: bool = True) -> dict[str, Any]:
    """Return the fields of a recipe for `use_liger_kernel` with a `liger_kernel_config`."""
    config = config or {}
    kernels = tuple(name for name in _LAYERS if config.get(name, True))
    found: dict[str, Any] = {"liger": kernels} if kernels else {}
    return found | ({"loss": "liger"} if has_loss and config.get(_FUSED_LOSS, True) else {})


def settle_liger(values: Values, settings: Settings) -> None:
    """Take Liger's kernels from TrainingArguments' fields; its plain cross-entropy is not traced."""
    settings.fields.pop("liger", None)
    config = values["liger_kernel_config"]
    if not values["use_liger_kernel"]:
        return
    settings.fields |= read_liger(config)
    if isinstance(config, dict) and config.get("cross_entropy"):
        why = "Liger's cross-entropy writes its gradient over the logits: the stock loss is traced"
        settings.miss(f"{values.spell('liger_kernel_config')}.cross_entropy", True, LESS, why, Origin.FILE)


def choose_trl_loss(version: str, loss: Any, *, has_liger: bool) -> str | None:
    """Return the loss of an SFTTrainer of a version by its `loss_type`, None where that is one that is not traced."""
    if loss not in _OF_SFT:
        return None
    if parse_version(version) >= parse_version(_FUSED):  # with Liger's layers, too
        return "fused"
    if has_liger:
        return "liger"
    is_chunked = loss == "chunked_nll" or (loss is None and parse_version(version) >= parse_version(_CHUNKED))
    return "chunked" if is_chunked else "stock"


def settle_trl_loss(values: Values, settings: Settings) -> None:
    """Take the loss of TRL's SFTTrainer, and Liger's layers."""
    settle_liger(values, settings)
    has_liger = settings.fields.pop("loss", None) == "liger"
    loss = choose_trl_loss(values.version, values["loss_type"], has_liger=has_liger)
    if settings.stage == "sft" and loss is not None:
        is_without = loss == "chunked" and values["use_liger_kernel"] and values["loss_type"] is None
        settings.fields["loss"] = "stock" if is_without else loss
        settings.silent.add("loss_type")


def settle_trl_preparation(values: Values, settings: Settings) -> None:
    """Take what TRL does to a base under an adapter, and the mask that its collator makes."""
    fields = settings.fields
    if values.is_at_least(_UNPREPARED.get(settings.stage or "sft", _UNPREPARED_OTHERS)):
        fields["preparation"] = Preparation.NONE.value
        fields["adapter_dtype"] = choose_adapter_dtype(
            "TRL", Preparation.NONE, is_packed=fields.get("quantization") is not None
        )
    is_one_row = values["padding_free"] or (values["packing"] and values["packing_strategy"] != "wrapped")
    if not is_one_row:
        fields["attention_mask"] = True


def settle_axolotl_loss(values: Values, settings: Settings) -> None:
    """Take the kernels of axolotl's plugins: fields of Liger mean nothing without its plugin."""
    fields = settings.fields
    for name in ("liger", "loss"):
        fields.pop(name, None)
    plugins = " ".join(str(plugin) for plugin in values["plugins"] or ())
    names = {"liger_rope": ("rope",), "liger_rms_norm": ("rms_norm",), "liger_glu_activation": ("swiglu", "geglu")}
    if "liger" in plugins:
        kernels = tuple(kernel for name, meant in names.items() if values[name] for kernel in meant)
        fields |= {"liger": kernels} if kernels else {}
        fields |= {"loss": "liger"} if values["liger_fused_linear_cross_entropy"] and settings.stage == "sft" else {}
    else:
        settings.silent |= {"liger_layer_norm", "liger_cross_entropy"}
        settings.ignore(values.path, _list_of_liger(values), "axolotl.integrations.liger.LigerPlugin")
    if "cut_cross_entropy" in plugins:
        if values["cut_cross_entropy"] is not False and settings.stage == "sft":
            fields["loss"] = "cce"
    elif values["cut_cross_entropy"]:
        settings.ignore(
            values.path, ["cut_cross_entropy"], "axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"
        )


def _list_of_liger(values: Values) -> list[str]:
    """Return the fields of Liger that are on, as the file spells them."""
    return [values.spell(name) for name, value in values.given.items() if name.startswith("liger_") and value]


def choose_lora_kernels(given: Mapping[str, Any], *, is_lora: bool, is_int8: bool) -> tuple[str, ...]:
    """Return axolotl's kernels for layers with LoRA where its file names none: all, or none (validation.py)."""
    is_off = any(given.get(name) for name in ("rl", "nvfp4_merge_aware", "trust_remote_code"))
    return () if is_off or is_int8 or not is_lora else LORA_KERNELS


def choose_adapter_dtype(framework: str, preparation: Preparation, *, is_packed: bool) -> AdapterDtype | None:
    """Return what a framework casts its adapters to, None where that does not hang on whether the base is packed."""
    if framework != "TRL":
        return None
    return AdapterDtype.BFLOAT16 if is_packed and preparation is Preparation.NONE else AdapterDtype.AUTO

"""What trainers do by themselves, by release: their loss, the base under an adapter, and the mask of a batch.

Sources are those of `workloads.training.lm_losses` and `model.preparation`. TRL's collator and those of LLaMA-Factory
and axolotl pad with the tokenizer, which makes a mask also where nothing is padded.
"""

from __future__ import annotations

from inspector.records.request import AdapterDtype, Preparation
from inspector.records.training_file import Origin
from inspector.training_files.fields import LESS, Settings, Values

__all__ = ["choose_adapter_dtype", "settle_trl_loss", "settle_trl_preparation"]

_FUSED, _CHUNKED = "1.15", "1.7"
# Since when TRL leaves a packed base as it is loaded, by stage.
_UNPREPARED = {"dpo": "0.29"}
_UNPREPARED_OTHERS = "0.26"
_OF_SFT = (None, "nll", "chunked_nll")
_ON_REFERENCE = ("dpo", "kto", "grpo", "rloo")


def settle_trl_loss(values: Values, settings: Settings) -> None:
    """Take the loss of TRL's SFTTrainer; of other trainers note that their head is fused."""
    loss = values["loss_type"]
    settings.fields.pop("loss", None)
    if settings.stage == "sft" and loss in _OF_SFT:
        if values.is_at_least(_FUSED):
            settings.fields["loss"] = "fused"
        elif loss == "chunked_nll" or (loss is None and values.is_at_least(_CHUNKED)):
            settings.fields["loss"] = "chunked"
        settings.silent.add("loss_type")
    elif settings.stage in _ON_REFERENCE and values.is_at_least(_FUSED):
        why = "the fused head of TRL 1.15 keeps no logits: the stock loss is traced"
        settings.miss("loss", "fused", LESS, why, Origin.DEFAULT)


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


def choose_adapter_dtype(framework: str, preparation: Preparation, *, is_packed: bool) -> AdapterDtype | None:
    """Return what a framework casts its adapters to, None where that does not hang on whether the base is packed."""
    if framework != "TRL":
        return None
    return AdapterDtype.BFLOAT16 if is_packed and preparation is Preparation.NONE else AdapterDtype.AUTO

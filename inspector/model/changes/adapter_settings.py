"""What may be asked of an adapter's dtype and of the preparation of its base."""

from __future__ import annotations

from inspector.dtypes import FOUR_BIT
from inspector.errors import UsageError
from inspector.records.request import AdapterDtype, Preparation, Request

__all__ = ["check_adapter_settings"]


def check_adapter_settings(request: Request, *, has_adapter: bool, method: str | None) -> None:
    """Refuse what is about an adapter where there is none, and one in the dtype of its base where that is in 4 bits.

    `method` is how the weights are packed. An adapter that would train beside a part of its base is refused, too.
    """
    if request.recipe.train_only is not None and has_adapter:
        raise UsageError("`train_only` is of full fine-tuning: an adapter freezes its base; drop it, or the adapter.")
    is_from_file = request.source is not None and request.source.file is not None
    given = {"adapter_dtype": request.adapter_dtype}
    if request.workload != "generate":  # which has none, with an adapter and without
        given["preparation"] = request.preparation
    for name, value in ({} if is_from_file else given).items():
        if not has_adapter and value not in (AdapterDtype.AUTO, Preparation.PEFT):
            raise UsageError(
                f"`{name}={value}` is about an adapter, and there is none: add `peft=LoraOptions(r=16)`, or drop it."
            )
    if request.autocast_adapter_dtype:
        return
    if not has_adapter:
        raise UsageError(
            "`autocast_adapter_dtype=False` is about the weights of an adapter, and there is none: add "
            "`peft=LoraOptions(r=16)`, or drop it."
        )
    if method in FOUR_BIT:
        raise UsageError(
            "adapters on 4-bit weights are counted and traced in float32 alone: drop `autocast_adapter_dtype=False`."
        )

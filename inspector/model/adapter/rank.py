"""A rank beyond what a layer can use: LoRA's product has no more rank than the smaller side of the layer."""

from __future__ import annotations

from dataclasses import dataclass

from peft import PeftModel
from peft.tuners.lora import LoraLayer

from inspector.model.depth.worded import word
from inspector.records.notice import Notice

__all__ = ["collect_rank_notices"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Beyond:
    """How many of the adapted layers have a smaller side than the rank, and one of these sides."""

    rank: str
    side: str
    beyond: int
    adapted: int

    def word(self) -> Notice:
        """Say so."""
        message = (
            f"Rank {self.rank} is beyond the smaller side of {self.beyond:,} of {self.adapted:,} adapted layers, such "
            f"as {self.side}: a product of that rank trains more parameters than the layer has, and can do no more."
        )
        return Notice(code="rank-beyond-layer", message=message)


def collect_rank_notices(model: PeftModel) -> list[Notice]:
    """Say where the rank of a LoRA adapter is beyond the smaller side of the layers that carry it."""
    found = [
        (rank, min(layer.in_features, layer.out_features))
        for layer in model.modules()
        if isinstance(layer, LoraLayer) and layer.in_features is not None and layer.out_features is not None
        for rank in layer.r.values()
    ]
    beyond = [(rank, side) for rank, side in found if rank > side]
    if not beyond:
        return []
    rank, side = max(beyond)
    return [word(_Beyond(rank=f"{rank:,}", side=f"{side:,}", beyond=len(beyond), adapted=len(found)))]

"""Which trained parameters a step gives no gradient: a tower that a batch leaves out, a copy that nothing reads.

They train in name alone: no gradient, no state of an optimizer, and no change. Which ones they are is known when a
traced backward pass is over; of a model with fewer layers than the whole one, by the names of those that are left.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from transformers import PreTrainedModel

from inspector.model.truncate import map_to_shallow
from inspector.names import group_names
from inspector.records.memory import WithoutGradient

__all__ = ["list_without_gradient"]


def list_without_gradient(
    model: PreTrainedModel, idle: AbstractSet[str], extra_periods: int | None
) -> tuple[WithoutGradient, ...]:
    """Return the parameters of a whole model that are `idle`, those of equal layers together.

    `idle` are names in what `shorten_model` makes of it with `extra_periods`, or in itself where that is None.
    """
    rename = None if extra_periods is None else map_to_shallow(model, extra_periods)
    found = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (name if rename is None else rename(name)) in idle
    }
    return tuple(
        WithoutGradient(
            name=folded,
            parameters=sum(found[name].numel() for name in names),
            bytes=sum(found[name].nbytes for name in names),
        )
        for folded, names in group_names(found)
    )

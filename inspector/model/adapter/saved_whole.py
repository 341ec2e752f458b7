"""What modules_to_save adds: PEFT trains a whole copy of each module, those of equal layers are described together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from peft import PeftModel
from peft.utils import ModulesToSaveWrapper
from torch import nn

from inspector.model.adapter.peft_names import find_saved_modules
from inspector.model.sizes import count_weights
from inspector.names import group_names
from inspector.records.notice import Notice
from inspector.units import format_count, format_share

__all__ = ["SAVED_WHOLE", "SavedWhole", "get_copies", "list_saved_whole", "word_saved_whole"]

SAVED_WHOLE = "saved-whole"


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedWhole:
    """Saved modules of equal layers: their folded name, how many there are, and the parameters of their copies."""

    name: str
    modules: int
    count: int


def list_saved_whole(model: PeftModel) -> tuple[SavedWhole, ...]:
    """Return what is saved whole."""
    saved = dict(find_saved_modules(model))
    return tuple(
        SavedWhole(
            name=folded,
            modules=len(names),
            count=sum(count_weights(parameter) for name in names for parameter in get_copies(saved[name]).parameters()),
        )
        for folded, names in group_names(saved)
    )


def word_saved_whole(saved: Sequence[SavedWhole], trainable: int) -> Iterator[Notice]:
    """Say of each what it adds to so many parameters that train."""
    for item in saved:
        what = f"{item.name} is" if item.modules == 1 else f"{item.name} ({format_count(item.modules)} modules) are"
        message = (
            f"{what} trained and saved whole: {format_count(item.count)} parameters, "
            f"{format_share(item.count, trainable)} of what is trained."
        )
        yield Notice(code=SAVED_WHOLE, message=message)


def get_copies(wrapper: ModulesToSaveWrapper) -> nn.ModuleDict:
    """Return the copies that a wrapper trains, one for each adapter."""
    copies: nn.ModuleDict = wrapper.modules_to_save
    return copies

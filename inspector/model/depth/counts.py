"""The counts of a deep model from those of two shallow ones that differ by one period of layers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from peft import PeftModel
from transformers import PreTrainedModel

from inspector.model.adapter.notices import EXPERTS_NOT_REACHED, word_unreached_experts
from inspector.model.adapter.saved_whole import SAVED_WHOLE, SavedWhole, list_saved_whole, word_saved_whole
from inspector.model.depth.adapter_file import extrapolate_adapter_file
from inspector.model.depth.records import NotPeriodicError, Periods, extrapolate_record
from inspector.model.truncate import Cut
from inspector.records.model import Counted
from inspector.records.notice import Notice
from inspector.records.request import Request

__all__ = ["extrapolate_counts", "may_count_shallow"]

_Model = PreTrainedModel | PeftModel
_NUMBER = re.compile(r"[\d,]+")


def may_count_shallow(request: Request) -> bool:
    """Tell whether the whole model is of no other use: generations and maps of devices run it."""
    return request.extrapolate and request.workload != "generate" and request.device_map is None


def extrapolate_counts(shallow: tuple[Counted, _Model], deeper: tuple[Counted, _Model], cut: Cut) -> Counted:
    """Return the counts of the whole model, from those of the shallowest one and of one with a period more.

    Raises NotPeriodicError where the two do not say it.
    """
    periods = Periods.from_cut(cut, 0)
    file_bytes = None
    if shallow[0].adapter is not None and shallow[0].adapter.file_bytes is not None:
        if not isinstance(shallow[1], PeftModel) or not isinstance(deeper[1], PeftModel):
            raise NotPeriodicError("adapter file")
        file_bytes = extrapolate_adapter_file(shallow[1], deeper[1], periods, cut.missing)
    left = [_read_unreached(item[0]) for item in (shallow, deeper)]
    counted = extrapolate_record(_drop_apart(shallow[0]), _drop_apart(deeper[0]), periods, cut.missing)
    adapter, base = counted.adapter, counted.census.base
    if adapter is not None:
        counted = dataclasses.replace(counted, adapter=dataclasses.replace(adapter, file_bytes=file_bytes))
    saved = extrapolate_record(_list_saved(shallow[1]), _list_saved(deeper[1]), periods, cut.missing)
    anew: dict[str, Iterator[Notice]] = {
        EXPERTS_NOT_REACHED: iter([word_unreached_experts(left[0] + cut.missing * (left[1] - left[0]), base)]),
        SAVED_WHOLE: word_saved_whole(*saved),
    }
    notices = tuple(next(anew[item.code]) if item.code in anew else item for item in counted.notices)
    return dataclasses.replace(counted, notices=notices)


def _list_saved(model: _Model) -> tuple[tuple[SavedWhole, ...], int]:
    """Return what of a model is saved whole, and how many parameters train."""
    if not isinstance(model, PeftModel):
        return (), 0
    return list_saved_whole(model), model.get_nb_trainable_parameters()[0]


def _drop_apart(counted: Counted) -> Counted:
    """Return counts without what is worked out apart: the size of a file, and messages with numbers.

    A share may read alike in both, and not in the whole model.
    """
    adapter = counted.adapter
    return dataclasses.replace(
        counted,
        adapter=None if adapter is None else dataclasses.replace(adapter, file_bytes=None),
        notices=tuple(
            dataclasses.replace(item, message="") if item.code in (EXPERTS_NOT_REACHED, SAVED_WHOLE) else item
            for item in counted.notices
        ),
    )


def _read_unreached(counted: Counted) -> int:
    """Return how many parameters of experts get no adapter, as the notice says that begins with their number."""
    messages = [item.message for item in counted.notices if item.code == EXPERTS_NOT_REACHED]
    match = _NUMBER.match(messages[0]) if messages else None
    return 0 if match is None else int(match[0].replace(",", ""))

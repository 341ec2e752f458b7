"""The counts of a deep model from those of two shallow ones that differ by one period of layers."""

from __future__ import annotations

import dataclasses

from peft import PeftModel
from transformers import PreTrainedModel

from inspector.model.depth.adapter_file import extrapolate_adapter_file
from inspector.model.depth.records import NotPeriodicError, Periods, extrapolate_record
from inspector.model.truncate import Cut
from inspector.records.model import Counted
from inspector.records.request import Request

__all__ = ["extrapolate_counts", "may_count_shallow"]

_Model = PreTrainedModel | PeftModel


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
    counted = extrapolate_record(_drop_file(shallow[0]), _drop_file(deeper[0]), periods, cut.missing)
    adapter = counted.adapter
    if adapter is None:
        return counted
    return dataclasses.replace(counted, adapter=dataclasses.replace(adapter, file_bytes=file_bytes))


def _drop_file(counted: Counted) -> Counted:
    """Return counts without the size of the adapter's file, which is worked out apart."""
    adapter = counted.adapter
    if adapter is None:
        return counted
    return dataclasses.replace(counted, adapter=dataclasses.replace(adapter, file_bytes=None))

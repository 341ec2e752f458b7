"""What Python hands over for a serving engine -> its options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from inspector.checks import check_keys, describe_value
from inspector.errors import UsageError
from inspector.records.engines.serving import Engine, ServingOptions

__all__ = ["read_serving"]


def read_serving(serving: Any) -> ServingOptions | None:
    """Return the engine and its options, given as a record or as a mapping of its fields; None asks for none."""
    if serving is None or isinstance(serving, ServingOptions):
        return serving
    if not isinstance(serving, Mapping):
        raise UsageError(
            f"`serving` is {describe_value(serving)}; give ServingOptions, or a mapping of its fields, such as "
            '{"engine": "vllm"}.'
        )
    check_keys("serving", serving, [item.name for item in dataclasses.fields(ServingOptions)])
    if "engine" not in serving:
        raise UsageError(f"`serving` names no engine; add `engine`, one of {', '.join(Engine.values())}.")
    return ServingOptions(**serving)

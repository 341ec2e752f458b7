"""A traced run with what its allocator is to do: enough to look at every moment of it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inspector.memory.allocator.settings import AllocatorSettings
from inspector.records.tape import Event

__all__ = ["Recording"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """The tape of a run, the settings of its allocator, and the memory that it has, None for no end.

    Replayed so it gives the figures of the report that was made beside it.
    """

    tape: Sequence[Event]
    settings: AllocatorSettings | None = None
    limit_bytes: int | None = None
    descending_addresses: bool = False

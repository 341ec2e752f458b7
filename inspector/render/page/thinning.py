"""A long run with fewer events: what comes and goes between two moments is left out, the moments themselves are exact.

The events are taken in groups of a few. Of each group two moments are kept: the one at which the most is allocated, and
its end. Blocks that are made and freed between two such moments are left out, so that less than what really lived may
be shown in between, and never more. What is left goes through the same again in groups twice as large, until few enough
events are left; all of a run goes through it equally often. The peak of the run is the largest moment of its group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

__all__ = ["Noted", "Thinner"]

_FIRST_GROUP = 8
_BATCH = 20_000


class Noted(NamedTuple):
    """An event as it is drawn.

    `block` is a number of its own for each block, `change` what the event adds to what is allocated, less than 0 where
    the block ends and 0 where what is cached is given back. `kind` is what the block takes and is for, `pair` what is
    at work, `stretch` the step and phase, `reserved` what is reserved after it; `is_peak` marks the peak of the run.
    """

    block: int
    change: int
    kind: int
    pair: int
    stretch: int
    reserved: int
    is_peak: bool


class Thinner:
    """Collects the events of a run and keeps about as many of them as there may be."""

    def __init__(self, limit: int) -> None:
        self.count = 0
        self._limit = limit
        self._most = 2 * limit  # that are held until another sieve is due
        self._sieves: list[_Sieve] = []
        self._new: list[Noted] = []
        self._kept: list[Noted] = []

    def add(self, event: Noted) -> None:
        """Take in the next event."""
        self._new.append(event)
        if len(self._new) == _BATCH:
            self._sift()

    def list_events(self) -> Sequence[Noted]:
        """Return the events that are kept: all where there are no more than the limit."""
        self._sift()
        for place, sieve in enumerate(self._sieves):
            left = sieve.empty()
            for other in self._sieves[place + 1 :]:
                left = other.send(left)
            self._kept += left
        while len(self._kept) > self._limit and _FIRST_GROUP << len(self._sieves) <= 2 * len(self._kept):
            self._add_sieve()
            self._kept += self._sieves[-1].empty()
        return self._kept

    def _sift(self) -> None:
        """Send the new events through the sieves; add one where too many are left."""
        self.count += len(self._new)
        left, self._new = self._new, []
        for sieve in self._sieves:
            left = sieve.send(left)
        self._kept += left
        if len(self._kept) > self._most:
            self._add_sieve()
            self._most = max(2 * self._limit, 2 * len(self._kept))

    def _add_sieve(self) -> None:
        """Send what is kept through one sieve more, and what is to come, too."""
        sieve = _Sieve(_FIRST_GROUP << len(self._sieves))
        self._kept = sieve.send(self._kept)
        self._sieves.append(sieve)


class _Sieve:
    """Leaves out what comes and goes within groups of so many events."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._rest: list[Noted] = []

    def send(self, events: list[Noted]) -> list[Noted]:
        """Return what is left of the groups that events fill; the others wait for more."""
        events = self._rest + events
        end = len(events) - len(events) % self._size
        self._rest = events[end:]
        return [kept for first in range(0, end, self._size) for kept in _sift_group(events[first : first + self._size])]

    def empty(self) -> list[Noted]:
        """Return what is left of the events that wait."""
        events, self._rest = self._rest, []
        return list(_sift_group(events))


def _sift_group(group: Sequence[Noted]) -> Iterator[Noted]:
    """Yield what lasts of a group, as far as its largest moment and from there on."""
    for part in _split_at_most(group):
        yield from _keep_lasting(part)


def _split_at_most(group: Sequence[Noted]) -> tuple[Sequence[Noted], Sequence[Noted]]:
    """Return a group up to where the most is allocated in it, and the rest."""
    now = most = 0
    place = 0
    for index, event in enumerate(group):
        now += event.change
        if event.is_peak:
            place = index + 1
            break
        if now > most:
            most, place = now, index + 1
    return group[:place], group[place:]


def _keep_lasting(part: Sequence[Noted]) -> Iterator[Noted]:
    """Yield the events of blocks that live before the part or after it; the next one has the most that was reserved."""
    freed = {event.block for event in part if event.change < 0}
    passing = {event.block for event in part if event.change > 0 and event.block in freed}
    reserved = 0
    for event in part:
        reserved = max(reserved, event.reserved)
        if event.block not in passing:
            yield event._replace(reserved=reserved) if reserved != event.reserved else event
            reserved = 0

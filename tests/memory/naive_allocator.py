"""The rules of the caching allocator written down a second time, with lists and linear scans only.

Nothing is shared with `inspector.memory`: a disagreement shows a slip in one of the two. A stretch is
[bytes, state, number], with `number` naming the request that holds it; a segment is a list of stretches in order.
"""

from __future__ import annotations

import math

KIB, MIB = 1024, 1024 * 1024
FREE, USED, UNMAPPED = "free", "used", "unmapped"
Segment = list[list[object]]


class NaiveAllocator:
    """Plain or expandable segments, an optional limit, and the default rounding."""

    def __init__(self, *, expandable: bool = False, max_split: float = math.inf, limit: float = math.inf) -> None:
        self.expandable = expandable
        self.max_split = max_split
        self.limit = limit
        # By pool: small is True. An expandable pool is one endless segment.
        endless = 1 << 60
        self.pools: dict[bool, list[Segment]] = {
            small: [[[endless, UNMAPPED, -1]]] if expandable else [] for small in (True, False)
        }

    def total(self, *states: str) -> int:
        """Return the bytes of all stretches in one of `states`."""
        stretches = [one for pool in self.pools.values() for segment in pool for one in segment]
        return sum(size(one) for one in stretches if one[1] in states)

    def allocate(self, number: int, request: int) -> bool:
        """Serve a request; return False if memory ran out."""
        wanted = max(1, math.ceil(request / 512)) * 512
        small = wanted <= MIB
        found = self._best(small, wanted) or self._grow(small, wanted)
        if found is None:
            self.empty_cache()
            found = self._grow(small, wanted)
        if found is None:
            return False
        segment, index = found
        rest = size(segment[index]) - wanted
        keep = rest >= 512 if small or self.expandable else wanted < self.max_split and rest > MIB
        segment[index : index + 1] = (
            [[wanted, USED, number], [rest, FREE, -1]] if keep else [[wanted + rest, USED, number]]
        )
        return True

    def free(self, number: int) -> None:
        """Free the stretch of a request."""
        for pool in self.pools.values():
            for segment in pool:
                for one in segment:
                    if one[1] == USED and one[2] == number:
                        one[1] = FREE
                join(segment)

    def empty_cache(self) -> None:
        """Release what is wholly free."""
        for small, pool in self.pools.items():
            if self.expandable:
                unmap(pool[0], 2 * MIB if small else 20 * MIB)
            else:
                pool[:] = [segment for segment in pool if [one[1] for one in segment] != [FREE]]

    def _best(self, small: bool, wanted: int) -> tuple[Segment, int] | None:
        """Return the smallest free stretch that fits, the first among equals."""
        fitting = [
            (size(one), order, index, segment)
            for order, segment in enumerate(self.pools[small])
            for index, one in enumerate(segment)
            if one[1] == FREE and size(one) >= wanted
        ]
        fitting.sort(key=lambda entry: entry[:3])
        if not fitting:
            return None
        best = fitting[0]
        if self.expandable:
            for entry in fitting[1:]:
                if reach(entry[3], entry[2]) >= reach(best[3], best[2]):
                    break
                best = entry
        if wanted < self.max_split <= best[0]:
            return None
        if wanted >= self.max_split and best[0] >= wanted + 20 * MIB:
            return None
        return best[3], best[2]

    def _grow(self, small: bool, wanted: int) -> tuple[Segment, int] | None:
        """Return a new segment, or the stretch that new pages make."""
        if self.expandable:
            return self._map(self.pools[small][0], wanted, 2 * MIB if small else 20 * MIB)
        new = 2 * MIB if small else 20 * MIB if wanted < 10 * MIB else math.ceil(wanted / (2 * MIB)) * 2 * MIB
        if self.total(FREE, USED) + new > self.limit:
            return None
        self.pools[small].append([[new, FREE, -1]])
        return self.pools[small][-1], 0

    def _map(self, segment: Segment, wanted: int, page: int) -> tuple[Segment, int] | None:
        """Map pages behind the first place with enough room; the free stretch before it counts as room."""
        for index, one in enumerate(segment):
            if one[1] != UNMAPPED:
                continue
            start = index - 1 if index and segment[index - 1][1] == FREE else index
            room = 0
            for following in segment[start:]:
                if following[1] == USED:
                    break
                room += size(following)
            if room >= wanted:
                break
        offset = sum(size(one) for one in segment[:start])
        while segment[start][1] != FREE or size(segment[start]) < wanted:
            have = size(segment[start]) if segment[start][1] == FREE else 0
            hole = start + 1 if have else start
            pages = math.ceil(min(wanted - have, size(segment[hole])) / page) * page
            if self.total(FREE, USED) + pages > self.limit:
                return None
            segment[hole : hole + 1] = [[pages, FREE, -1], [size(segment[hole]) - pages, UNMAPPED, -1]]
            join(segment)
        assert sum(size(one) for one in segment[:start]) == offset
        return segment, start


def size(stretch: list[object]) -> int:
    """Return the bytes of a stretch."""
    assert isinstance(stretch[0], int)
    return stretch[0]


def reach(segment: Segment, index: int) -> int:
    """Return a stretch's size together with the unmapped one after it."""
    after = segment[index + 1] if index + 1 < len(segment) else [0, UNMAPPED]
    return size(segment[index]) + (size(after) if after[1] == UNMAPPED else 0)


def join(segment: Segment) -> None:
    """Merge neighbours that are both free or both unmapped, and drop empty stretches."""
    joined: Segment = []
    for one in segment:
        if size(one) == 0:
            continue
        if joined and joined[-1][1] == one[1] != USED:
            joined[-1][0] = size(joined[-1]) + size(one)
        else:
            joined.append(one)
    segment[:] = joined


def unmap(segment: Segment, page: int) -> None:
    """Turn every page that is wholly free into an unmapped one."""
    result: Segment = []
    start = 0
    for one in segment:
        end = start + size(one)
        first, last = math.ceil(start / page) * page, end // page * page
        if one[1] == FREE and first < last:
            result += [[first - start, FREE, -1], [last - first, UNMAPPED, -1], [end - last, FREE, -1]]
        else:
            result.append(one)
        start = end
    segment[:] = result
    join(segment)

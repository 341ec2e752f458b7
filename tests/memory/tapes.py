"""Hand-written tapes: a small language for the events of a step."""

from __future__ import annotations

from inspector.records.tape import Category, Event, EventKind, Phase


class Tape:
    """Collects events; `at` sets the step, phase, module and op of those that follow."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._step, self._phase, self._module, self._op = 0, Phase.LOAD, "", ""

    def at(self, step: int, phase: Phase, module: str = "", op: str = "") -> Tape:
        """Say where the next events happen."""
        self._step, self._phase, self._module, self._op = step, phase, module, op
        return self

    def allocate(self, block: int, size: int, category: Category = Category.TEMPORARIES) -> Tape:
        """Add an allocation."""
        return self._add(EventKind.ALLOCATE, block, size, category)

    def free(self, *blocks: int) -> Tape:
        """Add a free of each block."""
        for block in blocks:
            self._add(EventKind.FREE, block)
        return self

    def empty_cache(self) -> Tape:
        """Add an emptying of the cache."""
        return self._add(EventKind.EMPTY_CACHE, -1)

    def _add(self, kind: EventKind, block: int, size: int = 0, category: Category = Category.TEMPORARIES) -> Tape:
        self.events.append(
            Event(
                kind=kind,
                block=block,
                bytes=size,
                category=category,
                phase=self._phase,
                step=self._step,
                module=self._module,
                op=self._op,
            )
        )
        return self

"""Memory that nothing needs any more goes back, also while the cyclic collector is paused."""

from __future__ import annotations

import gc
import weakref

from inspector.runtime.heap import give_back_memory
from inspector.runtime.patches import call_at_end, restore_changes


class Node:
    """What holds itself."""

    def __init__(self) -> None:
        self.own = self


def test_what_lies_in_a_cycle_ends_while_the_collector_is_paused() -> None:
    with restore_changes():
        call_at_end(gc.enable if gc.isenabled() else gc.disable)
        gc.disable()
        ended = weakref.ref(Node())
        assert ended() is not None
        give_back_memory()
        assert ended() is None

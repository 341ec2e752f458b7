"""The snapshot of a run as the pickle that pytorch.org/memory_viz and `torch/cuda/_memory_viz.py` read.

It holds plain dicts, lists, strings and integers; nothing here ever reads one. The protocol is the one that torch's
`pickle.dump` takes by default up to Python 3.13: the viewer has a reader of its own, which knows no later one.
"""

from __future__ import annotations

import pickle
from typing import BinaryIO

from inspector.memory.recording import Recording
from inspector.memory.snapshot import build_snapshot

__all__ = ["write_snapshot"]

_PROTOCOL = 4


def write_snapshot(recording: Recording, stream: BinaryIO) -> None:
    """Write the snapshot at the end of a run to `stream`."""
    pickle.dump(build_snapshot(recording), stream, protocol=_PROTOCOL)

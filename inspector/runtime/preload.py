"""Import the heavy libraries in a thread, while something else is waited for."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Iterator

__all__ = ["preload_libraries"]


@contextlib.contextmanager
def preload_libraries() -> Iterator[None]:
    """Import the model stage beside the block; an error of the import shows when it is imported again."""
    thread = threading.Thread(target=_import, daemon=True)
    thread.start()
    yield
    thread.join()


def _import() -> None:
    with contextlib.suppress(Exception):
        importlib.import_module("inspector.model.build")

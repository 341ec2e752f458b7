"""Change things of the host process for the time of a block, so that an interrupt at any point leaves nothing changed.

`KeyboardInterrupt` can be raised between any two steps of Python: after an attribute was replaced and before the `try`
that would put it back, or inside `contextlib` after a block was entered and before `with` knows how to leave it. So
each change is written down before it is made, in one list of its thread, and `restore_changes` undoes, when its block
ends, whatever the list has beyond the mark that it left there: the changes of the block itself, and those of inner
blocks that were left without their own end. Blocks nest; the outermost one is that of the pipeline, and entering it
changes nothing. An inner block that ends later, when its frame is collected, finds its mark gone and undoes nothing.

An undo may run twice, where an interrupt comes between it and its removal from the list: it sets a value, and setting
it again changes nothing.

Not covered: what a library changes by itself and puts back by itself (`torch.device("meta")` as a context).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, ParamSpec

__all__ = [
    "Mark",
    "begin_block",
    "call_at_end",
    "remove_item",
    "replace_attribute",
    "replace_item",
    "restore_block",
    "restore_changes",
    "restore_items_at_end",
]

_Arguments = ParamSpec("_Arguments")
_ABSENT = object()


class Mark:
    """Where a block began in the list of changes."""

    def __call__(self) -> None:
        """Undo nothing."""


class _Pending(threading.local):
    """The undo steps of a thread and the marks between them, the last change last."""

    def __init__(self) -> None:
        self.steps: list[Callable[[], Any]] = []


_pending = _Pending()


@contextlib.contextmanager
def restore_changes() -> Iterator[None]:
    """Undo every change that is made inside the block when the block ends, however it ends."""
    mark = Mark()
    try:
        begin_block(mark)
        yield
    finally:
        restore_block(mark)


def begin_block(mark: Mark) -> None:
    """Begin a block, for what cannot use `restore_changes`: `restore_block` with the same mark ends it."""
    _pending.steps.append(mark)


def restore_block(mark: Mark) -> None:
    """Undo the changes since `mark`, the last one first; where the mark is gone they are undone already.

    An error or an interrupt keeps none of them from being undone; the first one is raised afterwards.
    """
    first: BaseException | None = None
    steps = _pending.steps
    while mark in steps:
        try:
            step = steps[-1]
            step()
            steps.pop()
        except KeyboardInterrupt as error:  # the step is still in the list, or is done
            first = first or error
        except BaseException as error:
            first = first or error
            steps.pop()
    if first is not None:
        raise first


def call_at_end(undo: Callable[_Arguments, Any], *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
    """Have `undo` called when the innermost `restore_changes` block ends; call this before making the change."""
    _pending.steps.append(lambda: undo(*args, **kwargs))


def replace_attribute(owner: Any, name: str, value: Any) -> None:
    """Set an attribute until the innermost `restore_changes` block ends; one that `owner` lacked is deleted then."""
    call_at_end(_set_attribute, owner, name, vars(owner).get(name, _ABSENT))
    setattr(owner, name, value)


def replace_item(mapping: MutableMapping[Any, Any], key: Any, value: Any) -> None:
    """Set an entry until the innermost `restore_changes` block ends; then one that was not there is removed."""
    call_at_end(_set_item, mapping, key, mapping.get(key, _ABSENT))
    mapping[key] = value


def remove_item(mapping: MutableMapping[Any, Any], key: Any) -> None:
    """Take an entry out, if it is there, until the innermost `restore_changes` block ends."""
    call_at_end(_set_item, mapping, key, mapping.get(key, _ABSENT))
    mapping.pop(key, None)


def restore_items_at_end(mapping: MutableMapping[Any, Any]) -> None:
    """Have all entries of a mapping as they are now when the innermost `restore_changes` block ends."""
    call_at_end(_set_items, mapping, dict(mapping))


def _set_attribute(owner: Any, name: str, value: Any) -> None:
    """Set an attribute, or take it away."""
    if value is not _ABSENT:
        setattr(owner, name, value)
    elif name in vars(owner):
        delattr(owner, name)


def _set_item(mapping: MutableMapping[Any, Any], key: Any, value: Any) -> None:
    """Set an entry, or take it out."""
    if value is not _ABSENT:
        mapping[key] = value
    else:
        mapping.pop(key, None)


def _set_items(mapping: MutableMapping[Any, Any], items: Mapping[Any, Any]) -> None:
    """Give a mapping exactly these entries."""
    mapping.clear()
    mapping.update(items)

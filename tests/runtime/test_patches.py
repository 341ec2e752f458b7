"""Changes of the host process end with their block, wherever an interrupt comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from inspector.runtime.patches import (
    Mark,
    begin_block,
    call_at_end,
    remove_item,
    replace_attribute,
    replace_item,
    restore_block,
    restore_changes,
    restore_items_at_end,
)


def test_every_kind_of_change_is_undone_when_its_block_ends() -> None:
    """Attributes and entries that were there have their values back, others are gone."""
    owner, mapping, table = SimpleNamespace(old=1), {"old": 1, "out": 2}, {"a": 1}
    with restore_changes():
        replace_attribute(owner, "old", 10)
        replace_attribute(owner, "new", 11)
        replace_item(mapping, "old", 10)
        replace_item(mapping, "new", 11)
        remove_item(mapping, "out")
        restore_items_at_end(table)
        table["b"] = 2
        assert vars(owner) == {"old": 10, "new": 11}
        assert mapping == {"old": 10, "new": 11}
    assert (vars(owner), mapping, table) == ({"old": 1}, {"old": 1, "out": 2}, {"a": 1})


def test_an_outer_block_undoes_changes_that_an_inner_block_left_behind() -> None:
    """As where an interrupt comes inside contextlib, after the inner block was entered."""
    mapping = {"key": 1}

    @contextmanager
    def inner() -> Iterator[None]:
        with restore_changes():
            replace_item(mapping, "key", 2)
            yield

    with restore_changes():
        left = inner()
        left.__enter__()
        assert mapping == {"key": 2}
    assert mapping == {"key": 1}
    with restore_changes():
        replace_item(mapping, "key", 3)
        left.__exit__(None, None, None)  # when its frame is collected at last
        assert mapping == {"key": 3}, "a block whose changes are undone leaves those of others alone"
    assert mapping == {"key": 1}


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_while_changes_are_undone_leaves_no_change_behind(error: type[BaseException]) -> None:
    """It is raised when all are undone."""
    mapping = {"first": 1, "last": 1}
    raised = iter((True,))

    def interrupt() -> None:
        if next(raised, False):
            raise error

    def change() -> None:
        with restore_changes():
            replace_item(mapping, "first", 2)
            call_at_end(interrupt)
            replace_item(mapping, "last", 2)

    with pytest.raises(error):
        change()
    assert mapping == {"first": 1, "last": 1}


def test_a_change_that_was_interrupted_before_it_was_made_is_undone() -> None:
    """What is written down first may never have happened."""

    class Full(dict[str, int]):
        def __setitem__(self, key: str, value: int) -> None:
            if value == 2:
                raise KeyboardInterrupt
            super().__setitem__(key, value)

    mapping = Full(key=1)
    with pytest.raises(KeyboardInterrupt), restore_changes():
        replace_item(mapping, "key", 2)
    assert mapping == {"key": 1}


def test_marks_serve_what_cannot_use_a_with_block() -> None:
    """Restoring twice does nothing more."""
    undone: list[int] = []
    record: Callable[[int], None] = undone.append
    mark = Mark()
    begin_block(mark)
    call_at_end(record, 1)
    call_at_end(record, 2)
    restore_block(mark)
    restore_block(mark)
    assert undone == [2, 1]

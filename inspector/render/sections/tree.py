"""The module tree as a table: names relative to the row above, modules without parameters summed up in a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from inspector.errors import one_line
from inspector.records.model import Census, TreeRow
from inspector.render.document import Kind, Row, Section, Table, Tone, column, paragraph, row
from inspector.units import format_bytes, format_count

__all__ = ["build_tree_section"]

# Columns: name, type, parameters, trained, bytes, human bytes. The widest view first.
_VIEWS = (((0, 1, 2, 3, 4, 5),), ((0, 1, 2, 3, 5),), ((0, 2, 3, 5),), ((0, 2, 5),), ((0, 2),))
_ALL_TRAINED_VIEWS = (((0, 1, 2, 4, 5),), ((0, 1, 2, 5),), ((0, 2, 5),), ((0, 2),))


def build_tree_section(census: Census) -> Section:
    """Return the module tree; a column `trained` appears where it would not only repeat the counts."""
    columns = (
        column("module", Kind.NAME),
        column("type", Kind.NAME, quiet=True),
        column("parameters", Kind.NUMBER),
        column("trained", Kind.NUMBER),
        column("bytes", Kind.NUMBER),
        column("", Kind.NUMBER, quiet=True),
    )
    rows = tuple(_list_rows(census.tree))
    all_trained = all(item.trainable == item.count for item in census.tree)
    table = Table(columns=columns, rows=rows, views=_ALL_TRAINED_VIEWS if all_trained else _VIEWS)
    is_shortened = len(rows) < len(census.tree)
    notes = (paragraph("Modules without parameters are left out.", Tone.QUIET),) if is_shortened else ()
    return Section(title="Modules", blocks=(table, *notes))


def _list_rows(tree: Sequence[TreeRow]) -> Iterator[Row]:
    """Yield a row for each module that holds or shares parameters, or has one below it that does."""
    ancestors: list[TreeRow] = []
    for item in tree:
        del ancestors[item.depth :]
        parent = ancestors[-1] if ancestors else None
        ancestors.append(item)
        if item.count or _shares_parameters(item, tree):
            yield row(
                (
                    _shorten_name(item, parent),
                    _name_type(item, parent),
                    format_count(item.count),
                    format_count(item.trainable),
                    format_count(item.bytes),
                    format_bytes(item.bytes),
                ),
                tone=Tone.PLAIN if item.depth else Tone.KEY,
                depth=item.depth,
            )


def _shares_parameters(item: TreeRow, tree: Sequence[TreeRow]) -> bool:
    """Tell whether the row or one below it holds a parameter that is counted elsewhere."""
    return any(
        other.shared_with is not None
        for other in tree
        if other.name == item.name or other.name.startswith(f"{item.name}.")
    )


def _shorten_name(item: TreeRow, parent: TreeRow | None) -> str:
    """Return the name without what the row above it already says."""
    if parent is None and not item.name:
        return "whole model"
    prefix = f"{parent.name}." if parent and parent.name else ""
    return one_line(item.name.removeprefix(prefix))


def _name_type(item: TreeRow, parent: TreeRow | None) -> str:
    """Return the class, how often it repeats where that is new, and who owns a shared parameter."""
    times = f"{item.repeat} × " if item.repeat != (parent.repeat if parent else 1) else ""
    shared = f" = {one_line(item.shared_with)}" if item.shared_with else ""
    return f"{times}{one_line(item.type)}{shared}"

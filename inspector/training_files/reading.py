"""Bytes -> a document: YAML, JSON, TOML, notebooks and scripts, bounded in size, depth and aliases; nothing is run.

Messages say where a file is wrong and repeat nothing of it: a training file may hold secrets.
"""

from __future__ import annotations

import re
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from inspector.errors import UsageError, one_line, quoted
from inspector.source.bounded_json import parse_object
from inspector.training_files.scripts import Calls, read_notebook_calls, read_script_calls
from inspector.units import format_bytes

__all__ = ["read_document"]

# Training files are a few KiB; notebooks hold the pictures that they printed.
_MOST_BYTES = 2**20
_MOST_BYTES_OF_A_NOTEBOOK = 64 * 2**20
_DEEPEST = 50
# Nodes of a document when every alias is written out.
_MOST_NODES = 100_000


def read_document(path: Path) -> Mapping[str, Any] | Calls:
    """Return what a file holds: keys with values, or the calls of a script; UsageError where it cannot be read."""
    suffix, what = path.suffix.lower(), quoted(path, 100)
    content = _read_bytes(path, _MOST_BYTES_OF_A_NOTEBOOK if suffix == ".ipynb" else _MOST_BYTES)
    if suffix in (".json", ".ipynb"):
        most = _MOST_BYTES_OF_A_NOTEBOOK
        document = parse_object(content, what, error=UsageError, most_bytes=most)
        return read_notebook_calls(document, what) if suffix == ".ipynb" else document
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} is not UTF-8 text: byte {error.start} does not fit; save it as UTF-8.") from None
    if suffix == ".py":
        return read_script_calls(text, what)
    return _parse_toml(text, what) if suffix == ".toml" else parse_yaml(text, what)


def _read_bytes(path: Path, most: int) -> bytes:
    """Return the content of a regular file that is not too large."""
    what = quoted(path, 100)
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise UsageError(f"{what} is not a regular file; name one.")
        if facts.st_size <= most:
            with path.open("rb") as file:
                content = file.read(most + 1)
            if len(content) <= most:
                return content
    except OSError as error:
        raise UsageError(f"{what} cannot be read ({one_line(error.strerror)}); check who may read it.") from error
    raise UsageError(
        f"{what} has {format_bytes(facts.st_size)}, more than the {format_bytes(most)} that are read of such a file; "
        "name another one."
    )


def _parse_toml(text: str, what: str) -> Mapping[str, Any]:
    """Return the tables of a TOML file."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        document: Mapping[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        place = re.search(r"at line \d+, column \d+", str(error))
        raise UsageError(f"{what} is not valid TOML{f' {place[0]}' if place else ''}; correct it.") from None
    return document


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # one of two, by what is installed
    """The safe loader, with numbers as people write them."""


# YAML 1.1 takes 1e-4 for text: there a float needs a dot and a signed exponent.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)
# A date is no value of a training file, and JSON has none.
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_yaml_str)


def parse_yaml(text: str, what: str) -> Mapping[str, Any]:
    """Return the keys and values of a YAML document."""
    try:
        _check_depth(text, what)
        node = yaml.compose(text, Loader=_Loader)
        if node is not None:
            _count_nodes(node, what, {}, 0)
        loader = _Loader(text)
        try:
            document = loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise UsageError(f"{what} is not valid YAML{_find_place(error)}; correct it.") from None
    except (RecursionError, ValueError, OverflowError) as error:
        raise UsageError(f"{what} is not valid YAML ({type(error).__name__}); correct it.") from None
    if not isinstance(document, dict):
        raise UsageError(f"{what} holds no keys with values; name the YAML file that a trainer reads.")
    return {str(key): value for key, value in document.items()}


def _find_place(error: yaml.YAMLError) -> str:
    """Return where a document is wrong; the parser's words would repeat what stands there."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return "" if mark is None else f" at line {mark.line + 1} column {mark.column + 1}"


def _check_depth(text: str, what: str) -> None:
    """Refuse a document that nests deeper than any training file, before anything recurses into it."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1
        if depth > _DEEPEST:
            raise UsageError(f"{what} nests deeper than {_DEEPEST} levels, as no training file does; correct it.")
        if count > _MOST_NODES:
            raise UsageError(f"{what} has more than {_MOST_NODES:,} values, as no training file has; name another one.")


def _count_nodes(node: yaml.Node, what: str, known: dict[int, int], depth: int) -> int:
    """Return how many nodes a document has with its aliases written out; refuse too many, and aliases without end."""
    if depth > _DEEPEST or known.get(id(node)) == 0:
        raise UsageError(f"{what} has aliases that lead into themselves, or too deep; write the values out.")
    if id(node) not in known:
        known[id(node)] = 0  # being counted
        children = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = (part for child in children for part in (child if isinstance(child, tuple) else (child,)))
        known[id(node)] = 1 + sum(_count_nodes(part, what, known, depth + 1) for part in parts)
    if known[id(node)] > _MOST_NODES:
        raise UsageError(
            f"{what} has more than {_MOST_NODES:,} values once its aliases are written out; write out what is meant."
        )
    return known[id(node)]

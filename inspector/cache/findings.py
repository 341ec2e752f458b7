"""What models said, kept: traces of shallow models, counts and facts, and the refusals that follow from them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

from inspector.cache.answers import digest, digest_files, find_label
from inspector.cache.codec import NotKeptError, decode, encode
from inspector.cache.store import Store
from inspector.cache.tapes import pack_tape, unpack_tape
from inspector.errors import NotTraceableError, UsageError
from inspector.records.columns import Columns
from inspector.records.request import Request
from inspector.records.run import Traced
from inspector.records.source import SourceFiles

__all__ = ["Kept", "open_findings"]

_Value = TypeVar("_Value")
# What follows from a question as an answer does; other errors may be of the machine.
_REFUSALS = {"usage": UsageError, "not-traceable": NotTraceableError}


def open_findings(store: Store | None, request: Request, files: SourceFiles | None) -> Kept | None:
    """Return what is kept of a model, None where nothing may be."""
    if store is None or files is None or request.trust_remote_code:
        return None
    if not isinstance(request.model, (str, os.PathLike)):
        return None
    try:
        subject = digest_files(files)
    except NotKeptError:
        return None
    return Kept(store, subject, find_label(os.fspath(request.model)))


class Kept:
    """What was found of one model with its source."""

    def __init__(self, store: Store, subject: str, name: str) -> None:
        self._store = store
        self._subject = subject
        self._model = name

    def find(self, kind: str, key: tuple[Any, ...], make: Callable[[], _Value]) -> _Value:
        """Return what is kept by a key, else what `make` returns, and keep that.

        A refusal (UsageError, NotTraceableError) is kept and raised again.
        """
        try:
            name = f"{kind}-{digest(self._subject, *key)}"
        except NotKeptError:
            return make()
        known = self._read(name)
        if known is not None:
            refusal, value = known
            if refusal is not None:
                raise _REFUSALS[refusal](value)
            found: _Value = value
            return found
        try:
            value = make()
        except (UsageError, NotTraceableError) as error:
            refusal = next((word for word, kind_ in _REFUSALS.items() if type(error) is kind_), None)
            if refusal is not None and not isinstance(error.__cause__, MemoryError):
                self._write(name, kind, refusal, str(error))
            raise
        self._write(name, kind, None, value)
        return value

    def _read(self, name: str) -> tuple[str | None, Any] | None:
        """Return which refusal is kept, or None, and what of it; None where nothing is kept."""
        content = self._store.read(name)
        if content is None:
            return None
        text, _, columns = content.partition(b"\n")
        try:
            refusal, value = decode(json.loads(text))
            if columns:
                tape = unpack_tape(columns)
                value = tape if value is None else dataclasses.replace(value, tape=list(tape))
        except (NotKeptError, ValueError, TypeError, RecursionError):
            return None
        return (refusal, value) if refusal in (None, *_REFUSALS) else None

    def _write(self, name: str, kind: str, refusal: str | None, value: Any) -> None:
        """Keep a value, where it consists of records."""
        with contextlib.suppress(NotKeptError):
            columns = b""
            if isinstance(value, Columns):
                columns, value = pack_tape(value), None
            elif isinstance(value, Traced):
                columns, value = pack_tape(value.tape), dataclasses.replace(value, tape=())
            text = json.dumps(encode((refusal, value)), separators=(",", ":")).encode()
            self._store.write(name, text + b"\n" + columns, {"model": self._model, "kind": kind})

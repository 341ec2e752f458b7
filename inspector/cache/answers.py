"""Answers that are kept: the question as it was resolved and what the source said -> what was found.

A question is everything that an answer follows from but the files of its source, which are read anew each time: a
branch of the Hub moves, and a local file is edited. How an answer is shown is no part of it. What cannot be written
down (a live model, a configuration of PEFT, code of a repository) is no question that is kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inspector.cache.codec import NotKeptError, decode, encode
from inspector.cache.environment import digest_environment
from inspector.cache.store import Store, find_folder
from inspector.records.request import Request
from inspector.records.source import SourceFiles

__all__ = ["Question", "ask", "digest", "digest_files", "find_label", "open_store"]


def open_store() -> Store | None:
    """Return where things are kept, None where nothing is to be, or no version says what the libraries do."""
    folder = find_folder()
    environment = None if folder is None else digest_environment()
    return None if folder is None or environment is None else Store(folder, environment)


class Question:
    """What was asked, and what is kept of it."""

    def __init__(self, store: Store, kind: str, asked: str, model: str, about: str) -> None:
        self._store = store
        self._name = f"{kind}-{asked}"
        self._model = f"model-{model}"
        self._about = about

    @property
    def is_of_known_model(self) -> bool:
        """Tell whether anything was asked of the model before, so that an answer may take no libraries."""
        return self._store.read(self._model) is not None

    def find(self, files: SourceFiles) -> Any:
        """Return the answer that was kept for these files, None where there is none."""
        content = self._store.read(self._name_answer(files))
        if content is None:
            return None
        try:
            return decode(json.loads(content))
        except (NotKeptError, ValueError, RecursionError):
            return None

    def keep(self, files: SourceFiles, answer: Any) -> None:
        """Keep an answer, where it consists of records."""
        with contextlib.suppress(NotKeptError):
            content = json.dumps(encode(answer), separators=(",", ":")).encode()
            about = {"model": self._about, "kind": "answer"}
            self._store.write(self._name_answer(files), content, about)
            self._store.write(self._model, b"", {**about, "kind": "model"})
        self._store.trim()

    def _name_answer(self, files: SourceFiles) -> str:
        return f"{self._name}-{digest_files(files)}"


def ask(store: Store | None, kind: str, request: Request, *further: Any) -> Question | None:
    """Return a request, with `further` settings, as a question whose answers may be kept, None where they may not."""
    if store is None or request.trust_remote_code or not isinstance(request.model, (str, os.PathLike)):
        return None
    name = os.fspath(request.model)
    try:
        asked = digest(dataclasses.replace(request, model=name), further)
    except NotKeptError:
        return None
    return Question(store, kind, asked, digest(name), find_label(name))


def find_label(name: str) -> str:
    """Return what a model is listed by: its id, or the last part of a path."""
    return Path(name).name if Path(name).is_absolute() else name


def digest(*values: Any) -> str:
    """Return what is equal for equal records and plain values; raise NotKeptError for other ones."""
    text = json.dumps(encode(values), separators=(",", ":"))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def digest_files(files: SourceFiles) -> str:
    """Return what is equal for two sources that said the same."""
    stored = files.checkpoint
    tensors: Mapping[str, Any] = {}
    if stored is not None and stored.tensors is not None:  # of some models these are a hundred thousand
        tensors, stored = stored.tensors, dataclasses.replace(stored, tensors={})
    lines = "\n".join(f"{name} {tensor.dtype} {tensor.shape} {tensor.bytes}" for name, tensor in tensors.items())
    return digest(dataclasses.replace(files, checkpoint=stored), lines)

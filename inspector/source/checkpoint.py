"""The files of a repository or directory -> what is stored there, from safetensors headers; data is never read.

A `Reader` brings parts of files, from the Hub by HTTP range requests or from a directory. One part of each weight file
is asked for, and a second only where the header is longer; eight are under way at once. Pickles are not opened:
reading one means executing it. What cannot be read or is malformed leaves the sizes and a notice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Protocol

from inspector.dtypes import BY_SAFETENSORS_NAME, LOADED_IN
from inspector.errors import UnsupportedModelError, one_line, quoted
from inspector.records.checkpoint import StoredCheckpoint, StoredFile, StoredTensor, StoredVariant
from inspector.records.notice import Notice
from inspector.records.source import SourceFiles
from inspector.runtime.stage import Stage
from inspector.source.bounded_json import MOST_BYTES, parse_object
from inspector.source.repository import (
    Choice,
    choose_weights,
    find_variants,
    list_companions,
    list_left_out,
    list_shards,
)
from inspector.source.safetensors_header import (
    LENGTH_BYTES,
    MOST_TENSORS,
    MalformedError,
    parse_header,
    parse_index,
    read_header_length,
)
from inspector.units import format_bytes

__all__ = ["PartReader", "UnreadError", "add_stored_dtype", "find_pooling", "read_checkpoint"]

# What sentence-transformers' Pooling says of itself, in its present form or in an older one.
_POOLING_FILE = "1_Pooling/config.json"
_MOST_POOLING_BYTES = 64 * 2**10
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}

# Nearly all headers fit: 1,000 tensors take some 110,000 bytes, and shards of large models hold fewer.
_FIRST_BYTES = 128 * 2**10
_AT_ONCE = 8
# Over all files of a checkpoint; 140,000 tensors (Kimi-K2) take some 16 MB.
_MOST_HEADER_BYTES = 32 * 2**20
_MOST_VARIANT_FILES = 8

Progress = Callable[[str], None]


class UnreadError(Exception):
    """A file could not be read; `str()` is one line."""


class PartReader(Protocol):
    """Reads files of one repository or directory."""

    def read_part(self, name: str, start: int, length: int) -> tuple[bytes, int | None]:
        """Return up to `length` bytes from `start` on and the size of the file, where known; UnreadError if not."""

    def read_whole(self, name: str, most_bytes: int) -> bytes:
        """Return a whole file of up to `most_bytes`; UnreadError if that cannot be."""


class _Budget:
    """What is left of the bounds over all headers of a checkpoint; `parsing` lets one be parsed at a time.

    Parsed, 8 MiB of JSON can take 300 MiB.
    """

    def __init__(self) -> None:
        self.header_bytes = _MOST_HEADER_BYTES
        self.tensors = MOST_TENSORS
        self.parsing = threading.Lock()
        self._counting = threading.Lock()

    def take(self, *, header_bytes: int = 0, tensors: int = 0) -> None:
        """Count what a header takes; MalformedError when all take too much."""
        with self._counting:
            self.header_bytes -= header_bytes
            self.tensors -= tensors
        if self.header_bytes < 0 or self.tensors < 0:
            raise MalformedError(
                f"its headers have more than {format_bytes(_MOST_HEADER_BYTES)} or describe more than "
                f"{MOST_TENSORS:,} tensors, as no real ones do; look into the repository."
            )


def find_pooling(files: Sequence[StoredFile], reader: PartReader) -> str | None:
    """Return how sentence-transformers makes one vector of a text's tokens, None where no file says one way.

    Source: sentence-transformers 6.2, sentence_transformer/modules/pooling.py, `_convert_legacy_pooling_kwargs`.
    """
    if not any(file.name == _POOLING_FILE for file in files):
        return None
    try:
        fields = parse_object(reader.read_whole(_POOLING_FILE, _MOST_POOLING_BYTES), _POOLING_FILE)
    except (UnreadError, UnsupportedModelError):  # the mean is assumed, aloud
        return None
    flagged = [mode for flag, mode in _POOLING_FLAGS.items() if fields.get(flag) is True]
    mode = fields.get("pooling_mode", flagged[0] if len(flagged) == 1 else None)
    return mode if isinstance(mode, str) and mode in _POOLING_FLAGS.values() else None


def read_checkpoint(
    files: Sequence[StoredFile], config: Mapping[str, Any], reader: PartReader, progress: Progress
) -> tuple[StoredCheckpoint, tuple[Notice, ...]]:
    """Return what is stored in `files` and what could not be read of it."""
    notices: list[Notice] = []
    choice = choose_weights((file.name for file in files), config)
    by_name = {file.name: file for file in files}
    weights: tuple[StoredFile, ...] = ()
    tensors: dict[str, StoredTensor] | None = None
    if choice is not None:
        with _note_errors(notices):
            # Should the index not be read, the names still tell which files are its shards.
            weights = tuple(by_name[name] for name in list_shards(by_name, choice.index or ""))
            weights = _list_weights(choice, by_name, reader)
            if choice.format == "safetensors":
                tensors = _merge_headers(_read_headers(weights, reader, progress))
    found = [
        StoredVariant(
            name=name,
            files=len(members),
            bytes=sum(file.bytes or 0 for file in members),
            dtypes=_count_variant_dtypes(members, reader, progress, notices),
        )
        for name, members in find_variants(files, (file.name for file in weights)).items()
    ]
    small = list_companions(files, choice.index if choice else None)
    stored = StoredCheckpoint(
        format=choice.format if choice else None,
        weights=weights,
        companions=small,
        tensors=tensors,
        variants=tuple(found),
        left_out=list_left_out(files, (*weights, *small)),
        repository_bytes=None if any(file.bytes is None for file in files) else sum(file.bytes or 0 for file in files),
        repository_files=len(files),
    )
    return stored, tuple(notices)


@contextlib.contextmanager
def _note_errors(notices: list[Notice]) -> Iterator[None]:
    """Turn MalformedError and UnreadError of the block into a notice in `notices`."""
    try:
        yield
    except MalformedError as error:
        notices.append(Notice(code="checkpoint-malformed", message=f"The checkpoint was not read: {error}"))
    except UnreadError as error:
        message = f"The headers of the checkpoint were not read ({one_line(error)}); what is stored is known in part."
        notices.append(Notice(code="checkpoint-unread", message=message))


def _list_weights(choice: Choice, by_name: Mapping[str, StoredFile], reader: PartReader) -> tuple[StoredFile, ...]:
    """Return the weight files, in the order of their names."""
    index = choice.index
    if index is None:
        return tuple(by_name[name] for name in (choice.file,) if name)
    names = sorted(set(parse_index(reader.read_whole(index, MOST_BYTES), quoted(index)).values()))
    folder = index.rpartition("/")[0]
    names = [f"{folder}/{name}" if folder else name for name in names]
    missing = next((name for name in names if name not in by_name), None)
    if missing is not None:
        raise MalformedError(f"{quoted(index)} names {quoted(missing, 80)}, which is not there; look for a mirror.")
    return tuple(by_name[name] for name in names)


def _read_headers(
    files: Sequence[StoredFile], reader: PartReader, progress: Progress
) -> dict[str, Mapping[str, StoredTensor]]:
    """Return the header of each file, several read at once."""
    budget = _Budget()
    done: dict[str, Mapping[str, StoredTensor]] = {}
    pool = ThreadPoolExecutor(max_workers=min(_AT_ONCE, len(files)), thread_name_prefix="headers")
    try:
        pending = {pool.submit(_read_header, file, reader, budget): file for file in files}
        for future in as_completed(pending):
            done[pending[future].name] = future.result()
            title = "reading the headers of the checkpoint"
            words = f"{title}: {len(done)} of {len(files)} files"
            progress(Stage(words, heading=title, done=len(done), total=len(files)))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return {file.name: done[file.name] for file in files}


def _read_header(file: StoredFile, reader: PartReader, budget: _Budget) -> dict[str, StoredTensor]:
    """Return the tensors of one file by name; raises MalformedError and UnreadError."""
    what = quoted(file.name)
    if file.bytes is not None and file.bytes < LENGTH_BYTES:  # no server has a range of nothing
        read_header_length(bytes(file.bytes), file.bytes, what)
    start, file_bytes = reader.read_part(file.name, 0, _FIRST_BYTES)
    file_bytes = file.bytes if file_bytes is None else file_bytes
    length = read_header_length(start, file_bytes, what)
    budget.take(header_bytes=length)
    header = start[LENGTH_BYTES : LENGTH_BYTES + length]
    if len(header) < length:
        header += reader.read_part(file.name, LENGTH_BYTES + len(header), length - len(header))[0]
    if len(header) < length:
        raise UnreadError(f"{file.name} ended after {len(header):,} of {length:,} bytes of its header")
    with budget.parsing:
        tensors = parse_header(header, file_bytes, what)
        budget.take(tensors=len(tensors))
    return tensors


def _merge_headers(headers: Mapping[str, Mapping[str, StoredTensor]]) -> dict[str, StoredTensor]:
    """Return the tensors of all files; a later file replaces a name, as it does when they are loaded."""
    return {name: tensor for header in headers.values() for name, tensor in header.items()}


def _count_variant_dtypes(
    files: Sequence[StoredFile], reader: PartReader, progress: Progress, notices: list[Notice]
) -> dict[str, int]:
    """Return the elements by dtype of a variant, or nothing where its headers are not read."""
    if len(files) > _MOST_VARIANT_FILES or not all(file.name.endswith(".safetensors") for file in files):
        return {}
    counts: dict[str, int] = {}
    # The variant is not what is loaded: where it is malformed, its dtypes are left out without a notice.
    with _note_errors(notices), contextlib.suppress(MalformedError):
        for tensor in _merge_headers(_read_headers(files, reader, progress)).values():
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.elements
    return counts


def add_stored_dtype(files: SourceFiles) -> SourceFiles:
    """Add the dtype that weights are loaded in where config.json names none, as the headers have it.

    transformers takes the floating-point tensor of the first file that is first by its name (`get_state_dict_dtype`,
    5.23). Of several files the names of all are taken here: which file a tensor is in is not kept.
    """
    stored = None if files.checkpoint is None else files.checkpoint.tensors
    if files.checkpoint_dtype is not None or stored is None:
        return files
    found = (BY_SAFETENSORS_NAME.get(stored[name].dtype) for name in sorted(stored))
    names = (dtype.torch for dtype in found if dtype is not None and dtype.torch in LOADED_IN)
    return dataclasses.replace(files, checkpoint_dtype=next(names, None))

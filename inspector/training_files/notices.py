"""What a report says of the files that it was read from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from inspector.checks import find_nearest_names
from inspector.errors import one_line
from inspector.records.notice import Notice
from inspector.records.training_file import RequestSource, TrainingFile
from inspector.training_files.merge import describe_effect
from inspector.training_files.recognise import FRAMEWORKS

__all__ = ["list_file_notices"]

_MOST_UNKNOWN = 8


def list_file_notices(source: RequestSource | None) -> Iterator[Notice]:
    """Yield what changes memory and is not modelled, what was not read, and which fields are not known."""
    if source is None:
        return
    for record in (*((source.file,) if source.file else ()), *source.launch):
        path = one_line(record.path, 60)
        if record.not_modelled:
            named = ", ".join(describe_effect(item) for item in record.not_modelled)
            message = f"Not modelled of {path}: {named}. The real step differs from the figures so."
            yield Notice(code="fields-not-modelled", message=message)
        for item in record.unread:
            message = f"{one_line(item.name, 80)} of {path} cannot be read without running it: {item.assumed}."
            yield Notice(code="fields-unread", message=message)
        yield from record.remarks
        if record.unknown:
            yield Notice(code="fields-unknown", message=_describe_unknown(record, path))


def _describe_unknown(record: TrainingFile, path: str) -> str:
    """Return which fields are not known, each with the one that was probably meant."""
    framework = next(item for item in FRAMEWORKS.values() if item.name == record.framework)
    known = (*framework.index(), *framework.others)
    shown = ", ".join(_describe_field(name, known) for name in record.unknown[:_MOST_UNKNOWN])
    more = f" and {len(record.unknown) - _MOST_UNKNOWN} more" if len(record.unknown) > _MOST_UNKNOWN else ""
    return f"Fields of {path} that are not known of {record.framework} and were not read: {shown}{more}."


def _describe_field(name: str, known: Sequence[str]) -> str:
    """Return a field that is not known, with the nearest of the same call or section behind it."""
    section, dot, own = name.rpartition(".")
    beside = [other.removeprefix(f"{section}{dot}") for other in known if other.rpartition(".")[0] == section]
    near = find_nearest_names(own, beside)
    return f"{name} (did you mean {near[0]}?)" if near else name

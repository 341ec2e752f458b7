"""GET requests to the Hub that end: bounded in bytes, in attempts and in time, whatever the server does.

The session, the token and the meaning of error codes are the huggingface_hub client's own. Its functions for the same
purpose are not used, because a server can make them run on: `HfApi.model_info` and `get_safetensors_metadata` read a
body of any length, also when a range was asked for and the server ignores it, and `http_backoff` sleeps as long as a
Retry-After header says.

An attempt is repeated after a status that passes (429, 5xx) and after a connection that breaks, never after a refusal.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from inspector.units import format_bytes

__all__ = ["TIMEOUT_SECONDS", "Answer", "EndlessAnswerError", "fetch", "run_within"]

# Until a connection is made, and between two pieces of an answer.
TIMEOUT_SECONDS = 10
# Pauses before the second and the third attempt.
_PAUSES = (0.3, 1.0)
# One answer may take this long in all, however steadily it drips.
_MOST_SECONDS = 60
# A longer pause that a server asks for is not waited: its user would wonder what happens.
_LONGEST_PAUSE = 5
_PASSING = (408, 429, 500, 502, 503, 504)
_MOST_ERROR_BYTES = 2**16
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")

_Result = TypeVar("_Result")


class EndlessAnswerError(Exception):
    """An answer that is longer, or takes longer, than any that is expected; `str()` goes on after "the answer"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The body of an answer, or the part that was asked for; `file_bytes` is the file's size, None if not given."""

    content: bytes
    file_bytes: int | None


def fetch(url: str, *, most_bytes: int, start: int | None = None) -> Answer:
    """Return what `url` holds, or `most_bytes` of it from `start` on.

    Without `start`, a longer body raises EndlessAnswerError; with it, the rest is neither asked for nor read. Raises
    what the client raises: HfHubHTTPError and its subclasses, and the HTTP library's transport errors.
    """
    for pause in (*_PAUSES, None):
        try:
            return _request_once(url, most_bytes, start)
        except Exception as error:
            least = _find_pause(error)
            if pause is None or least is None or least > _LONGEST_PAUSE:
                raise
            time.sleep(max(pause, least))
    raise AssertionError


def run_within(seconds: float, call: Callable[[], _Result]) -> _Result:
    """Return `call()`, or raise EndlessAnswerError when it takes longer; it is then left to end by itself.

    For calls into the client that have no bound of their own.
    """
    results: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # handed to the caller
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        _silence_thread(thread)
        raise EndlessAnswerError(f"went on for {seconds:g} seconds")
    return results[0]


def _silence_thread(thread: threading.Thread) -> None:
    """Hide what the client logs in a thread whose result is no longer waited for."""
    for handler in logging.getLogger("huggingface_hub").handlers:
        handler.addFilter(lambda record: record.thread != thread.ident)


def _request_once(url: str, most_bytes: int, start: int | None) -> Answer:
    """Send one request; raises what `fetch` raises."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]  # public

    # A compressed answer could grow beyond any bound once it is unpacked.
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if start is not None:
        headers["Range"] = f"bytes={start}-{start + most_bytes - 1}"
    deadline = time.monotonic() + _MOST_SECONDS
    with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_SECONDS) as response:
        if response.status_code >= 300:
            body = _read_body(response, _MOST_ERROR_BYTES, deadline)
            kept = {key: value for key, value in response.headers.items() if key.lower() not in _FRAMING}
            whole: Any = type(response)(response.status_code, headers=kept, content=body, request=response.request)
            hf_raise_for_status(whole)
            raise EndlessAnswerError(f"has no content (HTTP {response.status_code})")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise EndlessAnswerError("is compressed, which was not asked for")
        if start is None:
            content = _read_body(response, most_bytes + 1, deadline)
            if len(content) > most_bytes:
                raise EndlessAnswerError(f"is longer than {format_bytes(most_bytes)}")
            return Answer(content=content, file_bytes=len(content))
        return _read_range(response, most_bytes, start, deadline)


_FRAMING = ("content-encoding", "content-length", "transfer-encoding")


def _read_range(response: Any, most_bytes: int, start: int, deadline: float) -> Answer:
    """Read the part that was asked for, also from a server that sends the whole file instead."""
    if response.status_code == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != start:
            raise EndlessAnswerError("is another range than was asked for")
        total = None if match[3] == "*" else int(match[3])
        return Answer(content=_read_body(response, most_bytes, deadline), file_bytes=total)
    content = _read_body(response, start + most_bytes, deadline)
    return Answer(content=content[start:], file_bytes=_read_length(response.headers))


def _read_length(headers: Mapping[str, str]) -> int | None:
    """Return the bytes that Content-Length gives, None where it is missing or not a number."""
    length = headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdecimal() and len(length) < 20 else None


def _read_body(response: Any, most_bytes: int, deadline: float) -> bytes:
    """Return at most `most_bytes` of a body, before the deadline."""
    content = bytearray()
    for piece in response.iter_raw():
        content += piece
        if len(content) >= most_bytes:
            break
        if time.monotonic() > deadline:
            raise EndlessAnswerError(f"went on for {_MOST_SECONDS} seconds")
    return bytes(content[:most_bytes])


def _find_pause(error: Exception) -> float | None:
    """Return the least seconds to wait before another attempt, None where another attempt is of no use."""
    response = getattr(error, "response", None)
    if response is None:
        # The HTTP library's names: both httpx and httpx2 have them. A refused connection is not going to open.
        names = {base.__name__ for base in type(error).__mro__}
        passes = names & {"RemoteProtocolError", "ReadError", "ReadTimeout", "WriteError"}
        return 0 if passes and "ReadTimeout" not in names else None
    if response.status_code not in _PASSING:
        return None
    seconds = response.headers.get("Retry-After", "0")
    return float(seconds) if seconds.isascii() and seconds.isdecimal() and len(seconds) < 10 else 0

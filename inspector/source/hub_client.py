"""The huggingface_hub client as the source stage uses it: its settings, quiet, and its errors in our words.

Its environment variables hold here too (HF_ENDPOINT, HF_TOKEN or a saved login, HF_HOME, HF_HUB_OFFLINE). Whatever a
server answers is untrusted: an endpoint may be a mirror.
"""

from __future__ import annotations

import enum
import importlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from inspector.errors import ModelUnavailableError, UnsupportedModelError, one_line
from inspector.records.checkpoint import StoredCheckpoint
from inspector.source.transport import EndlessAnswerError

__all__ = [
    "Cause",
    "HubError",
    "describe_endpoint",
    "find_transport_error",
    "get_endpoint",
    "is_commit",
    "is_offline",
    "is_valid_id",
    "load_client",
    "remove_password",
    "silence_client",
    "translate_errors",
]

_PROGRESS_BARS = ("huggingface_hub.http_get", "huggingface_hub.xet_get")
# Ids that every release of the client takes; it is asked about others, and takes a while to import.
_PLAIN_NAME = "[A-Za-z0-9]+(?:[-_.][A-Za-z0-9]+)*"
_PLAIN_ID = re.compile(f"(?:{_PLAIN_NAME}/)?{_PLAIN_NAME}")
_LONGEST_PLAIN_ID = 96


class Cause(enum.Enum):
    """Why the Hub did not serve a model; the values are codes of notices.

    NETWORK: not reached, timed out, overloaded (429), broken (5xx), or an answer that is not the Hub's.
    REFUSED: another HTTP error, such as a token that is not valid (401) or a disabled repository (403).
    GATED: the terms of the repository have to be accepted first.
    NOT_FOUND: no such repository, which is also what the Hub says of private ones.
    REVISION: the repository has no such branch, tag or commit.
    """

    NETWORK = "network-failed"
    REFUSED = "hub-refused"
    GATED = "gated"
    NOT_FOUND = "not-found"
    REVISION = "revision-not-found"


class HubError(Exception):
    """The Hub did not serve the model; another source may. `detail` is one line, for people.

    `stored` is what it listed of the repository all the same.
    """

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause
        self.detail = remove_password(detail)
        self.stored: StoredCheckpoint | None = None


def load_client(*, talks: bool = True) -> None:
    """Import the client, which reads its environment variables then; ModelUnavailableError when it cannot start.

    Where nobody `talks` to a server its settings are enough: what talks takes an eighth of a second to import.
    """
    try:
        # By module: `from huggingface_hub import hf_hub_url` prints to standard output when it fails.
        importlib.import_module("huggingface_hub.file_download" if talks else "huggingface_hub.constants")
    except (ImportError, ValueError) as error:  # ValueError: HF_ENDPOINT is no address
        raise ModelUnavailableError(
            f"The huggingface_hub client does not start ({one_line(error)}); check HF_ENDPOINT and the installation."
        ) from error


def get_endpoint() -> str:
    """Return the address of the Hub, without a slash at its end."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def describe_endpoint() -> str:
    """Return the address of the Hub as it may be printed: a mirror's may hold a password."""
    return remove_password(one_line(get_endpoint()))


def remove_password(text: str) -> str:
    """Return `text` without what stands before the @ of an address."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def is_offline() -> bool:
    """Tell whether HF_HUB_OFFLINE forbids requests."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def is_valid_id(name: str) -> bool:
    """Tell whether `name` has the form of a Hub id, `org/name` or the legacy `name`."""
    if len(name) <= _LONGEST_PLAIN_ID and _PLAIN_ID.fullmatch(name) and not name.endswith(".git"):
        return True
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not in an __all__

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def is_commit(revision: object) -> bool:
    """Tell whether `revision` is a full commit hash, which never changes its meaning."""
    return isinstance(revision, str) and re.fullmatch(r"[0-9a-f]{40}", revision) is not None


@contextmanager
def silence_client() -> Iterator[None]:
    """Keep the client from writing log lines and progress bars, and put its settings back."""
    from huggingface_hub import constants
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but not in an __all__
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    # Where HF_HUB_DISABLE_PROGRESS_BARS is set, the client ignores any other setting.
    free = constants.HF_HUB_DISABLE_PROGRESS_BARS is None
    shown = [bars for bars in _PROGRESS_BARS if free and not are_progress_bars_disabled(bars)]
    logger.setLevel(logging.CRITICAL + 1)
    for bars in shown:
        disable_progress_bars(bars)
    try:
        yield
    finally:
        for bars in shown:
            enable_progress_bars(bars)
        logger.setLevel(level)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn what the client raises into HubError or, when the cache cannot be written, ModelUnavailableError."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except (HubError, ModelUnavailableError, UnsupportedModelError):
        raise
    except GatedRepoError as error:  # before RepositoryNotFoundError, from which it derives
        raise HubError(Cause.GATED, "the repository is gated") from error
    except RepositoryNotFoundError as error:
        raise HubError(Cause.NOT_FOUND, "no such repository") from error
    except RevisionNotFoundError as error:
        raise HubError(Cause.REVISION, "no such revision") from error
    except HfHubHTTPError as error:
        raise _build_http_error(error) from error
    except find_transport_error() as error:
        raise HubError(Cause.NETWORK, f"{type(error).__name__}: {one_line(error)}") from error
    except EndlessAnswerError as error:
        raise HubError(Cause.NETWORK, f"the answer of {describe_endpoint()} {one_line(error)}") from error
    except OSError as error:
        if error.errno is None or isinstance(error, LocalEntryNotFoundError):
            raise HubError(Cause.NETWORK, one_line(error)) from error
        raise ModelUnavailableError(
            f"The Hugging Face cache cannot be written ({one_line(error)}); set HF_HOME to a directory that can."
        ) from error
    except Exception as error:  # the client parses what a server made up: anything may come out of that
        detail = f"the answer of {describe_endpoint()} is not the Hub's ({type(error).__name__}: {one_line(error, 80)})"
        raise HubError(Cause.NETWORK, detail) from error


def _build_http_error(error: Any) -> HubError:
    status = error.response.status_code
    message = f": {one_line(error.server_message)}" if error.server_message else ""
    temporary = status in (408, 429) or status >= 500 or status < 400
    return HubError(Cause.NETWORK if temporary else Cause.REFUSED, f"HTTP {status} from {describe_endpoint()}{message}")


def find_transport_error() -> type[Exception]:
    """Return the base class of what the HTTP library raises.

    The client's releases differ in the library (httpx, then httpx2), but each derives its own HTTP error from it.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return next(base for base in HfHubHTTPError.__bases__ if base.__name__ == "HTTPError")

"""A Hub id -> its config.json or adapter_config.json, from the Hub or from the local Hugging Face cache.

The huggingface_hub client does all talking, so its environment variables hold here too (HF_ENDPOINT, HF_TOKEN or a
saved login, HF_HOME, HF_HUB_OFFLINE). One `model_info` request resolves the revision to a commit and lists the files;
when the cache has that commit, nothing more is asked for. Otherwise one HEAD request first tells the size and fails at
once, where the download alone would retry for half a minute; then the file is downloaded into the cache.

Whatever a server answers is untrusted: an endpoint may be a mirror. Not covered: weights; they are never downloaded.
"""

from __future__ import annotations

import enum
import importlib
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector.errors import ModelUnavailableError, UnsupportedModelError, one_line, quoted
from inspector.records import Published, ServedFrom, SourceFiles
from inspector.source.bounded_json import MOST_BYTES, read_object
from inspector.source.local import ADAPTER_FILE, CONFIG_FILE
from inspector.units import format_bytes

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

__all__ = [
    "Cause",
    "HubError",
    "ask",
    "endpoint",
    "from_cache",
    "is_commit",
    "is_offline",
    "is_valid_id",
    "load_client",
    "shown_endpoint",
]

_TIMEOUT_SECONDS = 10
_DEFAULT_BRANCH = "main"
_LARGEST_COUNT = 2**63 - 1
# Safetensors' names of floating dtypes and torch's; others (I32, U8, F8_E4M3) hold packed or scaled weights, which say
# nothing about the dtype that the model is loaded in.
_TORCH_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_PROGRESS_BARS = ("huggingface_hub.http_get", "huggingface_hub.xet_get")


class Cause(enum.Enum):
    """Why the Hub did not serve a model; the values are codes of notices.

    NETWORK: not reached, timed out, overloaded (429), broken (5xx), or an answer that is none of the Hub's.
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
    """The Hub did not serve the model; another source may. `detail` is one line, for people."""

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class _Repository:
    """What `model_info` said, checked."""

    commit: str
    filenames: tuple[str, ...]
    published: Published | None
    checkpoint_dtype: str | None


def load_client() -> None:
    """Import the client, which reads its environment variables then; ModelUnavailableError when it cannot start."""
    try:
        # By module: `from huggingface_hub import HfApi` prints to standard output when it fails.
        importlib.import_module("huggingface_hub.hf_api")
    except (ImportError, ValueError) as error:  # ValueError: HF_ENDPOINT is no address
        raise ModelUnavailableError(
            f"The huggingface_hub client does not start ({one_line(error)}); check HF_ENDPOINT and the installation."
        ) from error


def endpoint() -> str:
    """Return the address of the Hub, without a slash at its end."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def shown_endpoint() -> str:
    """Return the address of the Hub as it may be printed: a mirror's may hold a password."""
    return re.sub(r"//[^/@]*@", "//", one_line(endpoint()))


def is_offline() -> bool:
    """Tell whether HF_HUB_OFFLINE forbids requests."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def is_valid_id(name: str) -> bool:
    """Tell whether `name` has the form of a Hub id, `org/name` or the legacy `name`."""
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


def ask(name: str, revision: str | None) -> SourceFiles:
    """Return what the Hub has for `name`; of an adapter, only `adapter_config` and `adapter_id` are filled.

    Raises HubError where another source may still help, ModelUnavailableError when the repository holds no
    configuration or the cache cannot be written, UnsupportedModelError when the file is malformed.
    """
    with _quiet_client(), _translated_errors():
        repository = _describe(name, revision)
        filename = _pick_file(name, repository.filenames)
        path = _cached_file(name, filename, revision)
        if path is None or path.parent.name != repository.commit:
            path = _download(name, filename, revision)
    return _source_files(name, path, ServedFrom.HUB, repository)


def from_cache(name: str, revision: str | None) -> SourceFiles | None:
    """Return what the cache has for `name`, or None; no request is made."""
    with _quiet_client():
        for filename in (ADAPTER_FILE, CONFIG_FILE):
            path = _cached_file(name, filename, revision)
            if path is not None:
                return _source_files(name, path, ServedFrom.CACHE, None)
    return None


def _describe(name: str, revision: str | None) -> _Repository:
    from huggingface_hub import HfApi

    info = HfApi(endpoint=endpoint()).model_info(
        name, revision=revision, timeout=_TIMEOUT_SECONDS, expand=["sha", "siblings", "safetensors"]
    )
    if not is_commit(info.sha) or info.siblings is None:
        raise ValueError("no commit or no list of files")
    filenames = tuple(str(sibling.rfilename) for sibling in info.siblings)
    total, dtypes = _stored_parameters(info)
    published = None
    if total is not None:
        source = f"{shown_endpoint()}/api/models/{name}"
        published = Published(parameters=total, kind="Hub safetensors total", source=source)
    return _Repository(
        commit=str(info.sha),
        filenames=filenames,
        published=published,
        # What transformers' dtype="auto" finds is the dtype of the first weight; the most frequent one is that.
        checkpoint_dtype=max(dtypes, key=lambda dtype: dtypes[dtype]) if dtypes else None,
    )


def _stored_parameters(info: ModelInfo) -> tuple[int | None, dict[str, int]]:
    """Return the total of stored elements and the counts by floating torch dtype, as far as they are sane."""
    stored = info.safetensors
    if stored is None:
        return None, {}
    total = stored.total if _is_count(stored.total) else None
    by_dtype: Mapping[Any, Any] = stored.parameters if isinstance(stored.parameters, Mapping) else {}
    return total, {
        _TORCH_DTYPES[dtype]: count for dtype, count in by_dtype.items() if dtype in _TORCH_DTYPES and _is_count(count)
    }


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST_COUNT


def _pick_file(name: str, filenames: tuple[str, ...]) -> str:
    for filename in (ADAPTER_FILE, CONFIG_FILE):
        if filename in filenames:
            return filename
    held = ", ".join(quoted(filename, 60) for filename in filenames[:4]) or "no file at all"
    more = f" and {len(filenames) - 4} more" if len(filenames) > 4 else ""
    raise ModelUnavailableError(
        f"{quoted(name)} on the Hub has neither {CONFIG_FILE} nor {ADAPTER_FILE} (it holds {held}{more}); "
        "name the repository of the original model."
    )


def _cached_file(name: str, filename: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    try:
        path = try_to_load_from_cache(name, filename, revision=revision or _DEFAULT_BRANCH)
    except (OSError, ValueError) as failure:  # unreadable directories; a reference file that is no text
        raise ModelUnavailableError(
            f"The Hugging Face cache cannot be read ({one_line(failure)}); set HF_HOME to a directory that can."
        ) from failure
    return Path(path) if isinstance(path, str) else None


def _download(name: str, filename: str, revision: str | None) -> Path:
    """Download one file into the cache, by branch name: the client then also notes there what the branch points to."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    revision = revision or _DEFAULT_BRANCH
    url = hf_hub_url(name, filename, revision=revision, endpoint=endpoint())
    size = get_hf_file_metadata(url, timeout=_TIMEOUT_SECONDS).size
    if size is not None and size > MOST_BYTES:
        raise UnsupportedModelError(
            f"{filename} of {quoted(name)} has {format_bytes(size)}, more than the {format_bytes(MOST_BYTES)} "
            "that are read of a configuration; name another model."
        )
    return Path(hf_hub_download(name, filename, revision=revision, endpoint=endpoint()))


def _source_files(name: str, path: Path, served_from: ServedFrom, repository: _Repository | None) -> SourceFiles:
    fields = read_object(path, f"{path.name} of {quoted(name)}")
    commit = path.parent.name  # the cache keeps a directory for each commit
    if path.name == ADAPTER_FILE:
        return SourceFiles(
            id=name, revision=commit, served_from=served_from, config={}, adapter_config=fields, adapter_id=name
        )
    # A branch can move between the two requests; what was said of the older commit is then left out.
    described = repository if repository is not None and repository.commit == commit else None
    return SourceFiles(
        id=name,
        revision=commit,
        served_from=served_from,
        config=fields,
        code_location=name,
        checkpoint_dtype=described.checkpoint_dtype if described else None,
        published=described.published if described else None,
    )


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Keep the client from writing log lines and progress bars, and put its settings back."""
    from huggingface_hub import constants
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but not in an __all__
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    # Where HF_HUB_DISABLE_PROGRESS_BARS is set, its user has decided and the client lets nobody else.
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
def _translated_errors() -> Iterator[None]:
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
    except (ModelUnavailableError, UnsupportedModelError):
        raise
    except GatedRepoError as error:  # before RepositoryNotFoundError, from which it derives
        raise HubError(Cause.GATED, "the repository is gated") from error
    except RepositoryNotFoundError as error:
        raise HubError(Cause.NOT_FOUND, "no such repository") from error
    except RevisionNotFoundError as error:
        raise HubError(Cause.REVISION, "no such revision") from error
    except HfHubHTTPError as error:
        raise _http_failure(error) from error
    except _transport_error() as error:
        raise HubError(Cause.NETWORK, f"{type(error).__name__}: {one_line(error)}") from error
    except OSError as error:
        if error.errno is None or isinstance(error, LocalEntryNotFoundError):
            raise HubError(Cause.NETWORK, one_line(error)) from error
        raise ModelUnavailableError(
            f"The Hugging Face cache cannot be written ({one_line(error)}); set HF_HOME to a directory that can."
        ) from error
    except Exception as error:  # the client parses what a server made up: anything may come out of that
        detail = f"the answer of {shown_endpoint()} is not the Hub's ({type(error).__name__}: {one_line(error, 80)})"
        raise HubError(Cause.NETWORK, detail) from error


def _http_failure(error: Any) -> HubError:
    status = error.response.status_code
    said = f": {one_line(error.server_message)}" if error.server_message else ""
    temporary = status in (408, 429) or status >= 500 or status < 400
    return HubError(Cause.NETWORK if temporary else Cause.REFUSED, f"HTTP {status} from {shown_endpoint()}{said}")


def _transport_error() -> type[Exception]:
    """Return the base class of what the HTTP library raises.

    The client's releases differ in the library (httpx, then httpx2), but each derives its own HTTP error from it.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return next(base for base in HfHubHTTPError.__bases__ if base.__name__ == "HTTPError")

"""An address of the Hub as a browser shows it -> the id and the revision that it names.

Known are huggingface.co, hf.co and the host of HF_ENDPOINT; the first two may lack `https://`. Behind the id may stand
`/tree/REVISION`, or `/blob/REVISION/FILE` and its like with a file at the top of the repository. No request is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from inspector.errors import ModelUnavailableError, quoted

__all__ = ["Address", "looks_like_address", "read_address"]

_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
# What stands before the id of something else.
_OTHERS = {"datasets": "dataset", "spaces": "Space"}
# Pages of the Hub that are nobody's repository.
_PAGES = ("api", "blog", "collections", "docs", "join", "learn", "models", "organizations", "papers", "tasks")
_AT_A_REVISION = ("tree", "blob", "resolve", "raw", "commit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What an address names; `revision` is None where it names none."""

    id: str
    revision: str | None


def looks_like_address(name: str) -> bool:
    """Tell whether a name is written as an address, of the Hub or of another place."""
    return name.lower().startswith(("https://", "http://", *(f"{host}/" for host in _HOSTS)))


def read_address(name: str, endpoint: str) -> Address | None:
    """Return what `name` is the address of, None where it is no address of the Hub; `endpoint` is HF_ENDPOINT's value.

    Raises ModelUnavailableError for an address of something else than a model.
    """
    if not looks_like_address(name):
        return None
    has_scheme = "://" in name
    try:
        written, mirror = urlsplit(name if has_scheme else f"https://{name}"), urlsplit(endpoint)
        known = written.hostname in _HOSTS or (written.hostname, written.port) == (mirror.hostname, mirror.port)
    except ValueError:  # a port that is no number
        return None
    if not known:
        return None
    path = written.path
    if written.hostname == mirror.hostname:
        path = path.removeprefix(mirror.path.rstrip("/"))
    parts = [unquote(part) for part in path.split("/") if part]
    if parts[:2] == ["api", "models"]:
        parts = parts[2:]
    return _read_path(name, parts)


def _read_path(name: str, parts: list[str]) -> Address:
    """Return what the path of an address names."""
    if parts and parts[0] in _OTHERS:
        raise ModelUnavailableError(
            f"{quoted(name)} is the address of a {_OTHERS[parts[0]]}, not a model's; name a model by its Hub id: "
            "'org/name'."
        )
    marks = [index for index, part in enumerate(parts) if part in _AT_A_REVISION and index in (1, 2)]
    owner = parts[: marks[0]] if marks else parts[:2]
    rest = parts[len(owner) :]
    if not owner or owner[0] in _PAGES:
        raise ModelUnavailableError(f"{quoted(name)} names no repository; name a model by its Hub id: 'org/name'.")
    revision, inside = (rest[1] if len(rest) > 1 else None, rest[2:]) if marks else (None, [])
    if len(inside) > 1 or (inside and rest[0] == "tree"):
        raise ModelUnavailableError(
            f"{quoted(name)} leads into a folder of {quoted('/'.join(owner))}, and only what is at the top of a "
            "repository is read; download that folder and name its path."
        )
    # A browser shows the default branch always; only another one was chosen.
    return Address(id="/".join(owner), revision=None if revision == "main" else revision)

"""A Hugging Face Hub on 127.0.0.1: the routes, headers and error codes that the real client asks for, and its failures.

    with LoopbackHub() as hub:
        hub.host("org/model", {"config.json": b"{}"})
        ...  # HF_ENDPOINT=hub.endpoint
        assert hub.requests == ["GET /api/models/org/model", ...]

It answers `GET /api/models/<id>[/revision/<revision>]`, `/api/models/<id>/refs` and `.../tree/<revision>`,
`/api/datasets/<id>`, `/api/spaces/<id>` and `HEAD` or `GET /<id>/resolve/<revision>/<file>` as huggingface.co does:
sizes of files, a commit in X-Repo-Commit, an ETag, ranges, X-Error-Code with 401, 403 and 404, redirects of renamed
repositories and, for weights, to a store of its own (`stores_apart`). Everything else about the Hub is left out.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["Broken", "HostedRepository", "LoopbackHub", "commit_of"]

_INFO = re.compile(r"/api/models/(?P<id>[^/]+(?:/[^/]+)?)(?:/revision/(?P<revision>[^/]+))?")
_TREE = re.compile(r"/api/models/(?P<id>[^/]+(?:/[^/]+)?)/tree/(?P<revision>[^/]+)")
_REFS = re.compile(r"/api/models/(?P<id>[^/]+(?:/[^/]+)?)/refs")
_OTHER = re.compile(r"/api/(?P<kind>datasets|spaces)/(?P<id>.+)")
_STORE = re.compile(r"/store/(?P<digest>[0-9a-f]{40})")
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")
_FILE = re.compile(r"/(?P<id>[^/]+(?:/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


def commit_of(word: str) -> str:
    """Return a full commit hash that stands for `word`."""
    return hashlib.sha1(word.encode()).hexdigest()


@dataclass(kw_only=True)
class HostedRepository:
    """A repository: files by commit, branches, who may read it, and what `model_info` says beside that.

    `sizes` are told instead of the real ones.
    """

    files: dict[str, dict[str, bytes]]
    branches: dict[str, str]
    gated: bool = False
    private: bool = False
    info: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Broken:
    """How every request whose path contains `where` is answered: with a status, with a text, or cut off by None.

    The text drips, a byte every `pause` seconds, where that is set. After `times` requests the Hub works again. Where
    `command` is set, only that kind of request fails, GET or HEAD.
    """

    status: int = 200
    body: bytes | None = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    where: str = "/"
    pause: float = 0
    times: int | None = None
    command: str = ""


class LoopbackHub:
    """The server; `requests` lists what it was asked for, `broken` makes it fail, `token` opens what is not public.

    `ranges` off, it sends whole files. `sent_bytes` is what it has sent of files by GET.
    """

    token = "hf_loopback"

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.repositories: dict[str, HostedRepository] = {}
        self.renamed: dict[str, str] = {}
        self.broken: Broken | None = None
        self.others: dict[str, str] = {}
        self.ranges = True
        self.stores_apart = False
        self.sent_bytes = 0
        self.store: dict[str, bytes] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_for(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def endpoint(self) -> str:
        """Return the address for HF_ENDPOINT; it still refuses connections once the server is closed."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def host(self, name: str, files: dict[str, bytes], *, commit: str = "first", **facts: Any) -> HostedRepository:
        """Add or replace a repository whose main branch is at the commit that `commit` stands for."""
        sha = commit_of(commit)
        self.repositories[name] = HostedRepository(files={sha: files}, branches={"main": sha}, **facts)
        return self.repositories[name]

    def close(self) -> None:
        """Stop answering; connections are refused from here on."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> LoopbackHub:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _handler_for(hub: LoopbackHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            hub.requests.append(f"{self.command} {path}")
            broken = hub.broken
            failed = sum(broken.where in request for request in hub.requests) if broken else 0
            if broken is None or not self.command.startswith(broken.command) or broken.where not in path:
                broken = None
            if broken is not None and (broken.times is None or failed <= broken.times):
                self._break(broken)
            elif match := _TREE.fullmatch(path):
                self._tree(match["id"], unquote(match["revision"]))
            elif match := _REFS.fullmatch(path):
                self._refs(match["id"])
            elif match := _OTHER.fullmatch(path):
                self._answer(200 if hub.others.get(match["id"]) == match["kind"] else 401, b"{}")
            elif match := _STORE.fullmatch(path):
                self._content(hub.store[match["digest"]], {})
            elif match := _INFO.fullmatch(path):
                self._info(match["id"], unquote(match["revision"] or "main"))
            elif match := _FILE.fullmatch(path):
                self._file(match["id"], unquote(match["revision"]), match["file"])
            else:
                self._answer(404, b"{}")

        do_HEAD = do_GET  # noqa: N815, as above

        def _info(self, name: str, revision: str) -> None:
            found = self._allowed(name, revision)
            if found is None:
                return
            repository, commit = found
            files = repository.files[commit]
            siblings = [
                {"rfilename": filename, "size": repository.sizes.get(filename, len(content))}
                for filename, content in files.items()
            ]
            info = {"id": name, "sha": commit, "siblings": siblings, **repository.info}
            self._answer(200, json.dumps(info).encode())

        def _file(self, name: str, revision: str, filename: str) -> None:
            found = self._allowed(name, revision)
            if found is None:
                return
            repository, commit = found
            # As on the real Hub, everybody may list a gated repository, but not read its files.
            if repository.gated and not self._has_token():
                self._answer(401, b"{}", {"X-Error-Code": "GatedRepo"})
            elif filename not in repository.files[commit]:
                self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            else:
                content = repository.files[commit][filename]
                etag = hashlib.sha1(content).hexdigest()
                facts = {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}
                if hub.stores_apart and filename.endswith(".safetensors"):
                    hub.store[etag] = content
                    linked = {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{etag}"'}
                    self._answer(302, b"", {**facts, **linked, "Location": f"{hub.endpoint}/store/{etag}"})
                else:
                    self._content(content, facts)

        def _content(self, content: bytes, headers: dict[str, str]) -> None:
            """Send a file, or the part of it that was asked for."""
            asked = _RANGE.fullmatch(self.headers.get("Range", "")) if hub.ranges else None
            if asked is None:
                self._answer(200, content, headers)
                return
            start, end = int(asked[1]), min(int(asked[2]), len(content) - 1)
            if start > end:
                self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            part = {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
            self._answer(206, content[start : end + 1], {**headers, **part})

        def _tree(self, name: str, revision: str) -> None:
            found = self._allowed(name, revision)
            if found is not None:
                files = found[0].files[found[1]]
                self._answer(
                    200,
                    json.dumps(
                        [
                            {"type": "file", "path": filename, "size": len(content), "oid": commit_of(filename)}
                            for filename, content in files.items()
                        ]
                    ).encode(),
                )

        def _refs(self, name: str) -> None:
            found = self._allowed(name, "main")
            if found is not None:
                branches = [{"name": branch, "ref": f"refs/heads/{branch}"} for branch in found[0].branches]
                self._answer(200, json.dumps({"branches": branches, "tags": []}).encode())

        def _allowed(self, name: str, revision: str) -> tuple[HostedRepository, str] | None:
            """Return the repository and commit, or answer the request with why not."""
            if name in hub.renamed:
                self._answer(307, b"", {"Location": self.path.replace(f"/{name}", f"/{hub.renamed[name]}", 1)})
                return None
            repository = hub.repositories.get(name)
            if repository is None or (repository.private and not self._has_token()):
                self._answer(401, b'{"error": "Invalid username or password."}', {"X-Error-Code": "RepoNotFound"})
                return None
            commit = repository.branches.get(revision, revision)
            if commit not in repository.files:
                self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                return None
            return repository, commit

        def _has_token(self) -> bool:
            return self.headers.get("Authorization") == f"Bearer {hub.token}"

        def _break(self, broken: Broken) -> None:
            if broken.body is not None:
                self._answer(broken.status, broken.body, broken.headers, pause=broken.pause)

        def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, pause: float = 0) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "GET":
                return
            try:
                for piece in (body[index : index + 1] for index in range(len(body))) if pause else (body,):
                    self.wfile.write(piece)
                    hub.sent_bytes += len(piece)
                    time.sleep(pause)
            except OSError:  # whoever asked has enough
                pass

        def log_message(self, *_: object) -> None:
            pass

    return Handler

"""The server of `inspect app`: Gradio's page, the answers beside it, and what a stranger may make the process do.

Gradio fetches addresses and files for whoever asks in its own format. None of that is wanted here: once it listens,
this process opens nothing but code and what was uploaded, and connects to nothing (`runtime.confinement`). Workers,
which ask the Hub, are processes of their own.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from types import FrameType
from typing import Any

from inspector.app.answers import KeptAnswers
from inspector.app.pool import Limits, WorkerPool, remove_folder
from inspector.app.service import Service
from inspector.errors import UsageError, one_line
from inspector.runtime.confinement import confine, list_code_folders

__all__ = ["serve"]

_ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_MCP_SERVER": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
# What a browser may load for the page: nothing from elsewhere. Gradio's scripts need what is written inline.
_POLICY = "; ".join(
    (
        "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
)
# An answer is a page of its own wherever it is opened, and brings a policy that is stricter still.
_ANSWER_HEADERS = {
    "Content-Encoding": "gzip",
    "Content-Security-Policy": "sandbox allow-scripts allow-popups",
    "Cache-Control": "private, max-age=60",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_GONE = "<!doctype html><title>gone</title><p>This answer is no longer kept: ask again on the page."

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def serve(
    *, host: str, port: int, workers: int, memory_bytes: int, seconds: float, waiting: int, with_token: bool
) -> None:
    """Serve the page until the process is asked to end; InspectorError where it cannot be."""
    limits = Limits(memory_bytes=memory_bytes, seconds=seconds, waiting=waiting)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, _end)
    place = Path(tempfile.mkdtemp(prefix="inspect-app-"))
    os.environ |= _ENVIRONMENT | {"GRADIO_TEMP_DIR": str(place / "uploads")}
    tempfile.tempdir = str(place)
    pool = WorkerPool(workers, limits, place, with_token=with_token)
    try:
        listening = _listen(host, port)
        _check_installed()
        pool.start()
        application = _Guarded(_build_application(Service(pool, KeptAnswers())))
        import uvicorn

        config = uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=1)
        confine(folders=[*list_code_folders(), place], hosts=())
        print(f"inspect: {_spell_address(listening)} (Ctrl-C ends it)", file=sys.stderr, flush=True)
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        pool.stop()
        remove_folder(place)


def _end(_signal: int, _frame: FrameType | None) -> None:
    """End the process as at the end of its work; while it serves, uvicorn hears signals instead."""
    raise SystemExit(0)


def _check_installed() -> None:
    """Raise UsageError where the libraries of the extra are not there; they are imported beside the workers' start."""
    missing = [name for name in ("gradio", "fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"inspect app needs {missing[0]}, which is not installed; add it with pip install 'model-inspector[app]'."
        )


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that visitors can connect to; UsageError where the port is taken or the host is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        reason = one_line(error.strerror or error).lower()
        raise UsageError(f"{host}:{port} cannot be listened at ({reason}); give another --port or --host.") from error
    return listening


def _spell_address(listening: socket.socket) -> str:
    """Return the address of the page for a browser on this machine."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # compared, not bound
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _build_application(service: Service) -> Any:
    """Return the page with the answers beside it."""
    import gradio
    from fastapi import FastAPI, Response

    from inspector.app.blocks import MOST_UPLOAD_BYTES, STYLE, build_blocks, build_theme

    application = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    def find_answer(key: str) -> Response:
        page = service.answers.find_page(key)
        if page is None:
            return Response(_GONE, status_code=404, media_type="text/html")
        return Response(page, media_type="text/html; charset=utf-8", headers=_ANSWER_HEADERS)

    application.get("/answers/{key}")(find_answer)
    return gradio.mount_gradio_app(
        application,
        build_blocks(service),
        path="/",
        footer_links=[],
        show_error=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        max_file_size=MOST_UPLOAD_BYTES,
        theme=build_theme(),
        css=STYLE,
    )


class _Guarded:
    """An application without the routes by which Gradio fetches addresses, and with a policy for its pages."""

    def __init__(self, application: Any) -> None:
        self._application = application

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer a request."""
        path = scope.get("path", "")
        if scope["type"] == "http" and any(name in path for name in ("/proxy=", "/file=http", "/stream/")):
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return

        async def send_with_policy(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                if not any(name.lower() == b"content-security-policy" for name, _ in headers):
                    headers.append((b"content-security-policy", _POLICY.encode()))
                message["headers"] = headers
            await send(message)

        await self._application(scope, receive, send_with_policy)

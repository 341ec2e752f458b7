"""A running `inspect app`, and visitors who speak to it as its page does: Gradio's queue over HTTP.

with serve("--workers", "1", environment={"HF_ENDPOINT": hub.endpoint}) as app:
    told = Visitor(app.address).ask(model="org/model")
    assert told.said == "answered in ..."
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import html
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspector.app.form import Form

ROOT = Path(__file__).parents[2]
# The order in which the page has its controls; the two states behind them are the server's own.
ORDER = (
    *("model", "gpus", "adapter", "rank", "quantization", "batch_size", "seq_len"),
    *("targets", "gradient_checkpointing", "mixed_precision", "optimizer", "gradient_accumulation", "advice"),
)
PATIENCE_SECONDS = 120


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a visitor sees after a question: the line, the command, the frame, and all lines before the last one."""

    said: str
    command: str
    frame: str
    before: tuple[str, ...]
    settings: Mapping[str, Any]

    @property
    def address(self) -> str:
        """Return where the answer is."""
        found = re.search(r'src="([^"]+)"', self.frame)
        assert found is not None, self
        return found[1]


@dataclass(frozen=True, kw_only=True)
class App:
    """A server: where it is, its process, and the file that it prints to."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path

    def list_workers(self) -> list[int]:
        """Return the worker processes."""
        pid = self.process.pid
        threads = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for thread in threads for child in (thread / "children").read_text().split()]


@contextlib.contextmanager
def serve(
    folder: Path, *options: str, environment: Mapping[str, str], program: tuple[str, ...] = ("-m", "inspector", "app")
) -> Iterator[App]:
    """Start the app on a free port in a folder, and end it as Ctrl-C does; `program` is what Python is to run."""
    log = folder / "app.log"
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), **environment}
    surroundings.pop("HF_HUB_OFFLINE", None)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            (sys.executable, *program, *(() if program[0] != "-m" else ("--port", "0")), *options),
            stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, env=surroundings, cwd=folder,
        )  # fmt: skip
    try:
        yield App(address=_wait_for_address(process, log), process=process, log=log)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def _wait_for_address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the address that the app says it listens at."""
    while True:
        found = re.search(r"http://[\d.:]+", log.read_text())
        if found:
            return found[0]
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise AssertionError(f"it ended with {process.wait(0.2)}: {log.read_text()}")


def get(address: str) -> tuple[int, bytes]:
    """Return the status and the body of an address, unpacked."""
    try:
        with urllib.request.urlopen(address, timeout=PATIENCE_SECONDS) as answer:
            body = answer.read()
            return answer.status, gzip.decompress(body) if answer.headers["Content-Encoding"] == "gzip" else body
    except urllib.error.HTTPError as error:
        return error.code, error.read()


class Visitor:
    """Somebody with the page open."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.session = uuid.uuid4().hex

    @functools.cached_property
    def _dependencies(self) -> dict[tuple[str, str], int]:
        """Return the numbers of the page's handlers by the element and the event that start them."""
        config = json.loads(get(f"{self.address}/config")[1])
        elements = {item["id"]: item["props"].get("elem_id") for item in config["components"]}
        return {
            (elements[target], event): dependency["id"]
            for dependency in config["dependencies"]
            for target, event in dependency["targets"]
            if elements.get(target)
        }

    def ask(self, *, plan: bool = False, **settings: Any) -> Told:
        """Press the button with these settings in the page."""
        form = dataclasses.asdict(Form()) | {"gpus": []} | settings
        data = [*(form[name] for name in ORDER), None, None]
        shown = self._send("ask-plan" if plan else "ask", "click", data)
        *before, last = shown  # what is not changed is a mapping that says so
        said, command, frame, *filled = (None if isinstance(value, dict) else value for value in last)
        lines = tuple(_read_line(values[0]) for values in before)
        settings = dict(zip(ORDER, filled, strict=False))
        return Told(
            said=_read_line(str(said)), command=command or "", frame=frame or "", before=lines, settings=settings
        )

    def drop(self, name: str, content: bytes) -> Any:
        """Drop a file on the page; what the page then asks is asked by `ask`."""
        return self.claim_file(self._upload(name, content), name)

    def claim_file(self, path: str, name: str, **fields: Any) -> Any:
        """Say that a file was uploaded to a path of the server."""
        file = {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}, **fields}
        return self._send("file", "upload", [file])[-1]

    def _upload(self, name: str, content: bytes) -> str:
        """Upload a file and return where the server has it."""
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        request = urllib.request.Request(
            f"{self.address}/gradio_api/upload", data=head + content + f"\r\n--{boundary}--\r\n".encode(),
            headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            (path,) = json.load(answer)
        return str(path)

    def _send(self, element: str, event: str, data: list[Any]) -> list[list[Any]]:
        """Start a handler of the page and return what it shows, one list of outputs after the other."""
        body = {"data": data, "fn_index": self._dependencies[element, event], "session_hash": self.session}
        request = urllib.request.Request(
            f"{self.address}/gradio_api/queue/join", data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            mine = json.load(answer)["event_id"]
        listened = f"{self.address}/gradio_api/queue/data?session_hash={self.session}"
        shown: list[list[Any]] = []
        with urllib.request.urlopen(listened, timeout=PATIENCE_SECONDS) as stream:
            for line in stream:
                message = json.loads(line[5:]) if line.startswith(b"data:") else {}
                if message.get("event_id") not in (None, mine):
                    continue
                if message.get("msg") == "process_generating":
                    output = message["output"]["data"]
                    shown.append(output if not shown else _apply(shown[-1], output))
                elif message.get("msg") == "process_completed":
                    if not message["success"]:
                        raise VisitorError(str(message["output"]))
                    return shown or [message["output"]["data"]]
        raise AssertionError("the stream ended before the answer")


class VisitorError(Exception):
    """The page refused what was sent."""


def _apply(before: list[Any], changes: list[Any]) -> list[Any]:
    """Return outputs after the changes that Gradio sends in their place: operation, path and value of each."""
    return [_change(value, changed) for value, changed in zip(before, changes, strict=True)]


def _change(value: Any, changes: Any) -> Any:
    """Return a value after its changes."""
    for operation, path, given in changes:
        if not path:
            value = value + given if operation == "append" else given
        else:
            first, *rest = path
            value = value.copy()
            if operation == "delete" and not rest:
                del value[first]
            elif operation == "add" and not rest and isinstance(value, list):
                value.insert(first, given)
            else:
                inner = value.get(first) if isinstance(value, dict) else value[first]
                value[first] = _change(inner, [(operation, rest, given)])
    return value


def _read_line(said: str) -> str:
    """Return the text of the line above the answer."""
    return html.unescape(re.sub(r"<[^>]*>", "", said))

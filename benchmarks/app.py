"""How soon `inspect app` answers: a new recipe, a slider, the same question again.

    inspect app --port 7860 & python benchmarks/app.py http://127.0.0.1:7860

asks a running app as its page does, from the click to the answer with its page, each question a few times. For each it
prints the median of the seconds that a visitor waits and, where the app runs on this machine, of the processor time
that all its processes took: on a machine that does other work the second is what can be compared. What the Hub takes is
in both.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The controls of the page, in its order; the two states behind them are the server's.
_FORM = {
    "model": "Qwen/Qwen3-8B",
    "gpus": ["rtx-4090"],
    "adapter": "lora",
    "rank": 16,
    "quantization": "auto",
    "batch_size": 1,
    "seq_len": 1024,
    "targets": "all-linear",
    "gradient_checkpointing": "auto",
    "mixed_precision": "no",
    "optimizer": "adamw_torch_fused",
    "gradient_accumulation": 1,
    "advice": False,
}
_EIGHT_BILLION = ("meta-llama/Llama-3.1-8B", "Qwen/Qwen3-8B", "Qwen/Qwen2.5-7B", "mistralai/Mistral-7B-v0.1")


def main(address: str) -> None:
    """Print a line for each kind of question."""
    app = _App(address.rstrip("/"))
    app.ask()  # the first worker may still start
    lengths = iter(range(1040, 2**17, 16))
    kinds: dict[str, list[dict[str, Any]]] = {
        "another model of 8 B": [{"model": model, "rank": 24} for model in _EIGHT_BILLION],
        "another adapter": [{"rank": rank} for rank in (8, 32, 64, 128)],
        "another sequence length": [{"seq_len": next(lengths)} for _ in range(8)],
        "another batch size": [{"batch_size": size} for size in (2, 3, 4, 6, 8)],
        "with changes that make it fit": [{"advice": True, "seq_len": next(lengths)} for _ in range(3)],
        "the same again": [{}] * 8,
    }
    for kind, questions in kinds.items():
        waited, worked = zip(*(app.measure(question) for question in questions), strict=True)
        print(f"{kind}: {statistics.median(waited):.2f} s, {statistics.median(worked):.2f} s of processor time")


class _App:
    """The app at an address."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._session = uuid.uuid4().hex
        config = json.loads(self._get("config"))
        button = next(item["id"] for item in config["components"] if item["props"].get("elem_id") == "ask")
        handlers = ((item["id"], target) for item in config["dependencies"] for target, _ in item["targets"])
        self._handler = next(handler for handler, target in handlers if target == button)
        self._pid = _find_process(int(self._address.rpartition(":")[2]))

    def measure(self, changes: dict[str, Any]) -> tuple[float, float]:
        """Return the seconds and the processor seconds that a question takes with its page."""
        used, begun = _add_up_processor_time(self._pid), time.perf_counter()
        self.ask(**changes)
        return time.perf_counter() - begun, _add_up_processor_time(self._pid) - used

    def ask(self, **changes: Any) -> None:
        """Press the button and load the answer."""
        data = [*(_FORM | changes).values(), None, None]
        body = {"data": data, "fn_index": self._handler, "session_hash": self._session}
        self._get("gradio_api/queue/join", json.dumps(body).encode())
        text = self._get(f"gradio_api/queue/data?session_hash={self._session}").decode()
        found = text.rpartition("answers/")[2].partition("\\")[0]
        if "answered in" not in text:
            raise SystemExit(f"no answer: {text[-500:]}")
        self._get(f"answers/{found}")

    def _get(self, path: str, data: bytes | None = None) -> bytes:
        """Return what the app answers."""
        where, kind = f"{self._address}/{path}", {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(where, data, kind)) as answer:  # noqa: S310  # typed by us
            body: bytes = answer.read()
        return body


def _find_process(port: int) -> int | None:
    """Return the process of this machine that was started to serve a port, None where there is none."""
    for folder in Path("/proc").glob("[0-9]*"):
        words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0") if folder.exists() else []
        if "app" in words and str(port) in words and int(folder.name) != os.getpid():
            return int(folder.name)
    return None


def _add_up_processor_time(pid: int | None) -> float:
    """Return the processor seconds of a process and its children, those that ended included."""
    if pid is None:
        return float("nan")
    ticks = 0
    for each in (pid, *_list_children(pid)):
        # The fields behind the name: user, system, and both of children that were waited for (proc(5)).
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _list_children(pid: int) -> Iterator[int]:
    """Yield the children of a process."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield from map(int, (task / "children").read_text().split())


if __name__ == "__main__":
    main(sys.argv[1])

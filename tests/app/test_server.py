"""A running `inspect app`: many visitors, and those who want what they shall not have.

Runs where gradio is installed, as `INSPECTOR_LEGS=app .ci/run` does (requirements-app.txt).
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.app.running import PATIENCE_SECONDS, ROOT, App, Told, Visitor, VisitorError, get, serve
from tests.cli.running import bundled_config
from tests.source.loopback_hub import Broken, HostedRepository, LoopbackHub, commit_of

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of sockets that a server closes first
]
TOKEN = "hf_" + "x" * 30
FILE = b"base_model: org/small\nadapter: lora\nlora_r: 2\nlora_target_linear: true\nsequence_len: 64\n"


def write_config(**changes: object) -> bytes:
    """Return the config.json of a model of two layers."""
    return json.dumps({**bundled_config("Qwen/Qwen2.5-0.5B"), "num_hidden_layers": 2, **changes}).encode()


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    """Run a Hub."""
    with LoopbackHub() as running:
        running.token = TOKEN
        running.host("org/small", {"config.json": write_config()})
        running.host("org/other", {"config.json": write_config(num_hidden_layers=3)})
        private = HostedRepository(
            files={commit_of("main"): {"config.json": write_config()}},
            branches={"main": commit_of("main")},
            private=True,
        )
        running.repositories["org/private"] = private
        code = {"auto_map": {"AutoModelForCausalLM": "code.Model"}, "model_type": "own", "architectures": ["Own"]}
        running.host("org/code", {"config.json": write_config(**code), "code.py": b"raise SystemExit(9)"})
        yield running


@pytest.fixture(scope="module")
def other_host() -> Iterator[LoopbackHub]:
    """Run a server that nobody shall ask."""
    with LoopbackHub() as running:
        running.host("org/small", {"config.json": write_config()})
        yield running


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of a model on the server's machine, which is nobody's business."""
    folder = tmp_path_factory.mktemp("secret")
    (folder / "config.json").write_bytes(write_config(num_hidden_layers=5))
    (folder / "zero.json").write_text('{"zero_optimization": {"stage": 3}}')
    return folder


@pytest.fixture(scope="module")
def app(hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """Run the app, with a token and a cache of its owner that no visitor shall use."""
    folder = tmp_path_factory.mktemp("app")
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HOME": str(folder / "owner")}
    with serve(folder, "--workers", "2", "--memory", "3", environment=environment) as running:
        yield running
    assert running.process.returncode == 0
    # Gradio has tracebacks of what it refuses; ours would be of a worker.
    assert "WorkerTraceback" not in running.log.read_text()
    # The folders of the workers and what was uploaded.
    assert [item.name for item in folder.iterdir()] == ["app.log"]


def read_page(app: App, told: Told) -> str:
    """Return the text of the answer."""
    status, body = get(f"{app.address}/{told.address}")
    assert status == 200
    return body.decode()


def test_two_visitors_at_once_get_their_own_answers(app: App) -> None:
    """Each with the command line that gives it; neither sees what the other asked."""
    told: dict[str, Told] = {}

    def visit(model: str, seq_len: int) -> None:
        told[model] = Visitor(app.address).ask(model=model, seq_len=seq_len, gpus=["4090"])

    visitors = [threading.Thread(target=visit, args=pair) for pair in (("org/small", 32), ("org/other", 48))]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join(PATIENCE_SECONDS)
    for model, seq_len in (("org/small", 32), ("org/other", 48)):
        assert told[model].said.startswith("answered in ")
        assert told[model].command == (
            f"inspect {model} --lora r=16 --targets all-linear --seq-len {seq_len} --gpu 4090 --no-advice"
        )
        page = read_page(app, told[model])
        assert f"<h1>{model}</h1>" in page
        assert f"sequence length {seq_len}" in page
        assert f"{told[model].command} --format html --output report.html" in page
    assert any("tracing" in line for line in told["org/small"].before)


def test_a_repeated_question_asks_nobody(app: App, hub: LoopbackHub) -> None:
    """And another length of the same model asks a worker that has its files, or one that asks the Hub once."""
    first = Visitor(app.address).ask(model="org/small", seq_len=40)
    asked = len(hub.requests)
    again = Visitor(app.address).ask(model="org/small", seq_len=40)
    assert (again.command, again.frame) == (first.command, first.frame)
    assert again.before == ()
    assert len(hub.requests) == asked


def test_a_plan_is_answered_with_its_table(app: App) -> None:
    told = Visitor(app.address).ask(plan=True, model="org/small", gpus=["4090"], seq_len=32)
    assert told.command == (
        "inspect plan org/small --lora r=16 --targets all-linear --seq-len 32 --gpu 4090 --fit none"
    )
    assert "qlora" in read_page(app, told).lower()


def test_a_training_file_of_100_kb_fills_the_page(app: App) -> None:
    """Its comments are most of it; a slider that is moved then goes before it."""
    visitor = Visitor(app.address)
    visitor.drop("my run.yaml", FILE + b"# " + b"x" * 100_000)
    told = visitor.ask(model="")
    assert told.command == "inspect my_run.yaml"
    assert (told.settings["model"], told.settings["rank"], told.settings["seq_len"]) == ("org/small", 2, 64)
    settings = {name: value for name, value in told.settings.items() if name != "seq_len"}
    again = visitor.ask(**settings, seq_len=96)
    assert again.command == "inspect my_run.yaml --seq-len 96"
    assert "sequence length 96" in read_page(app, again)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("bomb.yaml", b"a: &a [x,x,x,x,x,x,x,x]\n" + b"".join(
            b"%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n" % (n, n, *([n - 1] * 8)) for n in range(98, 110)
        ), "values"),
        ("deep.yaml", b"[" * 100_000, "nests deeper"),
        ("keys.yaml", b"".join(b"key%d: 1\n" % n for n in range(9_000)), "no file of a trainer"),
        ("code.py", b"import os\nos.system('touch /tmp/ran')\n", "makes no TrainingArguments"),
        ("tag.yaml", b"base_model: !!python/object/apply:os.system ['touch /tmp/ran']\n", "not valid YAML"),
        ("zeros.yaml", b"\0" * 100_000, "not valid YAML"),
    ],
)  # fmt: skip
def test_a_hostile_training_file_is_refused_in_one_line(app: App, name: str, content: bytes, said: str) -> None:
    visitor = Visitor(app.address)
    visitor.drop(name, content)
    told = visitor.ask(model="")
    assert said in told.said
    assert told.frame == ""
    assert not Path("/tmp/ran").exists()


def test_a_file_that_is_too_large_is_not_taken(app: App) -> None:
    with pytest.raises(urllib.error.HTTPError, match="413"):
        Visitor(app.address).drop("large.yaml", b"# " + b"x" * (3 * 2**20))


def test_a_model_of_a_trillion_parameters_is_answered(app: App) -> None:
    """From the catalogue, since this Hub has it not."""
    told = Visitor(app.address).ask(model="moonshotai/Kimi-K2-Instruct", gpus=["h200"])
    assert told.said.startswith("answered in "), told.said
    assert "1.03 T" in read_page(app, told)


def test_a_model_that_does_not_exist_is_one_line(app: App) -> None:
    told = Visitor(app.address).ask(model="org/nothing")
    assert "has no public model 'org/nothing'" in told.said
    assert (told.command, told.frame) == ("", "")


def test_nobody_uses_the_token_of_whoever_serves_the_page(app: App, hub: LoopbackHub) -> None:
    told = Visitor(app.address).ask(model="org/private")
    assert "has no public model 'org/private'" in told.said


def test_code_of_a_repository_is_not_run(app: App) -> None:
    told = Visitor(app.address).ask(model="org/code")
    assert "code" in told.said
    assert "trust" in told.said.lower()


def test_paths_and_other_hosts_are_refused(app: App, secret: Path, other_host: LoopbackHub) -> None:
    """In the same words whether there is something or not; nobody else is asked."""
    visitor = Visitor(app.address)
    names = ["/etc/passwd", "../..", str(secret), f"{secret}/config.json", "~", "/nothing/here", "file:///etc/passwd"]
    for name in names:
        told = visitor.ask(model=name)
        assert "is no Hub id" in told.said, name
        assert told.frame == ""
    told = visitor.ask(model=f"{other_host.endpoint}/org/small")
    assert "is an address of no Hub that is known here" in told.said
    assert other_host.requests == []


def test_a_hub_that_leads_elsewhere_is_not_followed(app: App, hub: LoopbackHub, other_host: LoopbackHub) -> None:
    """Its answers may come from its own host and from where it keeps files, and from no other."""
    elsewhere = other_host.endpoint.replace("127.0.0.1", "localhost")
    hub.broken = Broken(status=302, headers={"Location": f"{elsewhere}/org/small"}, where="org/moved")
    try:
        told = Visitor(app.address).ask(model="org/moved")
    finally:
        hub.broken = None
    assert told.frame == ""
    assert "org/moved" in told.said
    assert other_host.requests == []


def test_an_address_of_the_hub_is_taken_for_its_id(app: App, hub: LoopbackHub) -> None:
    told = Visitor(app.address).ask(model=f"{hub.endpoint}/org/small", seq_len=20)
    assert told.said.startswith("answered in "), told.said


@pytest.mark.parametrize("beside", ["adapter", "file"])
def test_a_path_in_a_repository_or_a_training_file_is_not_read(
    app: App, hub: LoopbackHub, secret: Path, beside: str
) -> None:
    """Neither a base model that is there, nor a DeepSpeed file, nor whether one is there."""
    said = set()
    for path in (secret, Path("/nothing/here")):
        visitor = Visitor(app.address)
        if beside == "adapter":
            fields = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": str(path)}
            name = f"org/adapter-{len(str(path))}"
            hub.host(name, {"adapter_config.json": json.dumps(fields).encode()})
            told = visitor.ask(model=name, adapter="none")
        else:
            visitor.drop("train.yaml", f"base_model: {path}\nadapter: lora\nlora_r: 8\n".encode())
            told = visitor.ask(model="")
        assert told.frame == "", told
        said.add(told.said.replace(str(path), "PATH").replace(f"org/adapter-{len(str(path))}", "ID"))
    assert len(said) == 1
    visitor = Visitor(app.address)
    visitor.drop("train.yaml", FILE + f"deepspeed: {secret}/zero.json\n".encode())
    told = visitor.ask(model="", gpus=["2x4090"])
    assert "zero3" not in read_page(app, told).lower().replace(f"{secret}/zero.json", "")


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "${alert(1)}", "{{x}}", "`x`", '" onload="x', "\u202e\0"]
)
def test_hostile_text_stays_text(app: App, text: str) -> None:
    """Where the page repeats it, neither as markup nor as a template of Gradio's."""
    visitor = Visitor(app.address)
    forms: list[dict[str, Any]] = [{"model": text}, {"model": "org/small", "targets": text}]
    for settings in forms:
        told = visitor.ask(**settings)
        assert told.frame == ""
        assert told.said
    raw = visitor._send(
        "ask", "click", [text, [], "lora", 4, "auto", 1, 32, "x", "auto", "no", "sgd", 1, False, None, None]
    )
    said = re.sub(r"^<div[^>]*>|</div>$", "", raw[-1][0])
    assert not set("<>{}`$\"'") & set(said), said


@pytest.mark.parametrize(
    "settings",
    [
        {"adapter": "--peft=/etc/passwd"},
        {"rank": "16; touch /tmp/ran"},
        {"batch_size": 10**12},
        {"seq_len": None},
        {"optimizer": ["x"]},
        {"gpus": ["--output=/tmp/ran"]},
        {"gpus": {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}},
        {"targets": {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}},
    ],
)
def test_what_the_page_cannot_send_is_refused(app: App, settings: dict[str, Any]) -> None:
    with contextlib.suppress(VisitorError):
        told = Visitor(app.address).ask(**{"model": "org/small", **settings})
        assert told.frame == ""
    assert not Path("/tmp/ran").exists()


def test_gradio_fetches_no_file_and_no_address(app: App, other_host: LoopbackHub, secret: Path) -> None:
    """Neither by its routes nor by what a request calls a file that was uploaded."""
    outside = f"{other_host.endpoint}/org/small/resolve/main/config.json"
    for route in (
        f"proxy={outside}",
        f"file={outside}",
        "file=/etc/passwd",
        f"file={secret}/config.json",
        "file=../../x",
    ):
        status, body = get(f"{app.address}/gradio_api/{route}")
        assert status in (400, 403, 404, 500), route
        assert b"root:" not in body
        assert b"Qwen2" not in body
    for path in ("/etc/passwd", f"{secret}/config.json", outside, "http://example.com/x.yaml"):
        visitor = Visitor(app.address)
        with contextlib.suppress(VisitorError):
            visitor.claim_file(path, "train.yaml")
        with contextlib.suppress(VisitorError):
            visitor.claim_file("train.yaml", "train.yaml", url=outside)
        assert visitor.ask(model="").said.startswith("Name a model"), "no file was taken"
    assert other_host.requests == []


def test_answers_that_nobody_asked_for_are_not_there(app: App) -> None:
    for key in ("0" * 64, "..%2f..%2fetc%2fpasswd", "x"):
        assert get(f"{app.address}/answers/{key}")[0] == 404


def test_answers_and_the_page_may_load_nothing_from_elsewhere(app: App) -> None:
    told = Visitor(app.address).ask(model="org/small", seq_len=40)
    with urllib.request.urlopen(f"{app.address}/{told.address}") as answer:
        assert answer.headers["Content-Security-Policy"] == "sandbox allow-scripts allow-popups"
    with urllib.request.urlopen(app.address) as page:
        assert page.headers["Content-Security-Policy"].startswith("default-src 'self' ")


def test_a_killed_worker_is_one_line_and_the_next_question_is_answered(app: App) -> None:
    """Whether it worked or waited."""
    told: list[Told] = []
    visitor = threading.Thread(
        target=lambda: told.append(Visitor(app.address).ask(model="moonshotai/Kimi-K2-Instruct", seq_len=4096))
    )
    visitor.start()
    visitor.join(3)
    for worker in app.list_workers():
        os.kill(worker, signal.SIGKILL)
    visitor.join(PATIENCE_SECONDS)
    assert told[0].said == "the process that worked on this was ended from outside; ask again."
    again = Visitor(app.address).ask(model="org/small", seq_len=24)
    assert again.said.startswith("answered in "), again.said
    assert len(app.list_workers()) == 2


def test_with_the_token_visitors_see_what_it_may_read(hub: LoopbackHub, tmp_path: Path) -> None:
    """Whoever serves the page has asked for it."""
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "owner")}
    with serve(tmp_path, "--workers", "1", "--with-token", environment=environment) as running:
        told = Visitor(running.address).ask(model="org/private")
        assert told.said.startswith("answered in "), told.said
    assert (tmp_path / "owner").is_dir()


def test_a_space_serves_the_page(hub: LoopbackHub, tmp_path: Path) -> None:
    """Of the package and its catalogues beside the files of space/, and nothing that is installed of it."""
    shutil.copytree(ROOT / "space", tmp_path / "top")
    for name in ("inspector", "fixtures"):
        shutil.copytree(ROOT / name, tmp_path / "top" / name)
    environment = {"HF_ENDPOINT": hub.endpoint, "GRADIO_SERVER_PORT": "0", "PYTHONPATH": ""}
    with serve(tmp_path, environment=environment, program=(str(tmp_path / "top" / "app.py"),)) as running:
        told = Visitor(running.address).ask(model="org/small", seq_len=20)
        assert told.said.startswith("answered in "), told.said


def test_a_worker_does_not_outlive_the_server(hub: LoopbackHub, tmp_path: Path) -> None:
    """However it ends."""
    with serve(tmp_path, "--workers", "1", environment={"HF_ENDPOINT": hub.endpoint}) as running:
        workers = running.list_workers()
        running.process.kill()
        running.process.wait(PATIENCE_SECONDS)
        for worker in workers:
            _wait_for_end(worker)
    assert workers


def _wait_for_end(pid: int) -> None:
    """Wait until a process is gone."""
    pause = threading.Event()
    for _ in range(600):
        if not Path(f"/proc/{pid}").exists() or "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return
        pause.wait(0.1)
    raise AssertionError(f"{pid} still runs")

"""Interrupted or short of something: a clean exit, a sound cache, no half-written file."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from tests.cli.running import HANGS, Ran, assert_refused, run_process, started_process
from tests.source.loopback_hub import Broken, LoopbackHub
from tests.source.weight_files import TINY_TENSORS, config_bytes, sharded

Told = Callable[[str, str, Ran], None]

SECTION = "Interruptions and the machine"
COMMAND = (sys.executable, "-m", "inspector", "org/model", "--count-only", "--json", "--depth", "0")


@pytest.fixture
def server() -> Iterator[LoopbackHub]:
    """Yield a Hub with one sharded model, for processes of their own."""
    with LoopbackHub() as running:
        running.host("org/model", {"config.json": config_bytes(), **sharded(12)})
        yield running


def surroundings(server: LoopbackHub, home: Path, **variables: str) -> dict[str, str]:
    """Return an environment that knows this Hub and this cache only."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    return {**kept, "HF_HOME": str(home), "HF_ENDPOINT": server.endpoint, **variables}


# The source stage alone, without the seconds that torch takes to import.
READ = """
import sys
from inspector.source.locate import locate
files = locate("org/model")
assert files.notices == (), files.notices
print(len(files.checkpoint.tensors))
"""


def read(environment: dict[str, str]) -> None:
    """Read the model in a process of its own, into the cache."""
    ran = run_in(environment, sys.executable, "-c", READ)
    assert (ran.code, ran.out, ran.err) == (0, f"{len(TINY_TENSORS)}\n", "")


def finished(command: subprocess.Popen[str]) -> Ran:
    out, err = command.communicate(timeout=HANGS)
    return Ran(code=command.returncode, out=out, err=err)


def run_in(environment: dict[str, str], *command: str) -> Ran:
    """Run a command in exactly this environment."""
    with started_process(*command, environment=environment) as process:
        return finished(process)


def assert_sound(home: Path, server: LoopbackHub) -> None:
    """Hold what is left of a cache against the client's own check and against a run that ends well."""
    server.broken = None
    if (home / "hub").exists():
        assert scan_cache_dir(home / "hub").warnings == []
    read(surroundings(server, home))
    left = [path for path in home.rglob("*") if path.name.endswith(".part")]
    assert left == [], "the note of the headers is there whole or not at all"


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        ("while the listing is awaited", "/api/"),
        ("while config.json is downloaded", "/resolve/main/config.json"),
        ("while headers are read", "-of-00012.safetensors"),
    ],
)
def test_an_interrupt_while_the_server_is_silent_exits_with_130(
    fault: str, where: str, server: LoopbackHub, tmp_path: Path, told: Told
) -> None:
    """Ctrl-C while the server is silent: 130 within a moment."""
    server.broken = Broken(body=b"{}", pause=1.0, headers={"Content-Length": "10"}, where=where)
    with started_process(*COMMAND, environment=surroundings(server, tmp_path / "home")) as command:
        deadline = time.monotonic() + HANGS
        while not any(where in request for request in server.requests) and time.monotonic() < deadline:
            time.sleep(0.02)
        command.send_signal(signal.SIGINT)
        ran = finished(command)
    assert (ran.code, ran.out, ran.err) == (130, "", "inspect: interrupted\n")
    told(SECTION, f"Ctrl-C {fault}", ran)
    assert_sound(tmp_path / "home", server)


@pytest.mark.usefixtures("shared_answers")
def test_a_reader_that_closes_the_pipe_is_no_error(server: LoopbackHub, tmp_path: Path, told: Told) -> None:
    """`| head -1` is no error."""
    pipe = f"set -o pipefail; {' '.join(COMMAND[:4])} --depth 64 --json | head -1 > /dev/null"
    ran = run_process("bash", "-c", pipe, environment=surroundings(server, tmp_path / "home"))
    assert (ran.code, ran.err) == (0, "")
    shown = Ran(code=0, out='{"warnings": []}', err="")
    told(SECTION, "The reader of the output leaves (`| head -1`)", shown)


def without_privileges() -> tuple[str, ...]:
    """Return what runs a command so that permissions hold for it, also as root."""
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere, and there is no setpriv")
    drop = "-dac_override,-dac_read_search"
    return ("setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}")


@pytest.mark.usefixtures("shared_answers")
def test_a_read_only_cache_is_used_and_the_way_out_is_named(server: LoopbackHub, tmp_path: Path, told: Told) -> None:
    """What is there is used; what is not cannot be kept, and the way out is named."""
    home = tmp_path / "home"
    environment = surroundings(server, home)
    read(environment)
    folders = [home, *(path for path in home.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    asked = len(server.requests)
    try:
        ran = run_in(environment, *without_privileges(), *COMMAND)
        assert ran.report["checkpoint"]["tensors"] == len(TINY_TENSORS)
        # The client asks for a list of its own once a day; it is not the model.
        asked_for = [request for request in server.requests[asked:] if "harnesses" not in request]
        assert asked_for == ["GET /api/models/org/model"]
        told(SECTION, "The cache is read-only and has the model", ran)
        server.host("org/model", {"config.json": config_bytes(vocab_size=11)}, commit="second")
        ran = run_in(environment, *without_privileges(), *COMMAND)
        assert_refused(ran, 3, "set HF_HOME")
        told(SECTION, "The cache is read-only and has another commit", ran)
    finally:
        for path in folders:
            path.chmod(0o755)
    assert sorted(folders) == sorted([home, *(path for path in home.rglob("*") if path.is_dir())])


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
sys.argv[0] = "inspect"
from inspector.cli.main import main
main()
"""


def test_a_full_disk_leaves_no_half_written_file(server: LoopbackHub, tmp_path: Path, told: Told) -> None:
    """No file may grow beyond 100 bytes here: config.json cannot be kept, and nothing half-written stays."""
    environment = surroundings(server, tmp_path / "home")
    arguments = (sys.executable, "-B", "-c", LIMITED)
    ran = run_in(environment, *arguments, "100", *COMMAND[3:])
    assert_refused(ran, 3, "set HF_HOME")
    told(SECTION, "The disk is full (no file may grow beyond 100 bytes): config.json cannot be kept", ran)
    assert_sound(tmp_path / "home", server)


@pytest.mark.usefixtures("shared_answers")
def test_a_disk_that_is_full_for_the_headers(server: LoopbackHub, tmp_path: Path, told: Told) -> None:
    """config.json fits, the note of the headers does not: the report is whole, and nothing of the note stays."""
    environment = surroundings(server, tmp_path / "home")
    arguments = (sys.executable, "-B", "-c", LIMITED)
    ran = run_in(environment, *arguments, "600", *COMMAND[3:])
    assert ran.report["checkpoint"]["tensors"] == len(TINY_TENSORS)
    assert not [path for path in (tmp_path / "home" / "assets").rglob("*") if path.is_file()]
    told(SECTION, "The disk is full: what was read of the headers cannot be kept", ran)
    assert_sound(tmp_path / "home", server)


@pytest.mark.usefixtures("shared_answers")
def test_an_output_that_does_not_fit(server: LoopbackHub, tmp_path: Path, told: Told) -> None:
    """The old file stays."""
    environment = surroundings(server, tmp_path / "home")
    read(environment)
    output = tmp_path / "report.json"
    output.write_text("old")
    limited = (sys.executable, "-B", "-c", LIMITED, "600", *COMMAND[3:], "--output", str(output))
    ran = run_in(environment, *limited)
    assert_refused(ran, 2, "--output")
    assert output.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "report.json"]
    told(SECTION, "The disk is full: the report cannot be written", ran)


@pytest.mark.usefixtures("shared_answers")
def test_an_unset_home_is_no_crash(server: LoopbackHub, tmp_path: Path, told: Told) -> None:
    """Neither HOME nor HF_HOME: the client finds a place, or one line says that it cannot."""
    environment = surroundings(server, tmp_path / "home")
    del environment["HF_HOME"], environment["HOME"]
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "xdg")}
    ran = run_in(environment, *COMMAND)
    assert ran.report["checkpoint"]["tensors"] == len(TINY_TENSORS)
    told(SECTION, "HOME is not set", ran)


def test_a_home_that_is_no_directory(server: LoopbackHub, tmp_path: Path, told: Told) -> None:
    """HF_HOME below a file."""
    (tmp_path / "file").touch()
    ran = run_in(surroundings(server, tmp_path / "file" / "home"), *COMMAND)
    assert_refused(ran, 3, "set HF_HOME")
    told(SECTION, "HF_HOME is no directory", ran)


@pytest.mark.usefixtures("shared_answers")
def test_two_runs_at_once_give_equal_whole_reports(server: LoopbackHub, tmp_path: Path, told: Told) -> None:
    """Both download and keep the same files; both reports are whole and equal."""
    environment = surroundings(server, tmp_path / "home")
    running = functools.partial(started_process, *COMMAND, environment=environment)
    with running() as one, running() as other:
        first, second = finished(one), finished(other)
    assert first.report["checkpoint"] == second.report["checkpoint"]
    told(SECTION, "Two runs at once on one empty cache", first)
    assert_sound(tmp_path / "home", server)
    (note,) = (tmp_path / "home" / "assets").rglob("*.json")
    assert json.loads(note.read_text())["form"] == 1

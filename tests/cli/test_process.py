"""What only a process of its own shows: scripts, signals, broken streams, locales, memory."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .running import HANGS, SMALL, assert_refused, run, run_process, script, started_process

INSPECT = script("inspect")
COUNT = (SMALL, "--offline", "--count-only", "--json")


@pytest.mark.parametrize("command", [(INSPECT,), (script("model-inspect"),), (sys.executable, "-m", "inspector")])
def test_the_command_has_three_names(command: tuple[str, ...]) -> None:
    """All three report the same version and refuse the same way."""
    ran = run_process(*command, "--version")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == run_process(INSPECT, "--version").out
    assert_refused(run_process(*command, SMALL, "--depth", "x"), 2, "--depth")


def test_the_installed_script_prints_the_report_alone() -> None:
    """Away from the repository, without a terminal: one JSON object on standard output, nothing on standard error."""
    assert run_process(INSPECT, *COUNT, environment={"HF_HUB_OFFLINE": "1"}).report["parameters"]["base"] == 494_032_768


def test_an_interrupt_while_torch_is_imported_is_one_line() -> None:
    """Ctrl-C during the seconds that the import takes ends with 130."""
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}  # each import is a line on standard error
    with started_process(INSPECT, *COUNT, environment=environment) as command:
        assert command.stderr is not None
        for line in command.stderr:
            if line.rstrip().endswith(" torch.torch_version"):  # torch has begun
                command.send_signal(signal.SIGINT)
                break
        out, err = command.communicate(timeout=HANGS)
    ours = [line for line in err.splitlines() if not line.startswith("import time:")]
    assert (command.returncode, out, ours) == (130, "", ["inspect: interrupted"])


@pytest.mark.parametrize("signals", [1, 2])
@pytest.mark.parametrize("delay", [0.05, 0.1, 0.2, 0.5, 1.0])
def test_an_interrupt_at_any_time_ends_the_command_with_one_line(delay: float, signals: int) -> None:
    """Ctrl-C never hangs, and a second one adds nothing; only what comes before our code runs is Python's to answer."""
    with started_process(INSPECT, SMALL, "--offline") as command:
        time.sleep(delay)
        for _ in range(signals):
            command.send_signal(signal.SIGINT)
            time.sleep(0.001)
        out, err = command.communicate(timeout=HANGS)
    # Before 3.12 Python makes another error of one that comes while it makes a class.
    if command.returncode == -signal.SIGINT or "init_import_site" in err or "Error calling __set_name__" in err:
        assert not re.search(r'cli/main\.py", line \d+, in main\n', err)  # Python's own site.py has a main too
        assert "pipeline.py" not in err
    else:
        assert (command.returncode, out, err) == (130, "", "inspect: interrupted\n")


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
@pytest.mark.parametrize("whole_group", [True, False])
def test_an_interrupt_ends_a_plan_and_its_processes_with_one_line(whole_group: bool) -> None:
    """Ctrl-C reaches all of them at once, as a terminal sends it, or the first alone; none is left behind."""
    plan = (INSPECT, "plan", SMALL, "--offline", "--gpu", "h100")
    with started_process(*plan, own_session=True) as command:
        children = Path(f"/proc/{command.pid}/task/{command.pid}/children")
        deadline = time.monotonic() + HANGS
        while time.monotonic() < deadline and command.poll() is None and not children.read_text():
            time.sleep(0.05)
        (os.killpg if whole_group else os.kill)(command.pid, signal.SIGINT)
        out, err = command.communicate(timeout=HANGS)
    assert (command.returncode, out, err) == (130, "", "inspect: interrupted\n")
    for _ in range(100):  # children look for their parent five times a second
        try:
            os.killpg(command.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("a process was left behind")


INTERRUPTED = """
import atexit, os, signal, sys
import inspector.cli.main, inspector.cli.commands.inspect, inspector.pipeline

def interrupt(*_, **__):
    os.kill(os.getpid(), signal.SIGINT)

def write(report, format_, stream, **_):
    stream.write("half")
    stream.flush()
    if when == "writing":
        print([name for name in os.listdir() if name.endswith(".part")] != [], flush=True)
        interrupt()

when = sys.argv.pop(1)
inspector.cli.commands.inspect._render = write
inspector.pipeline.run = interrupt if when == "ignored" else lambda *_: None
if when == "shutdown":
    atexit.register(interrupt)
inspector.cli.main.main()
"""


def test_an_interrupt_while_the_report_is_written_leaves_the_old_file(tmp_path: Path) -> None:
    """The half-written file goes."""
    file = tmp_path / "report.txt"
    file.write_text("old")
    command = f"cd '{tmp_path}' && exec \"$@\""
    ran = run_process(
        *("sh", "-c", command, "sh", sys.executable, "-c", INTERRUPTED, "writing", SMALL, "--output", str(file))
    )
    assert (ran.code, ran.out, ran.err) == (130, "True\n", "inspect: interrupted\n")
    assert [(path, path.read_text()) for path in tmp_path.iterdir()] == [(file, "old")]


def test_an_interrupt_during_the_shutdown_is_one_line() -> None:
    """Python would print what it was doing."""
    ran = run_process(sys.executable, "-c", INTERRUPTED, "shutdown", SMALL)
    assert (ran.code, ran.err) == (130, "inspect: interrupted\n")


def test_an_interrupt_that_was_ignored_from_the_start_stays_ignored() -> None:
    """A script's `inspect ... &` is not for Ctrl-C to end."""
    ran = run_process("sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", INTERRUPTED, "ignored", SMALL)
    assert (ran.code, ran.out, ran.err) == (0, "half", "")


def test_calling_main_with_arguments_leaves_the_signals_alone() -> None:
    """Whoever calls it within a program keeps what that program does on Ctrl-C."""
    before = signal.getsignal(signal.SIGINT)
    run("--version")
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("shared_answers")
def test_a_reader_that_leaves_is_no_error() -> None:
    """`inspect ... | head -1` prints its line and no complaint."""
    command = f"set -o pipefail; '{INSPECT}' {SMALL} --offline --json --depth 64 | head -1"
    ran = run_process("bash", "-c", command)
    assert (ran.code, ran.out, ran.err) == (0, "{\n", "")


@pytest.mark.usefixtures("shared_answers")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("format_", ["json", "text"])
def test_a_full_disk_behind_standard_output_is_one_line(format_: str) -> None:
    """What cannot be written is an error, and Python does not add its own."""
    with Path("/dev/full").open("w") as full:
        ran = run_process(INSPECT, SMALL, "--offline", "--format", format_, stdout=full.fileno())
    assert_refused(ran, 2, "No space left")


@pytest.mark.usefixtures("shared_answers")
def test_a_closed_standard_output_is_one_line() -> None:
    """Without a standard output there is --output."""
    assert_refused(run_process("sh", "-c", 'exec "$@" >&-', "sh", INSPECT, *COUNT), 2, "--output")


def test_a_closed_standard_error_changes_no_exit_code() -> None:
    """Where nobody can be told, the code still says it."""
    assert run_process("sh", "-c", 'exec "$@" 2>&-', "sh", INSPECT, "nobody/nothing", "--offline").code == 3


@pytest.mark.usefixtures("shared_answers")
@pytest.mark.parametrize("format_", ["text", "markdown"])
def test_a_locale_without_unicode_gets_ascii(format_: str) -> None:
    """No sign of the report is worth a crash."""
    environment = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    options = (SMALL, "--offline", "--lora", "r=8", "--format", format_)
    ran = run_process(INSPECT, *options, environment=environment)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.isascii()
    assert "494,032,768" in ran.out
    assert_refused(run_process(INSPECT, SMALL, "--lora", "r=\u0661\u0666", environment=environment), 2)


def test_absurd_configurations_take_little_memory(tmp_path: Path) -> None:
    """Over all of these, refused or counted, the process stays below 1.5 GiB.

    The peak is that of its own memory map where there is one: getrusage of a child begins at its parent's peak.
    """
    configs = [
        {"model_type": "qwen2", "num_hidden_layers": 10**9},
        {"model_type": "qwen2", "num_labels": 10**9},
        {"model_type": "mixtral", "num_hidden_layers": 2000, "num_local_experts": 10_000},
        {"model_type": "gpt2", "n_layer": 10**9, "vocab_size": 10**9},
        {"model_type": "bart", "encoder_layers": 3000, "decoder_layers": 1},
        {"model_type": "albert", "inner_group_num": 10**7},
        {"model_type": "whisper", "max_source_positions": 10**9, "d_model": 10**7},
    ]
    configs = configs if os.environ.get("INSPECTOR_TRUTH") == "all" else configs[::3]
    for number, config in enumerate(configs):
        (tmp_path / f"{number}.json").write_text(json.dumps(config))
    program = """
import pathlib, resource, sys
from inspector.cli.main import main
codes = []
for path in sys.argv[1:]:
    try:
        main([path, "--assume-defaults", "--count-only", "--depth", "0", "--output", "/dev/null"])
        codes.append(0)
    except SystemExit as stop:
        codes.append(stop.code)
status = pathlib.Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
own = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
print(codes, own[0] if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    paths = [str(tmp_path / f"{number}.json") for number in range(len(configs))]
    ran = run_process(sys.executable, "-c", program, *paths)
    assert ran.code == 0, ran.err
    codes, most_kib = ran.out.rsplit(maxsplit=1)
    assert set(json.loads(codes)) <= {0, 4}
    assert int(most_kib) < 1.5 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="a pseudo-terminal of Linux")
def test_a_terminal_sees_the_stages_of_a_search_and_then_the_report_alone() -> None:
    """Each stage with its time, what is being tried below a bar; all of it is erased before the report."""
    import pty

    ours, theirs = pty.openpty()
    options = ("--lora", "r=2", "--gpu", "4090", "--fit", "batch-size", "--seq-len", "64", "--no-advice", "--no-color")
    process = subprocess.Popen(
        [sys.executable, "-m", "inspector", SMALL, *options],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "90", "LINES": "40", "HF_HUB_OFFLINE": "1"},
    )
    os.close(theirs)
    written = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while part := os.read(ours, 65536):
            written += part
    os.close(ours)
    assert process.wait(timeout=60) == 0
    shown = written.decode()
    assert re.search(r"loading transformers and PEFT +\d+ s", shown)
    assert re.search(r"searching the largest batch-size +━+", shown)
    assert re.search(r"trace \d+: batch-size [\d,]+ \(", shown)  # a quick one ends before it is drawn
    report = shown.rpartition("\x1b[2K")[2]
    assert report.lstrip("\r\n").startswith(SMALL)

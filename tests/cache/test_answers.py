"""What is answered from the cache: the same as without one, and only for as long as it holds."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from inspector.cache import answers, environment
from inspector.cache.store import VARIABLE
from tests.cli.running import SMALL, assert_refused, bundled_config, run, run_process, written

STEP = (SMALL, "--offline", "--lora", "r=2", "--seq-len", "64", "--gpu", "t4", "--no-advice")
# In a process of its own: one that traced other models has other variables of the libraries, and another cache.
COMMAND = (sys.executable, "-m", "inspector")
# A program that says on standard error which libraries its answer took.
PROGRAM = """
import sys
from inspector.cli.main import main
try:
    main(sys.argv[1:])
finally:
    heavy = {"torch", "transformers", "peft", "accelerate", "numpy", "tqdm", "httpx", "httpx2", "inspector.planning"}
    heavy &= set(sys.modules)
    print(sorted(heavy), file=sys.stderr)
"""


class Asked(NamedTuple):
    """A folder of what was kept of one question, and its answer."""

    folder: Path
    answer: str


def list_kept(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the files of a cache."""
    return sorted(path for path in folder.rglob(pattern) if path.is_file())


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count how often a model is built and counted."""
    from inspector.model import build

    counted: list[str] = []
    original = build.count_depths

    def count_depths(*arguments: object, **given: object) -> object:
        counted.append("counted")
        return original(*arguments, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(build, "count_depths", count_depths)
    return counted


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """Ask for one step in a process of its own, and keep the answer."""
    folder = tmp_path_factory.mktemp("asked")
    return Asked(folder, run_process(*COMMAND, *STEP, "--json", environment={VARIABLE: str(folder)}).out)


def test_a_repeated_question_is_answered_alike_without_the_libraries(folder: Path, asked: Asked) -> None:
    """In every format, in a process of its own: to the byte what was printed where it was worked out.

    Another one than that of the question before, too; the page needs the run beside the answer, and plans nothing.
    """
    shutil.copytree(asked.folder, folder)
    worked_out = {name: run(*STEP, "--format", name, "--no-cache").out for name in ("text", "markdown", "html")}
    worked_out["json"] = asked.answer
    for name, expected in worked_out.items():
        again = run_process(sys.executable, "-c", PROGRAM, *STEP, "--format", name)
        assert (again.code, again.out, again.err) == (0, expected, "[]\n")


@pytest.mark.usefixtures("folder")
def test_a_step_is_traced_where_counts_are_kept_of_an_adapter_that_tells_layers_apart() -> None:
    """Its shallow models are none, and the counts that were kept built no whole one."""
    fields = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "layers_to_transform": [1]}
    asked = (SMALL, "--offline", "--peft", json.dumps(fields))
    assert run(*asked, "--count-only").code == 0
    assert run(*asked, "--seq-len", "16", "--gpu", "t4", "--no-advice").code == 0


def test_what_follows_from_a_kept_trace_is_answered_without_the_libraries(folder: Path, asked: Asked) -> None:
    """Another margin of the card with other settings of the allocator: to the byte as they are worked out."""
    shutil.copytree(asked.folder, folder)
    words = (*STEP, "--margin", "1GiB", "--alloc-conf", "expandable_segments:True")
    again = run_process(sys.executable, "-c", PROGRAM, *words)
    assert (again.code, again.out, again.err) == (0, run(*words, "--no-cache").out, "['inspector.planning']\n")


def test_what_was_asked_for_alone_is_compared_without_the_libraries(folder: Path, asked: Asked) -> None:
    """Beside the same step under another margin, which follows from its trace."""
    shutil.copytree(asked.folder, folder)
    words = (*(word for word in STEP if word != "--no-advice"), "--with", "--margin 1GiB")
    compared = run_process(sys.executable, "-c", PROGRAM, "compare", *words)
    assert (compared.code, compared.err) == (0, "['inspector.planning']\n")
    assert compared.out == run("compare", *words, "--no-cache").out


def test_what_an_engine_makes_of_a_model_is_kept(folder: Path, traces: list[str]) -> None:
    """In other formats and at another depth, too, and for no other card."""
    words = (SMALL, "--offline", "--engine", "vllm", "--gpu", "t4")
    run(*words)
    for shown in ((), ("--json",), ("--depth", "2")):
        answer = run(*words, *shown)
        assert (answer.code, answer.out) == (0, run(*words, *shown, "--no-cache").out)
    assert (len(list_kept(folder, "engine-*")), len(traces)) == (1, 4), "the first, and those without a cache"
    run(*words[:-1], "l4")
    assert (len(list_kept(folder, "engine-*")), len(traces)) == (2, 5)


def test_other_settings_are_another_question(folder: Path, traces: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another batch size, and settings of the allocator that stand in the environment alone."""
    first = run(*STEP, "--json").report
    assert run(*STEP, "--json", "--batch-size", "2").report["training"] != first["training"]
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    expanded = run(*STEP, "--json").report["training"]
    assert expanded["recipe"]["alloc_conf"] == "expandable_segments:True"
    assert (len(list_kept(folder, "report-*")), len(traces)) == (3, 1), "one count, three answers"
    before = len(list_kept(folder))
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF")
    assert run(*STEP, "--json").report == first
    assert (len(list_kept(folder)), len(traces)) == (before, 1)


def test_an_edited_configuration_is_another_model(folder: Path, tmp_path: Path, traces: list[str]) -> None:
    """The path is the same, the answer is not."""
    config = bundled_config(SMALL)
    path = written(tmp_path, config)
    first = json.loads(run(path, "--count-only", "--json").out)
    second = json.loads(run(written(tmp_path, config | {"num_hidden_layers": 3}), "--count-only", "--json").out)
    assert first["parameters"]["base"] > second["parameters"]["base"]
    assert (len(traces), len(list_kept(folder, "report-*"))) == (2, 2)


def test_other_code_is_another_cache(folder: Path, monkeypatch: pytest.MonkeyPatch, traces: list[str]) -> None:
    """Two releases side by side do not read what the other one kept, and neither removes it."""
    words = (SMALL, "--offline", "--count-only")
    run(*words)
    for release in ("1" * 64, "2" * 64, "1" * 64):
        monkeypatch.setattr(answers, "digest_environment", lambda release=release: release)
        run(*words)
    assert (len(traces), len(list_kept(folder, "report-*"))) == (3, 3)


def test_variables_of_the_libraries_are_part_of_what_an_answer_hangs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those that say how much is printed."""
    find = environment.digest_environment.__wrapped__
    before = find()
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "INFO" if os.environ.get("TORCH_CPP_LOG_LEVEL") != "INFO" else "ERROR")
    assert find() == before
    monkeypatch.setenv("TRANSFORMERS_ANYTHING", "1")
    assert find() != before


def test_nothing_is_kept_of_what_no_version_describes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that is installed to be edited may have changed since."""
    monkeypatch.setattr(environment, "_is_editable", lambda _release: True)
    assert environment.digest_environment.__wrapped__() is None
    monkeypatch.setattr(answers, "digest_environment", lambda: None)
    run(SMALL, "--offline", "--count-only")
    assert list_kept(folder) == []


@pytest.mark.parametrize("option", ["--no-cache", "off"])
def test_no_cache_reads_and_keeps_nothing(folder: Path, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the option nor the variable leaves a folder behind."""
    if option == "off":
        monkeypatch.setenv(VARIABLE, option)
    run(SMALL, "--offline", "--count-only", *(() if option == "off" else (option,)))
    assert not folder.exists()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _turn_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


def _replace(path: Path) -> None:
    path.write_bytes(b"something else")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _date_back(path: Path) -> None:
    os.utime(path, (-(2**33), -(2**33)))


def _date_ahead(path: Path) -> None:
    os.utime(path, (2**33, 2**33))


@pytest.mark.parametrize("damage", [_cut, _turn_a_bit, _replace, _empty, _make_folder, _date_back, _date_ahead])
def test_a_damaged_cache_gives_the_same_answer(damage: object, folder: Path) -> None:
    """What is not as it was written is worked out anew, without a word."""
    words = (SMALL, "--offline", "--count-only", "--json")
    first = run(*words)
    assert callable(damage)
    for kept in list_kept(folder):
        damage(kept)
    again = run(*words)
    assert (again.code, again.out, again.err) == (0, first.out, "")


@pytest.mark.parametrize("kind", ["a file", "a folder that cannot be made", "below a file"])
def test_a_folder_that_cannot_be_used_gives_the_same_answer(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no cache then, and nothing to say about it."""
    file = tmp_path / "file"
    file.write_text("a file")
    paths = {"a file": file, "a folder that cannot be made": Path("/proc/none/kept"), "below a file": file / "kept"}
    expected = run(SMALL, "--offline", "--count-only", "--no-cache")
    monkeypatch.setenv(VARIABLE, str(paths[kind]))
    ran = run(SMALL, "--offline", "--count-only")
    assert (ran.code, ran.out, ran.err) == (0, expected.out, "")
    assert file.read_text() == "a file"


def test_a_cache_that_cannot_be_written_is_read_all_the_same(
    folder: Path, traces: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of another user, or on a disk that is mounted to be read: what is new is worked out, without a word."""
    words = (SMALL, "--offline", "--count-only", "--json")
    first = run(*words)
    before = list_kept(folder)

    def refuse(*_arguments: object, **_given: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr("tempfile.mkstemp", refuse)
    again, other = run(*words), run(*words, "--lora", "r=2")
    assert (again.code, again.out, again.err) == (0, first.out, "")
    assert (other.code, other.err) == (0, "")
    assert other.out == run(*words, "--lora", "r=2", "--no-cache").out
    assert (list_kept(folder), len(traces)) == (before, 3)


def test_a_full_disk_leaves_no_part_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is there all the same, and the next question works it out again."""

    def refuse(_self: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    ran = run(SMALL, "--offline", "--count-only")
    assert (ran.code, ran.err) == (0, "")
    assert list_kept(folder) == []


def test_the_cache_is_listed_and_cleared(folder: Path) -> None:
    """What is not of the cache stays where it is."""
    assert "Nothing is kept yet." in run("cache").out
    run(SMALL, "--offline", "--count-only")
    foreign = next(folder.iterdir()) / "notes.txt"
    foreign.write_text("mine")
    listed = json.loads(run("cache", "--json").out)
    assert (listed["schema"], listed["folder"]) == ("inspector-cache/1", str(folder))
    assert [(model["model"], model["kept"]) for model in listed["models"]] == [(SMALL, 3)]
    assert SMALL in run("cache", "list").out
    assert run("cache", "clear").out.startswith("Removed 3 files, ")
    assert list_kept(folder) == [foreign]
    assert_refused(run("cache", "clear", "--json"), 2, "prints one line")


@pytest.mark.usefixtures("folder")
def test_what_cannot_be_removed_is_not_counted_as_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that is mounted to be read."""

    def refuse(_self: Path) -> None:
        raise OSError(30, "Read-only file system")

    run(SMALL, "--offline", "--count-only")
    monkeypatch.setattr(Path, "unlink", refuse)
    cleared = run("cache", "clear")
    assert (cleared.code, cleared.out.partition(", from ")[0]) == (2, "Removed 0 files, 0 B")
    assert cleared.err.startswith("inspect: 3 files in ")


def test_the_cache_can_be_turned_off_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its command says so."""
    monkeypatch.setenv(VARIABLE, "off")
    assert "turns the cache off" in run("cache").out
    assert "turns the cache off" in run("cache", "clear").out
    assert json.loads(run("cache", "--json").out) == {"schema": "inspector-cache/1", "models": []}

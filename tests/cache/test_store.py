"""The files of the cache: whole or not there, bounded, and none but our own."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

import pytest

from inspector.cache import store
from inspector.cache.store import Store, find_folder, list_entries, list_files, remove_oldest

NAME = "report-" + "0" * 32
ENVIRONMENT = "a" * 64


def test_what_was_written_is_read_by_its_name_in_its_environment(tmp_path: Path) -> None:
    """Of another environment there is nothing."""
    Store(tmp_path, ENVIRONMENT).write(NAME, b"content", {"model": "m"})
    assert Store(tmp_path, ENVIRONMENT).read(NAME) == b"content"
    assert Store(tmp_path, "b" * 64).read(NAME) is None
    assert [entry.about for entry in list_entries(tmp_path)] == [{"model": "m"}]


def test_the_least_recently_read_are_removed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine of ten bytes stay; reading one counts as use."""
    monkeypatch.setattr(store, "MOST_BYTES", 12_000)
    kept = Store(tmp_path, ENVIRONMENT)
    names = [f"report-{number:032x}" for number in range(6)]
    for number, name in enumerate(names):
        kept.write(name, os.urandom(2_500), {})
        os.utime(tmp_path / ENVIRONMENT[:16] / f"{name}.kept", (number, number))
    kept.read(names[0])
    kept.trim()
    assert [name for name in names if kept.read(name) is not None] == [names[0], *names[3:]]
    kept.trim()  # nothing was written since
    assert sum(state.st_size for _, state in list_files(tmp_path)) <= 12_000


def test_what_is_dated_ahead_is_removed_before_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock went back since it was written: what is kept now stays, and can be read."""
    monkeypatch.setattr(store, "MOST_BYTES", 12_000)
    kept = Store(tmp_path, ENVIRONMENT)
    names = [f"report-{number:032x}" for number in range(6)]
    for number, name in enumerate(names):
        kept.write(name, os.urandom(2_500), {})
        if number < 3:
            os.utime(tmp_path / ENVIRONMENT[:16] / f"{name}.kept", (2**33 + number,) * 2)
    kept.trim()
    found = [name for name in names if kept.read(name) is not None]
    assert (len(found), found[1:]) == (4, names[3:])


def test_only_files_of_the_cache_are_removed(tmp_path: Path) -> None:
    """The folder that somebody names may hold anything, links to elsewhere included."""
    Store(tmp_path, ENVIRONMENT).write(NAME, b"content", {})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    inner = tmp_path / ENVIRONMENT[:16]
    others = [elsewhere / f"{NAME}.kept", tmp_path / f"{NAME}.kept", inner / "notes.kept"]
    for path in others:
        path.write_text("mine")
    (tmp_path / ("b" * 16)).symlink_to(elsewhere)
    (inner / f"report-{'1' * 32}.kept").symlink_to(others[0])
    assert remove_oldest(tmp_path, 0) == 1
    assert all(path.read_text() == "mine" for path in others)


def test_a_name_is_no_longer_than_the_pattern(tmp_path: Path) -> None:
    """What decompresses to more than is ever written is none of ours."""
    kept = Store(tmp_path, ENVIRONMENT)
    kept.write(NAME, bytes(1000), {})
    assert kept.read(NAME) == bytes(1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_LARGEST_CONTENT", 999)
        assert kept.read(NAME) is None


def _write_often(folder: Path, letter: str, environment: str) -> None:
    kept = Store(folder, environment)
    for _ in range(40):
        kept.write(NAME, letter.encode() * 10_000, {})
        content = kept.read(NAME)
        assert content is not None
        own = {letter} if environment != ENVIRONMENT else set("xy")
        assert content in {each.encode() * 10_000 for each in own}, "one or the other, never a mixture"
        remove_oldest(folder, 10_000_000)


@pytest.mark.parametrize("environments", [(ENVIRONMENT, ENVIRONMENT), ("b" * 64, "c" * 64)])
def test_processes_side_by_side_read_whole_files(tmp_path: Path, environments: tuple[str, str]) -> None:
    """Each file is renamed to its name when it is whole; two versions at once read each their own."""
    context = multiprocessing.get_context("fork")
    asked = zip("xy", environments, strict=True)
    processes = [context.Process(target=_write_often, args=(tmp_path, *each)) for each in asked]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(list(list_files(tmp_path))) == len(set(environments)), "no part is left"


def test_the_folder_is_where_the_system_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As platformdirs has it; INSPECTOR_CACHE goes before."""
    monkeypatch.delenv(store.VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert find_folder() == tmp_path / ".cache" / "model-inspector"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert find_folder() == tmp_path / "xdg" / "model-inspector"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert find_folder() == tmp_path / "Library" / "Caches" / "model-inspector"
    monkeypatch.setenv(store.VARIABLE, "~/mine")
    assert find_folder() == tmp_path / "mine"

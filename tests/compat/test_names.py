"""A private name that is gone stops what needs it, and that alone, with one sentence."""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from inspector.compat import distributed, names, peft, torch, transformers  # noqa: F401  # each declares its names
from inspector.compat.names import NAMES, Missing
from inspector.compat.verified import VERIFIED
from inspector.errors import CompatibilityError
from tests.cli.running import SMALL, assert_refused, run_process

PINS = (Path(__file__).parents[2] / "constraints.txt").read_text(encoding="utf-8").split()


class Gone:
    """An attribute that is asked for in vain."""

    def __get__(self, _instance: object, _owner: object) -> Any:
        raise AttributeError

    def __set__(self, _instance: object, _value: object) -> None:
        """Take no value, so that an instance has none of its own."""


def hide(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a name away from the module or class that has it."""
    owner_path, _, name = path.rpartition(".")
    owner = names._look_up(owner_path)
    if isinstance(owner, type):
        monkeypatch.setattr(owner, name, Gone(), raising=False)
    else:
        monkeypatch.delattr(owner, name, raising=False)


@pytest.mark.parametrize("path", sorted(NAMES))
def test_a_name_that_is_gone_is_one_sentence_when_it_is_needed(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library, its version, the name and the verified versions; not before it is used."""
    hide(path, monkeypatch)
    missing = NAMES[path].resolve()
    library = NAMES[path].library
    version = importlib.import_module(library).__version__.partition("+")[0]
    for use in (lambda: missing(), lambda: missing.attribute, lambda: isinstance(1, missing), lambda: dict(missing)):
        with pytest.raises(CompatibilityError) as caught:
            use()
        message = str(caught.value)
        assert message.startswith(f"{library} {version}"), message
        assert f"has no {path}, which " in message
        assert f"{VERIFIED[library].lowest} to {VERIFIED[library].highest}" in message
        assert message.count(". ") == 0
        assert "\n" not in message
    with pytest.raises(CompatibilityError):
        types.new_class("Derived", (missing,))


def test_every_name_is_there_in_the_installed_releases_and_says_what_to_do_without_it() -> None:
    """But for what only a torch built with CUDA has."""
    gone = {path for path, name in NAMES.items() if isinstance(name.resolve(), Missing)}
    assert gone <= {"torch._C._cuda_clearCublasWorkspaces"}
    for name in NAMES.values():
        assert f"{name.library}=={name.seen_in}" in PINS
        assert name.purpose
        assert name.instead


# The same request twice, the second time in mixed precision.
WITHOUT = """
import contextlib, sys
import torch

class Gone:
    def __get__(self, _instance, _owner):
        raise AttributeError

setattr(torch._C.DispatchKey, "AutocastIPU", Gone())
from inspector.cli.main import main
with contextlib.suppress(SystemExit):
    main(sys.argv[1:])
main([*sys.argv[1:], "--mixed-precision", "bf16"])
"""


def test_without_the_key_of_autocast_only_mixed_precision_stops(tmp_path: Path) -> None:
    """Every trace did, when the key was read at import."""
    report = tmp_path / "report.json"
    arguments = (SMALL, "--offline", "--seq-len", "16", "--json", "--output", str(report))
    ran = run_process(sys.executable, "-c", WITHOUT, *arguments)
    assert json.loads(report.read_text())["training"]["peak_allocated_bytes"] > 0, ran.err
    assert_refused(ran, 4, "has no torch._C.DispatchKey.AutocastIPU, which mixed precision needs; use torch")


def test_a_name_is_declared_once() -> None:
    """Two declarations could differ."""
    with pytest.raises(ValueError, match="declared twice"):
        names.private("torch._C._current_autograd_node", purpose="", instead="")

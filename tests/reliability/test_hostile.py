"""A repository that means harm: nothing executes, nothing is written elsewhere, no sequence reaches the terminal."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import Ran, assert_refused, run
from tests.source.loopback_hub import LoopbackHub
from tests.source.weight_files import TINY_TENSORS, config_bytes, framed, index_of, weight_file

Told = Callable[[str, str, Ran], None]

SECTION = "Hostile repositories"
OPTIONS = ("--count-only", "--depth", "0")
ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202e<script>alert(1)</script>|`x`"


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def header(**fields: Any) -> bytes:
    entry = {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8], **fields}
    return framed(json.dumps({"model.norm.weight": entry}).encode(), bytes(8))


FILES = [
    ("announces a header of 2^63 bytes", (2**63).to_bytes(8, "little") + bytes(100)),
    ("announces a header longer than the file", (500).to_bytes(8, "little") + bytes(100)),
    ("announces a header of 200 MB, in a file of that size", (200_000_000).to_bytes(8, "little") + bytes(100)),
    ("is empty", b""),
    ("is a page of HTML", b"<html>404</html>" * 10),
    (
        "has overlapping tensors",
        framed(
            b'{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[8],"data_offsets":[4,12]}}',
            bytes(12),
        ),
    ),
    ("has offsets that overflow", header(data_offsets=[0, 2**64 - 1])),
    ("has a shape that overflows", header(shape=[2**62, 2**62, 4])),
    ("has a negative dimension", header(shape=[-4])),
    ("has a dtype that does not exist", header(dtype=ESCAPE)),
    (
        "has a billion entries in a few bytes",
        framed(b'{"a":{"dtype":"U8","shape":[1000000000,1000000000,0],"data_offsets":[0,0]}}'),
    ),
    ("has 500,000 entries", framed(b"{" + b",".join(b'"%x":0' % number for number in range(500_000)) + b"}")),
    ("nests deeper than any", framed(b'{"a":' * 10_000 + b"0" + b"}" * 10_000)),
    ("holds NaN", framed(b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,0]}}')),
    ("holds an integer of 5,000 digits", framed(b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b"]}}")),
]


@pytest.mark.parametrize(("fault", "content"), FILES, ids=[fault for fault, _ in FILES])
def test_a_header_that_lies_is_named_and_the_model_is_inspected(
    fault: str, content: bytes, hub: LoopbackHub, told: Told
) -> None:
    """The model is inspected, and the file is told to be none."""
    repository = hub.host("org/model", {"config.json": config_bytes(), "model.safetensors": content})
    if "in a file of that size" in fault:
        repository.sizes["model.safetensors"] = 200_000_108
    ran = run("org/model", *OPTIONS, "--json")
    codes = [warning["code"] for warning in ran.report["warnings"]]
    if "a billion entries" in fault:  # a tensor without elements is sound, and no model has it
        assert ran.report["checkpoint"]["parameters"] == 0
    else:
        assert codes == ["checkpoint-malformed"]
    told(SECTION, f"model.safetensors {fault}", ran)


INDEXES = [
    ("names a file outside", index_of({"../../../etc/passwd": {"a": 0}})),
    ("names an absolute path", index_of({"/etc/passwd": {"a": 0}})),
    ("names a file that is not there", index_of({"gone.safetensors": {"a": 0}})),
    ("names 2,001 files", index_of({f"{number}.safetensors": {str(number): 0} for number in range(2001)})),
    ("holds a list", b"[]"),
    ("is larger than 16 MiB", b" " * (16 * 2**20 + 1)),
]


@pytest.mark.parametrize(("fault", "content"), INDEXES, ids=[fault for fault, _ in INDEXES])
def test_an_index_that_leads_elsewhere(fault: str, content: bytes, hub: LoopbackHub, told: Told) -> None:
    """No request leaves the repository."""
    hub.host("org/model", {"config.json": config_bytes(), "model.safetensors.index.json": content})
    ran = run("org/model", *OPTIONS, "--json")
    (warning,) = ran.report["warnings"]
    assert warning["code"] in ("checkpoint-malformed", "checkpoint-unread")
    assert not any("passwd" in request for request in hub.requests)
    told(SECTION, f"model.safetensors.index.json {fault}", ran)


def test_names_with_terminal_sequences_reach_every_format_as_text(hub: LoopbackHub, told: Told) -> None:
    """Names of tensors, variants and dtypes reach a terminal and Markdown as text, and JSON escaped."""
    tensors = {**TINY_TENSORS, ESCAPE: ("BF16", (3,))}
    files = {"config.json": config_bytes(), "model.safetensors": weight_file(tensors)}
    hub.host("org/model", {**files, "model.fp16.safetensors": header(dtype=ESCAPE)})
    ran = run("org/model", *OPTIONS, "--json")
    assert ran.report["checkpoint"]["not_in_model"]["parameters"] == 3
    assert ran.out.isascii()
    for format_ in ("text", "markdown"):
        shown = run("org/model", *OPTIONS, "--details", "--format", format_)
        assert "alert(1)" in shown.out, "the name is told"
        assert all(character == "\n" or character.isprintable() for character in shown.out)
        assert format_ == "text" or "<script" not in shown.out
    told(SECTION, "A tensor has terminal sequences and markup in its name", ran)


def test_names_of_files_that_lead_elsewhere(hub: LoopbackHub, told: Told, tmp_path: Path) -> None:
    """They are neither asked for nor written."""
    names = ("../../outside", "/tmp/outside", "a\x1b[2J.safetensors", "..", "C:\\x")
    content = {"config.json": config_bytes(), "model.safetensors": weight_file(TINY_TENSORS)}
    hub.host("org/model", {**dict.fromkeys(names, b"x"), **content})
    ran = run("org/model", *OPTIONS, "--json")
    assert ran.report["checkpoint"]["repository_files"] == 2
    assert not list(tmp_path.rglob("*outside*"))
    told(SECTION, "Files have names that lead out of the repository", ran)


def test_pickled_weights_are_neither_downloaded_nor_unpickled(hub: LoopbackHub, told: Told, tmp_path: Path) -> None:
    """Nothing is unpickled, and nothing of it is downloaded."""
    bomb = pickle.dumps(Bomb(tmp_path / "went-off"))
    hub.host("org/model", {"config.json": config_bytes(), "pytorch_model.bin": bomb, "training_args.bin": bomb})
    ran = run("org/model", *OPTIONS, "--json")
    assert ran.report["checkpoint"]["format"] == "pickle"
    assert "tensors" not in ran.report["checkpoint"]
    assert not any(request.endswith(".bin") for request in hub.requests)
    assert not (tmp_path / "went-off").exists()
    told(SECTION, "Weights are pickles that run a command", ran)


def test_code_of_a_repository_is_not_downloaded_without_trust(hub: LoopbackHub, told: Told, tmp_path: Path) -> None:
    """`auto_map` points at code in the repository; without --trust-remote-code it is not even downloaded."""
    code = f"open({str(tmp_path / 'went-off')!r}, 'w')".encode()
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    config = config_bytes(model_type="evil", architectures=["Evil"], auto_map=auto_map)
    hub.host("org/model", {"config.json": config, "evil.py": code})
    ran = run("org/model", *OPTIONS, "--json")
    assert_refused(ran, 4)
    assert not any(request.endswith(".py") for request in hub.requests)
    assert not (tmp_path / "went-off").exists()
    told(SECTION, "config.json names code of the repository", ran)


def test_a_folder_with_links_out_of_it(told: Told, tmp_path: Path) -> None:
    """A link to a secret is opened as a checkpoint, found to be none, and not quoted."""
    (tmp_path / "secret").write_text("hunter2 " * 20)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes(config_bytes())
    (folder / "model.safetensors").symlink_to(tmp_path / "secret")
    (folder / "circle").symlink_to(folder)
    ran = run(str(folder), *OPTIONS, "--json")
    assert "hunter2" not in ran.out
    assert [warning["code"] for warning in ran.report["warnings"]] == ["checkpoint-malformed"]
    told(SECTION, "A local folder links to a file outside that is no checkpoint", ran)

"""Files become documents within bounds, and what is wrong with one is a line that repeats nothing of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from inspector.errors import UsageError
from inspector.training_files.reading import parse_yaml, read_document
from inspector.training_files.scripts import Calls


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("2e5", 2e5),
        ("-1.5E+3", -1500.0),
        (".5e1", 5.0),
        ("5e8", 5e8),
        ("12", 12),
        ("1e", "1e"),
        ("e4", "e4"),
        ("2026-11-26", "2026-11-26"),
        ("yes", True),
        ("null", None),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, value: object) -> None:
    found = parse_yaml(f"a: {text}", "x")["a"]
    assert found == value
    assert type(found) is type(value)


def bomb(_folder: Path) -> str:
    levels = [f"a{index}: &a{index} [{', '.join([f'*a{index - 1}'] * 10)}]" for index in range(1, 9)]
    return "\n".join(["a0: &a0 [x, x]", *levels])


BAD: list[tuple[str, str | Callable[[Path], str], str]] = [
    ("bomb.yaml", bomb, "once its aliases are written out"),
    ("endless.yaml", "a: &a [*a]", "aliases that lead into themselves"),
    ("endless2.yaml", "a: &a\n  b: &b\n    c: *a\n", "aliases that lead into themselves"),
    ("deep.yaml", "[" * 10_000, "nests deeper than 50 levels"),
    ("deep2.yaml", "a: " + "[" * 60 + "]" * 60, "nests deeper than 50 levels"),
    ("many.yaml", "a: [" + "1," * 150_000 + "]", "more than 100,000 values"),
    ("large.yaml", "#" * (2**20 + 1), "more than the 1.00 MiB"),
    ("list.yaml", "- a\n- b\n", "holds no keys with values"),
    ("empty.yaml", "", "holds no keys with values"),
    ("tab.yaml", "a:\n\t- b", "not valid YAML at line 2"),
    ("two.yaml", "a: 1\n---\nb: 2\n", "not valid YAML at line"),
    ("object.yaml", "a: !!python/object/apply:os.getcwd []\n", "not valid YAML at line 1"),
    ("unknown.yaml", "a: *nothing\n", "not valid YAML at line 1"),
    ("bad.toml", "a = = 1\n", "not valid TOML at line 1"),
    ("bad.py", "def (:\n", "not valid Python"),
    ("bad.ipynb", "{", "not valid JSON"),
    ("nocells.ipynb", "{}", "it has no cells"),
]


@pytest.mark.parametrize(("name", "text", "says"), BAD, ids=[name for name, _, _ in BAD])
def test_what_cannot_be_read_is_one_line(
    name: str, text: str | Callable[[Path], str], says: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(text if isinstance(text, str) else text(tmp_path), encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        read_document(path)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["a.yaml", "a.toml", "a.py"])
def test_text_that_is_no_utf8_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"a: \xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8 text: byte 3"):
        read_document(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "a: b\nhf_token: @hf_SECRETSECRETSECRET\n"),
        ("a.yaml", "hf_token: *SECRETSECRET\n"),
        ("a.yaml", "hf_token: 'SECRETSECRET\n"),
        ("a.yaml", "hf_token: !SECRETSECRET x\n"),
        ("a.toml", "hf_token = SECRETSECRET\n"),
        ("a.py", "token = 'SECRETSECRET\n"),
        ("a.ipynb", '{"SECRETSECRET": SECRETSECRET}'),
    ],
)
def test_an_error_of_a_file_repeats_no_secret_of_it(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        read_document(tmp_path / name)
    assert "SECRET" not in str(raised.value)


def test_a_byte_order_mark_and_toml_and_json_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    (tmp_path / "a.toml").write_text("a = 1\n")
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert [read_document(tmp_path / f"a.{kind}") for kind in ("yaml", "toml", "json")] == [{"a": 1}] * 3


def test_a_notebook_is_read_without_its_shell_commands_and_magics(tmp_path: Path) -> None:
    cells = [
        "%%capture\n!pip install trl \\\n  unsloth\nBATCH = 4",
        "%%bash\nrm -rf /\nSFTConfig(optim='sgd')",
        "if True:\n    !touch x\nfiles = !ls\n%time pass\n?help",
        "this is no Python",
        ["from trl import SFTConfig\n", "SFTConfig(per_device_train_batch_size=BATCH)"],
    ]
    document = {"cells": [{"cell_type": "code", "source": cell} for cell in cells]}
    document["cells"] += [{"cell_type": "markdown", "source": "SFTConfig(optim='sgd')"}, "no cell"]  # type: ignore[list-item]
    (tmp_path / "a.ipynb").write_text(json.dumps(document))
    calls = read_document(tmp_path / "a.ipynb")
    assert isinstance(calls, Calls)
    assert calls.arguments == {"args": {"per_device_train_batch_size": 4}}

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inspector.errors import ModelUnavailableError, UnsupportedModelError
from inspector.records.source import ServedFrom
from inspector.source.locate import locate

from .loopback_hub import LoopbackHub

CONFIG = {"model_type": "llama", "hidden_size": 8}


def write(path: Path, fields: object = CONFIG) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields))
    return path


def test_a_directory_with_a_config_is_a_model(tmp_path: Path) -> None:
    """The configuration is read, and code that it names would come from the same directory."""
    write(tmp_path / "config.json")
    files = locate(str(tmp_path))
    assert files.config == CONFIG
    assert files.served_from is ServedFrom.LOCAL
    assert (files.id, files.code_location) == (str(tmp_path), str(tmp_path))
    assert files.revision is None
    assert files.notices == ()


@pytest.mark.parametrize(
    ("fields", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode": "mean", "embedding_dimension": 8}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, None),
        ({"pooling_mode": ["cls", "mean"]}, None),
        ({"pooling_mode": "sum"}, None),
        ([], None),
    ],
)
def test_the_pooling_beside_an_embedding_model_is_read(fields: object, pooling: str | None, tmp_path: Path) -> None:
    """In the present form and in an older one; several at once, or none that is known, say nothing."""
    write(tmp_path / "config.json")
    write(tmp_path / "1_Pooling" / "config.json", fields)
    assert locate(str(tmp_path)).pooling == pooling


def test_a_config_file_may_have_any_name(tmp_path: Path) -> None:
    """`config.json` and any other JSON file are read alike; only beside `config.json` can code be found."""
    named, other = write(tmp_path / "config.json"), write(tmp_path / "my-model.json")
    assert locate(str(named)).config == locate(str(other)).config == CONFIG
    assert locate(str(named)).code_location == str(tmp_path)
    assert locate(str(other)).code_location is None


def test_the_home_directory_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~/model` is the directory in the home of whoever runs the command, also when the shell did not expand it."""
    write(tmp_path / "model" / "config.json")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert locate("~/model").config == CONFIG


def test_a_local_directory_wins_over_the_hub(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative directory that holds a configuration is meant, even when the Hub has a model by that name."""
    hub.host("org/model", {"config.json": b'{"model_type": "gpt2"}'})
    write(tmp_path / "org" / "model" / "config.json")
    monkeypatch.chdir(tmp_path)
    assert locate("org/model").served_from is ServedFrom.LOCAL
    assert hub.requests == []


def test_a_revision_of_a_path_is_ignored_aloud(tmp_path: Path) -> None:
    """A path has no revisions: asking for one is answered with a notice, not with silence."""
    write(tmp_path / "config.json")
    (notice,) = locate(str(tmp_path), revision="v2").notices
    assert notice.code == "revision-ignored"
    assert "'v2' was ignored" in notice.message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "No model was named"),
        ("  ", "No model was named"),
        ("./absent", "The path './absent' is not here"),
        ("/absent/config.json", "The path '/absent/config.json' is not here"),
        ("absent.json", "The path 'absent.json' is not here"),
        ("~nobody-of-that-name/x", "The path '~nobody-of-that-name/x' cannot be read"),
        ("./a\0b", "./a\N{REPLACEMENT CHARACTER}b"),
        ("/" + "a" * 5000, "File name too long"),
        ("empty", "The directory 'empty' holds neither config.json nor adapter_config.json"),
        ("weights.bin", "'weights.bin' is a file but no config.json"),
        ("a/b/c", "'a/b/c' is neither a path on this machine nor a Hub id"),
        ("org/mo\x1bdel", "'org/mo\N{REPLACEMENT CHARACTER}del' is neither a path on this machine nor a Hub id"),
        ("a" * 5000, "is neither a path on this machine nor a Hub id"),
        ("a\0b", "is neither a path on this machine nor a Hub id"),
        ("https://hub.example/Qwen/QwQ-32B", "name the model by its Hub id: 'Qwen/QwQ-32B'"),
        ("https://hub.example/Qwen/QwQ-32B/tree/main", "name the model by its Hub id: 'Qwen/QwQ-32B'"),
    ],
)
def test_a_path_without_a_config_says_what_is_missing(
    name: str, message: str, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is no Hub id and holds no configuration is an error of one printable line, and the Hub is not asked."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.bin").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelUnavailableError) as caught:
        locate(name)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()
    assert hub.requests == []


def test_a_config_that_is_a_directory_is_unavailable(tmp_path: Path) -> None:
    """A directory by the name of config.json is not read as one."""
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ModelUnavailableError, match="is a directory"):
        locate(str(tmp_path))


def test_a_malformed_config_names_its_file(tmp_path: Path) -> None:
    """The file and the position are named; the exit code is that of a model that cannot be inspected."""
    (tmp_path / "config.json").write_text('{"a": }')
    with pytest.raises(
        UnsupportedModelError, match=r"config\.json' is not valid JSON: .* at line 1 column 7; correct it\."
    ):
        locate(str(tmp_path))

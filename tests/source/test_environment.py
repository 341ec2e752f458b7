"""The client's environment variables, in processes of their own: nothing in them is replaced."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not in an __all__

from inspector.source.hub_client import is_valid_id

from .loopback_hub import LoopbackHub

SCRIPT = """
import json, sys
from inspector import errors
from inspector.source.locate import locate
try:
    files = locate(sys.argv[1])
    print(json.dumps([files.served_from.value, dict(files.config), [notice.code for notice in files.notices]]))
except errors.ModelUnavailableError as error:
    print(json.dumps(str(error)))
assert not {"torch", "transformers", "peft"} & set(sys.modules)
"""
CONFIG = b'{"model_type": "llama"}'


def run(name: str, home: Path, endpoint: str, **variables: str) -> object:
    """Return what `locate` gives in a new process, which must write nothing else."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment = {**kept, "HF_HOME": str(home), "HF_ENDPOINT": endpoint, **variables}
    command = [sys.executable, "-W", "error", "-c", SCRIPT, name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_endpoint_home_and_offline_are_respected(tmp_path: Path) -> None:
    """HF_ENDPOINT is asked, HF_HOME keeps the answer, HF_HUB_OFFLINE and a dead network are served from there."""
    with LoopbackHub() as hub:
        hub.host("org/model", {"config.json": CONFIG})
        assert run("org/model", tmp_path, hub.endpoint + "/") == ["hub", json.loads(CONFIG), []]
        assert (tmp_path / "hub" / "models--org--model").is_dir()
        hub.requests.clear()
        offline = run("org/model", tmp_path, hub.endpoint, HF_HUB_OFFLINE="1")
        assert offline == ["cache", json.loads(CONFIG), []]
        assert hub.requests == []
    assert run("org/model", tmp_path, hub.endpoint) == ["cache", json.loads(CONFIG), ["network-failed"]]


def test_a_token_of_the_environment_or_of_a_saved_login_is_used(tmp_path: Path) -> None:
    """HF_TOKEN opens a gated repository, and so does the token file that `hf auth login` leaves in HF_HOME."""
    with LoopbackHub() as hub:
        hub.host("org/model", {"config.json": CONFIG}, gated=True)
        assert "'org/model' is gated" in str(run("org/model", tmp_path / "a", hub.endpoint))
        assert run("org/model", tmp_path / "a", hub.endpoint, HF_TOKEN=hub.token) == ["hub", json.loads(CONFIG), []]
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "token").write_text(hub.token)
        assert run("org/model", tmp_path / "b", hub.endpoint) == ["hub", json.loads(CONFIG), []]


@pytest.mark.parametrize("endpoint", ["hub.example", "http://[bad", "http://127.0.0.1:99999"])
def test_an_endpoint_that_is_no_address_is_one_line(endpoint: str, tmp_path: Path) -> None:
    """A mistyped HF_ENDPOINT is told in a line, whether the client already stumbles over it when it is imported."""
    message = str(run("org/model", tmp_path, endpoint))
    assert "No network or no usable answer" in message or "check HF_ENDPOINT" in message


def is_valid_to_the_client(name: str) -> bool:
    """Tell whether the client takes a name for an id."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def test_ids_that_are_told_without_the_client_are_those_that_it_takes() -> None:
    """It is asked about all others: every short name of each kind of character, and long ones."""
    short = ("".join(letters) for count in range(6) for letters in itertools.product("aß-./", repeat=count))
    others = ("a" * 96, "a" * 97, "b/" + "a" * 96, "a.git", "a/b.git", "a.gitb", "a_b/c", "a\n", "a b")
    wrong = [name for name in (*short, *others) if is_valid_id(name) != is_valid_to_the_client(name)]
    assert wrong == []

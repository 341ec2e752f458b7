from __future__ import annotations

import json
from pathlib import Path

import pytest

from inspector.cli.option_names import name_options
from inspector.errors import InspectorError, ModelUnavailableError, UnsupportedModelError
from inspector.records.request import Request
from inspector.records.source import ServedFrom
from inspector.source.locate import locate
from inspector.source.read import read_files

from .loopback_hub import LoopbackHub, commit_of

BASE = b'{"model_type": "llama"}'


def adapter(base: object = "org/base", **fields: object) -> bytes:
    return json.dumps({"peft_type": "LORA", "r": 16, "base_model_name_or_path": base, **fields}).encode()


def error_of(name: str, kind: type[InspectorError]) -> str:
    with pytest.raises(kind) as caught:
        locate(name)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_an_adapter_of_the_hub_leads_to_its_base(hub: LoopbackHub) -> None:
    """The result is the base model's, with the adapter's configuration and id beside it."""
    hub.host("org/base", {"config.json": BASE})
    hub.host("org/adapter", {"config.json": b"{}", "adapter_config.json": adapter()}, commit="other")
    files = locate("org/adapter")
    assert (files.id, files.config, files.revision) == ("org/base", json.loads(BASE), commit_of("first"))
    assert files.adapter_id == "org/adapter"
    assert files.adapter_config == json.loads(adapter())
    again = locate("org/adapter", offline=True)
    assert (again.served_from, again.adapter_config) == (ServedFrom.CACHE, files.adapter_config)


def test_a_local_adapter_leads_to_its_base(hub: LoopbackHub, tmp_path: Path) -> None:
    """An adapter's directory and its file can be named alike."""
    hub.host("org/base", {"config.json": BASE})
    (tmp_path / "adapter_config.json").write_bytes(adapter())
    for name in (str(tmp_path), str(tmp_path / "adapter_config.json")):
        files = locate(name)
        assert (files.id, files.adapter_id, files.served_from) == ("org/base", name, ServedFrom.HUB)


def test_adapters_that_one_mixes_are_read_by_their_configurations_alone(hub: LoopbackHub, tmp_path: Path) -> None:
    """From the Hub by their ids, or beside the one that mixes them; no base of theirs and no weights are asked for."""
    hub.host("org/base", {"config.json": BASE})
    for name in ("style", "facts"):
        files = {"adapter_config.json": adapter("org/absent", r=len(name)), "adapter_model.safetensors": b"weights"}
        hub.host(f"org/{name}", files)
    fields = {"peft_type": "XLORA", "adapters": {"0": "org/style", "1": "org/facts", "2": {"peft_type": "LORA"}}}
    found = read_files(Request(model="org/base", peft=fields), lambda _stage: None)
    assert found is not None
    assert {name: item["r"] for name, item in (found.mixed_adapters or {}).items()} == {"0": 5, "1": 5}
    assert not any("safetensors" in request or "absent" in request for request in hub.requests)
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "adapter_config.json").write_bytes(adapter("org/absent", r=3))
    saved = json.dumps({**fields, "base_model_name_or_path": "org/base"})
    (tmp_path / "adapter_config.json").write_text(saved)
    beside = read_files(Request(model=str(tmp_path)), lambda _stage: None)
    assert beside is not None
    assert {name: item["r"] for name, item in (beside.mixed_adapters or {}).items()} == {"0": 3, "1": 5}


@pytest.mark.parametrize("base", ["org/base", "org/absent", "/not/here", None])
def test_a_directory_with_both_files_is_its_model_with_its_adapter(
    base: str | None, hub: LoopbackHub, tmp_path: Path
) -> None:
    """Whatever base the adapter names, as `from_pretrained` does; without asking for it."""
    (tmp_path / "config.json").write_bytes(BASE)
    (tmp_path / "adapter_config.json").write_bytes(adapter(base))
    files = locate(str(tmp_path))
    assert (files.id, files.adapter_id, files.served_from) == (str(tmp_path), str(tmp_path), ServedFrom.LOCAL)
    assert (files.config, files.adapter_config) == (json.loads(BASE), json.loads(adapter(base)))
    assert files.checkpoint is not None
    assert (files.notices, hub.requests) == ((), [])
    assert locate(str(tmp_path / "config.json")).adapter_config is None


def test_the_model_beside_an_adapter_on_the_hub_is_not_its_base_where_it_names_another(hub: LoopbackHub) -> None:
    """`from_pretrained` looks for a model beside the adapter in a directory, and not in a repository."""
    hub.host("org/base", {"config.json": BASE})
    hub.host("org/both", {"config.json": b'{"model_type": "gpt2"}', "adapter_config.json": adapter()}, commit="other")
    for offline in (False, True):
        assert locate("org/both", offline=offline).id == "org/base"


def test_an_adapter_that_names_its_own_repository_sits_on_the_model_in_it(hub: LoopbackHub) -> None:
    """So `from_pretrained` loads it, from the Hub and from the cache."""
    hub.host("org/both", {"config.json": BASE, "adapter_config.json": adapter("org/both")})
    for offline, source in ((False, ServedFrom.HUB), (True, ServedFrom.CACHE)):
        files = locate("org/both", offline=offline)
        assert (files.id, files.adapter_id, files.served_from) == ("org/both", "org/both", source)
        assert (files.config, files.notices) == (json.loads(BASE), ())
        assert not files.adapter_alone


@pytest.mark.parametrize(
    ("base", "says"),
    [
        (None, "names no base model; the model that its own repository holds is taken for it."),
        ("/content/llama", "The path '/content/llama' is not here; "),
        ("org/absent", "has no public model 'org/absent'"),
    ],
)
def test_a_model_beside_an_adapter_on_the_hub_stands_in_for_a_base_that_cannot_be_had(
    base: str | None, says: str, hub: LoopbackHub
) -> None:
    """The cause stands in a notice; an adapter alone is refused for the same."""
    hub.host("org/both", {"config.json": BASE, "adapter_config.json": adapter(base)})
    files = locate("org/both")
    assert (files.id, files.adapter_id, files.config) == ("org/both", "org/both", json.loads(BASE))
    (notice,) = [notice for notice in files.notices if notice.code == "base-beside-adapter"]
    assert says in notice.message


@pytest.mark.parametrize("base", [None, "", "/content/llama", "C:\\models\\llama", "org/absent"])
def test_a_base_that_cannot_be_had_is_refused_with_the_way_to_name_another(
    base: str | None, hub: LoopbackHub, tmp_path: Path
) -> None:
    """`inspect BASE --peft ADAPTER` puts a local adapter on any base, and a downloaded file does for the Hub."""
    (tmp_path / "adapter_config.json").write_bytes(adapter(base))
    hub.host("org/adapter", {"adapter_config.json": adapter(base)})
    kind = ModelUnavailableError if base else UnsupportedModelError
    local, remote = (name_options(error_of(name, kind)) for name in (str(tmp_path), "org/adapter"))
    assert f"inspect BASE --peft {tmp_path}." in local
    assert "inspect BASE --peft FILE, where FILE is adapter_config.json downloaded" in remote


def test_the_revision_of_the_base_is_the_one_the_adapter_names(hub: LoopbackHub) -> None:
    """The user's revision is the adapter's; that of the base stands in the file, where null means main."""
    base = hub.host("org/base", {"config.json": b'{"version": 2}'}, commit="second")
    base.files[commit_of("first")] = {"config.json": b'{"version": 1}'}
    repository = hub.host("org/adapter", {"adapter_config.json": adapter(revision=commit_of("first"))})
    repository.branches["v1"] = commit_of("first")
    assert locate("org/adapter", revision="v1").config == {"version": 1}
    hub.host("org/adapter", {"adapter_config.json": adapter(revision=None)}, commit="second")
    assert locate("org/adapter").config == {"version": 2}


def test_the_notices_of_adapter_and_base_are_both_kept(hub: LoopbackHub, tmp_path: Path) -> None:
    """A base from the catalogue says why it is, also when an adapter led there."""
    (tmp_path / "adapter_config.json").write_bytes(adapter("Qwen/QwQ-32B"))
    files = locate(str(tmp_path), revision="v1")
    assert [notice.code for notice in files.notices] == ["revision-ignored", "not-found"]
    assert files.served_from is ServedFrom.BUNDLED


@pytest.mark.parametrize("base", [None, 7, "", ["org/base"]])
def test_an_adapter_must_name_its_base(base: object, hub: LoopbackHub) -> None:
    """Without a base there is no model to count."""
    hub.host("org/adapter", {"adapter_config.json": adapter(base)})
    error = error_of("org/adapter", UnsupportedModelError)
    assert error.startswith("adapter_config.json of 'org/adapter' names no base model")


def test_the_revision_of_the_base_must_be_a_string(hub: LoopbackHub) -> None:
    """A number is no revision."""
    hub.host("org/adapter", {"adapter_config.json": adapter(revision=7)})
    assert "revision must be a string, not '7'" in error_of("org/adapter", UnsupportedModelError)


def test_a_base_path_that_is_not_here_is_named(hub: LoopbackHub) -> None:
    """Adapters trained elsewhere often name a path of that machine."""
    hub.host("org/adapter", {"adapter_config.json": adapter("/content/llama")})
    assert error_of("org/adapter", ModelUnavailableError).startswith(
        "The base model that adapter_config.json of 'org/adapter' names: The path '/content/llama' is not here;"
    )


def test_a_base_that_the_hub_does_not_have_is_named(hub: LoopbackHub) -> None:
    """The error says that it is the base that is missing."""
    hub.host("org/adapter", {"adapter_config.json": adapter("org/absent")})
    error = error_of("org/adapter", ModelUnavailableError)
    assert error.startswith("The base model that adapter_config.json of 'org/adapter' names: ")
    assert "has no public model 'org/absent'" in error


@pytest.mark.parametrize("base", ["org/adapter", "org/other"])
def test_an_adapter_on_an_adapter_is_refused(base: str, hub: LoopbackHub) -> None:
    """Neither a chain of adapters nor one that names itself is followed."""
    for name in ("org/adapter", "org/other"):
        hub.host(name, {"adapter_config.json": adapter(base)})
    assert "is itself an adapter" in error_of("org/adapter", UnsupportedModelError)


def test_a_malformed_adapter_names_its_file(hub: LoopbackHub) -> None:
    """The file and its repository are named."""
    hub.host("org/adapter", {"adapter_config.json": b"{"})
    assert error_of("org/adapter", UnsupportedModelError).startswith(
        "adapter_config.json of 'org/adapter' is not valid"
    )

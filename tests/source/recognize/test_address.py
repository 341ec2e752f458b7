"""Addresses of the Hub are ids with a revision; those of datasets, Spaces and pages are refused in one line."""

from __future__ import annotations

import pytest

from inspector.errors import ModelUnavailableError
from inspector.source.recognize.address import Address, read_address
from tests.cli.running import assert_refused, run
from tests.source.loopback_hub import LoopbackHub
from tests.source.weight_files import TINY_TENSORS, config_bytes, weight_file

HUB = "https://huggingface.co"


@pytest.mark.parametrize(
    ("name", "id_", "revision"),
    [
        (f"{HUB}/Qwen/QwQ-32B", "Qwen/QwQ-32B", None),
        (f"{HUB}/Qwen/QwQ-32B/", "Qwen/QwQ-32B", None),
        (f"{HUB}/Qwen/QwQ-32B?library=transformers#files", "Qwen/QwQ-32B", None),
        (f"{HUB}/Qwen/QwQ-32B/tree/main", "Qwen/QwQ-32B", None),
        (f"{HUB}/Qwen/QwQ-32B/tree/v1.0", "Qwen/QwQ-32B", "v1.0"),
        (f"{HUB}/Qwen/QwQ-32B/tree/refs%2Fpr%2F7", "Qwen/QwQ-32B", "refs/pr/7"),
        (f"{HUB}/Qwen/QwQ-32B/blob/0123abc/config.json", "Qwen/QwQ-32B", "0123abc"),
        (f"{HUB}/Qwen/QwQ-32B/resolve/main/config.json", "Qwen/QwQ-32B", None),
        (f"{HUB}/Qwen/QwQ-32B/discussions/3", "Qwen/QwQ-32B", None),
        (f"{HUB}/api/models/Qwen/QwQ-32B", "Qwen/QwQ-32B", None),
        (f"{HUB}/gpt2", "gpt2", None),
        (f"{HUB}/gpt2/tree/main", "gpt2", None),
        ("http://www.huggingface.co/Qwen/QwQ-32B", "Qwen/QwQ-32B", None),
        ("huggingface.co/Qwen/QwQ-32B", "Qwen/QwQ-32B", None),
        ("hf.co/Qwen/QwQ-32B/", "Qwen/QwQ-32B", None),
        ("https://mirror.example:8443/hub/Qwen/QwQ-32B/tree/v2", "Qwen/QwQ-32B", "v2"),
    ],
)
def test_an_address_is_an_id_and_a_revision(name: str, id_: str, revision: str | None) -> None:
    assert read_address(name, "https://mirror.example:8443/hub") == Address(id=id_, revision=revision)


@pytest.mark.parametrize(
    "name",
    [
        "Qwen/QwQ-32B",
        "gpt2",
        "./huggingface.co/x",
        "https://other.example/Qwen/QwQ-32B",
        "https://x:port/a/b",
        "hf.com/a",
    ],
)
def test_what_is_no_address_of_the_hub_is_left_alone(name: str) -> None:
    assert read_address(name, HUB) is None


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("datasets/org/name", "the address of a dataset"),
        ("spaces/org/name/tree/main", "the address of a Space"),
        ("docs/transformers", "names no repository"),
        ("", "names no repository"),
        ("org/name/tree/main/text_encoder", "leads into a folder"),
        ("org/name/blob/main/text_encoder/config.json", "leads into a folder"),
    ],
)
def test_an_address_of_something_else_is_refused(path: str, says: str) -> None:
    with pytest.raises(ModelUnavailableError, match=says):
        read_address(f"{HUB}/{path}", HUB)


def test_an_address_of_a_mirror_is_inspected(hub: LoopbackHub) -> None:
    """HF_ENDPOINT's host counts as the Hub's."""
    hub.host("org/model", {"config.json": config_bytes(), "model.safetensors": weight_file(TINY_TENSORS)})
    report = run(f"{hub.endpoint}/org/model/blob/main/config.json", "--count-only", "--json").report
    assert (report["model"]["id"], report["model"]["source"]) == ("org/model", "hub")


def test_an_address_with_another_revision_than_the_option_is_refused() -> None:
    ran = run("hf.co/Qwen/QwQ-32B/tree/v1", "--revision", "v2", "--offline")
    assert_refused(ran, 2, "names the revision 'v1', and --revision 'v2' another: drop one")


@pytest.mark.parametrize(
    "name", ["Qwen/Qwen2.5-0.5B/", "hf.co/Qwen/Qwen2.5-0.5B", f"{HUB}/Qwen/Qwen2.5-0.5B/tree/main/"]
)
def test_the_catalogue_answers_for_an_address(name: str) -> None:
    """Without network, too; a slash behind an id is no path where there is no such folder."""
    assert run(name, "--offline", "--count-only", "--json").report["model"]["id"] == "Qwen/Qwen2.5-0.5B"

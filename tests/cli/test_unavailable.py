"""A model that cannot be had ends with code 3 and one line; one that a stand-in serves is inspected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.source.loopback_hub import Broken, LoopbackHub

from .running import SMALL, assert_refused, bundled_config, run


def test_an_id_that_is_nowhere_offline_is_refused() -> None:
    """Without a network the cache and the catalogue are all there is."""
    assert_refused(run("nobody/nothing", "--offline"), 3, "drop --offline")


@pytest.mark.parametrize(
    "name",
    ["", " ", "../nowhere", "./nowhere", "/nowhere/config.json", "a b", "a/b/c", "-/-", "x" * 5000, "\x00", "\ud800"],
)
def test_a_name_that_is_neither_path_nor_id_is_refused(name: str) -> None:
    """Whatever is named, it is quoted in one line."""
    assert_refused(run("--offline", "--", name), 3)


def test_an_id_that_the_hub_does_not_have_is_refused(hub: LoopbackHub) -> None:
    """A misspelt id is answered with the nearest one of the catalogue."""
    assert_refused(run("nobody/nothing"), 3, "nobody/nothing")
    assert_refused(run("Qwen/Qwen2.5-0.5BB"), 3, SMALL)
    assert any("nobody/nothing" in request for request in hub.requests)


def test_a_gated_id_is_refused_with_the_way_in(hub: LoopbackHub) -> None:
    """The next step is to log in."""
    hub.host("org/gated", {"config.json": b"{}"}, gated=True)
    assert_refused(run("org/gated"), 3, "HF_TOKEN")


def test_a_revision_that_is_not_there_is_refused(hub: LoopbackHub) -> None:
    """The revision is named, not only the model."""
    hub.host("org/model", {"config.json": json.dumps(bundled_config(SMALL)).encode()})
    assert_refused(run("org/model", "--revision", "v9"), 3, "v9")


def test_a_repository_without_a_configuration_is_refused(hub: LoopbackHub) -> None:
    """What it holds instead is said."""
    hub.host("org/model", {"model.gguf": b""})
    assert_refused(run("org/model"), 3, "model.gguf")


def test_no_network_and_not_in_the_catalogue_is_refused(hub: LoopbackHub) -> None:
    """A dead network ends at once."""
    hub.close()
    assert_refused(run("org/model"), 3, "org/model")


def test_no_network_is_no_obstacle_for_the_catalogue(hub: LoopbackHub) -> None:
    """The bundled entry stands in, and the report says so."""
    hub.close()
    report = run(SMALL, "--json").report
    assert report["model"]["source"] == "bundled"
    assert "network-failed" in [warning["code"] for warning in report["warnings"]]


def test_a_hub_that_answers_nonsense_is_refused(hub: LoopbackHub) -> None:
    """An answer that is none of the Hub's counts as no network."""
    hub.broken = Broken(body=b"<html>\x1b[31mLogin</html>")
    assert_refused(run("org/model"), 3, "org/model")


def test_a_malformed_configuration_of_the_hub_cannot_be_inspected(hub: LoopbackHub) -> None:
    """The model could be had: the configuration is what is wrong."""
    hub.host("org/model", {"config.json": b"{"})
    assert_refused(run("org/model"), 4, "org/model")


def test_a_model_of_the_hub_is_inspected(hub: LoopbackHub) -> None:
    """The command asks the Hub first."""
    hub.host("org/model", {"config.json": json.dumps(bundled_config(SMALL)).encode()})
    report = run("org/model", "--json").report
    assert (report["model"]["source"], report["parameters"]["base"]) == ("hub", 494_032_768)


def test_an_adapter_of_the_hub_is_inspected_on_its_base(hub: LoopbackHub) -> None:
    """The adapter's repository says which model it belongs to."""
    fields = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "base_model_name_or_path": SMALL}
    hub.host("org/adapter", {"adapter_config.json": json.dumps(fields).encode()})
    report = run("org/adapter", "--json").report
    assert report["parameters"]["trainable"] == 24 * 4 * (896 + 896)
    assert report["model"]["adapter_id"] == "org/adapter"
    assert_refused(run("org/adapter", "--lora", "r=8"), 2, SMALL)


def test_an_adapter_without_a_base_cannot_be_inspected(tmp_path: Path) -> None:
    """An adapter_config.json alone is no model."""
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert_refused(run(str(tmp_path)), 4, "base")


def test_a_directory_without_a_configuration_is_refused(tmp_path: Path) -> None:
    """A directory is a model only with a config.json."""
    assert_refused(run(str(tmp_path)), 3, "config.json")

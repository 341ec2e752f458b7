"""The Hub fails, refuses, or answers nonsense: bounded attempts, one line, the right code, a sound cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants, scan_cache_dir

from inspector.source import hub as hub_source
from inspector.source import transport
from tests.cli.running import Ran, assert_refused, run
from tests.source.loopback_hub import Broken, LoopbackHub
from tests.source.weight_files import TINY_TENSORS, config_bytes, sharded, weight_file

Told = Callable[[str, str, Ran], None]

API, FILES, WEIGHTS = "/api/", "/resolve/", "model.safetensors"
LISTING = "The listing of the repository"
CONFIG = "The configuration"
HEADERS = "The headers of the weights"
ACCESS = "Access and names"
OPTIONS = ("--count-only", "--json", "--depth", "0")
MOST_REQUESTS = 30


def sound(hub: LoopbackHub) -> None:
    """Hold the cache against the client's own check, and the next run against a Hub that works."""
    assert len(hub.requests) <= MOST_REQUESTS
    if Path(constants.HF_HUB_CACHE).exists():
        assert scan_cache_dir(constants.HF_HUB_CACHE).warnings == []
    hub.broken = None
    ran = run("org/model", *OPTIONS)
    assert ran.report["model"]["source"] == "hub"
    assert ran.report["checkpoint"]["tensors"] == len(TINY_TENSORS)


@pytest.fixture
def model(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> LoopbackHub:
    """Return a Hub that has one model; deadlines are tenths of seconds."""
    monkeypatch.setattr(transport, "_MOST_SECONDS", 0.3)
    monkeypatch.setattr(transport, "TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(hub_source, "_DOWNLOAD_SECONDS", 0.6)
    hub.host("org/model", {"config.json": config_bytes(), "model.safetensors": weight_file(TINY_TENSORS)})
    return hub


SERVER = [
    ("answers 500", Broken(status=500)),
    ("answers 503", Broken(status=503)),
    ("answers 429", Broken(status=429)),
    ("answers 429 and asks to wait an hour", Broken(status=429, headers={"Retry-After": "3600"})),
    (
        "answers 401: the token is not valid",
        Broken(status=401, headers={"X-Error-Message": "Invalid credentials in Authorization header"}),
    ),
    ("answers 403", Broken(status=403)),
    ("closes the connection", Broken(body=None)),
    ("sends less than it announced", Broken(body=b"{}", headers={"Content-Length": "1000"})),
    ("sends a byte now and then, without end", Broken(body=b" " * 1000, pause=0.02)),
    ("sends nothing", Broken(body=b"  ", pause=2)),
    ("redirects in a circle", Broken(status=302, headers={"Location": "/api/circle"})),
    ("compresses what was to be plain", Broken(body=b"\x1f\x8b" * 10, headers={"Content-Encoding": "gzip"})),
]
NONSENSE = [
    ("is a page of HTML (a captive portal)", b"<html>Log in to the hotel's network</html>"),
    ("is an empty object", b"{}"),
    ("nests 100,000 levels deep", b"[" * 100_000),
    ("is longer than 16 MiB", b" " * (16 * 2**20 + 1)),
    ("names a commit that is a path", b'{"sha": "../../x", "siblings": []}'),
    ("lists files that are no names", b'{"sha": "' + b"a" * 40 + b'", "siblings": [7]}'),
]


@pytest.mark.parametrize(("fault", "broken"), SERVER, ids=[fault for fault, _ in SERVER])
def test_a_server_that_fails_the_listing(fault: str, broken: Broken, model: LoopbackHub, told: Told) -> None:
    """Nothing is known of the repository: exit code 3 and one line."""
    model.broken = broken
    ran = run("org/model", *OPTIONS)
    assert_refused(ran, 3)
    told(LISTING, f"The server {fault}", ran)
    sound(model)


@pytest.mark.parametrize(("fault", "body"), NONSENSE, ids=[fault for fault, _ in NONSENSE])
def test_a_listing_that_is_none(fault: str, body: bytes, model: LoopbackHub, told: Told) -> None:
    """Whoever answers is not the Hub."""
    model.broken = Broken(body=body, where=API)
    ran = run("org/model", *OPTIONS)
    assert_refused(ran, 3)
    told(LISTING, f"The answer {fault}", ran)
    sound(model)


@pytest.mark.parametrize(
    ("fault", "broken"),
    [
        ("answers 500", Broken(status=500, where=FILES)),
        ("closes the connection", Broken(body=None, where=FILES)),
        ("is none of the Hub's", Broken(body=b"{}", where=FILES)),
        ("breaks off the download each time", Broken(body=None, where=FILES, command="GET")),
        ("sends a byte of the download now and then", Broken(body=b" " * 1000, pause=0.02, where=FILES, command="GET")),
        ("answers 429 to the download", Broken(status=429, where=FILES, command="GET")),
        (
            "answers 429 to the download and asks to wait an hour",
            Broken(status=429, where=FILES, command="GET", headers={"Retry-After": "3600"}),
        ),
    ],
)
def test_a_server_that_fails_the_configuration(fault: str, broken: Broken, model: LoopbackHub, told: Told) -> None:
    """Without a configuration there is no model: exit code 3."""
    model.broken = broken
    ran = run("org/model", *OPTIONS)
    assert_refused(ran, 3)
    told(CONFIG, f"The server {fault}", ran)
    sound(model)


@pytest.mark.parametrize(
    ("fault", "files"),
    [
        ("is no JSON", {"config.json": b"<html>"}),
        ("holds NaN", {"config.json": b'{"model_type": "llama", "rope_theta": NaN}'}),
        ("holds an integer of 5,000 digits", {"config.json": b'{"hidden_size": ' + b"9" * 5000 + b"}"}),
        ("nests 100,000 levels deep", {"config.json": b'{"a":' * 100_000}),
        ("is larger than 16 MiB", {"config.json": b" " * (16 * 2**20 + 1)}),
        (
            "wants its own code to run",
            {"config.json": b'{"auto_map": {"AutoConfig": "evil.Config"}}', "evil.py": b"1/0"},
        ),
        ("is not there", {"model.gguf": b"", "README.md": b"---\nbase_model: !!python/name:os.system\n---\n"}),
    ],
)
def test_a_configuration_that_is_none(fault: str, files: dict[str, bytes], hub: LoopbackHub, told: Told) -> None:
    """A malformed one cannot be inspected (4); none at all is a model that cannot be had (3)."""
    hub.host("org/model", files)
    ran = run("org/model", *OPTIONS)
    assert_refused(ran, 3 if fault == "is not there" else 4)
    told(CONFIG, f"config.json {fault}", ran)


HEADER_FAULTS = [
    ("answers 500", Broken(status=500, where=WEIGHTS)),
    ("answers 429", Broken(status=429, where=WEIGHTS)),
    ("answers 403", Broken(status=403, where=WEIGHTS)),
    ("answers 404", Broken(status=404, where=WEIGHTS, headers={"X-Error-Code": "EntryNotFound"})),
    ("answers 416", Broken(status=416, where=WEIGHTS)),
    ("closes the connection", Broken(body=None, where=WEIGHTS)),
    ("sends less than it announced", Broken(body=b"{}", headers={"Content-Length": "1000"}, where=WEIGHTS)),
    ("sends a byte now and then", Broken(body=b" " * 1000, pause=0.02, where=WEIGHTS)),
    ("sends nothing", Broken(body=b"  ", pause=2, where=WEIGHTS)),
    ("sends another range", Broken(status=206, headers={"Content-Range": "bytes 7-9/9"}, where=WEIGHTS)),
    ("redirects in a circle", Broken(status=302, headers={"Location": f"/{WEIGHTS}"}, where=WEIGHTS)),
]


@pytest.mark.parametrize(("fault", "broken"), HEADER_FAULTS, ids=[fault for fault, _ in HEADER_FAULTS])
def test_a_server_that_fails_the_headers(fault: str, broken: Broken, model: LoopbackHub, told: Told) -> None:
    """The model is inspected without them, and a warning says what is not known."""
    model.broken = broken
    ran = run("org/model", *OPTIONS)
    assert [warning["code"] for warning in ran.report["warnings"]] == ["checkpoint-unread"]
    assert ran.report["checkpoint"]["bytes"] == len(weight_file(TINY_TENSORS))
    told(HEADERS, f"The server {fault}", ran)
    sound(model)


@pytest.mark.parametrize("status", [500, 429, 503])
def test_a_server_that_fails_twice(status: int, model: LoopbackHub, told: Told) -> None:
    """The third attempt is answered, and nobody is bothered."""
    model.broken = Broken(status=status, where=WEIGHTS, times=2)
    ran = run("org/model", *OPTIONS)
    assert ran.report["warnings"] == []
    told(HEADERS, f"The server answers {status} twice, then works", ran)
    sound(model)


def test_a_sharded_checkpoint_without_its_index(model: LoopbackHub, told: Told) -> None:
    """The names of the files still tell what is downloaded."""
    files = sharded(3)
    model.host("org/model", {"config.json": config_bytes(), **files})
    model.broken = Broken(status=503, where="index.json")
    ran = run("org/model", *OPTIONS)
    assert ran.report["checkpoint"]["files"] == 3
    told(HEADERS, "The index of a sharded checkpoint cannot be read", ran)
    sound(model)


def test_a_run_without_network_serves_the_catalogue_or_is_refused_at_once(hub: LoopbackHub, told: Told) -> None:
    """A model that is nowhere else is refused at once; one of the catalogue is served."""
    hub.close()
    ran = run("org/model", *OPTIONS)
    assert_refused(ran, 3)
    told(ACCESS, "There is no network", ran)
    ran = run("Qwen/QwQ-32B", *OPTIONS)
    assert ran.report["model"]["source"] == "bundled"
    told(ACCESS, "There is no network; the catalogue has the model", ran)


def test_a_mirror_that_has_not_every_model(hub: LoopbackHub, told: Told) -> None:
    """The same sentence as for a private one: the Hub tells neither from the other."""
    ran = run("org/absent", *OPTIONS)
    assert_refused(ran, 3)
    told(ACCESS, "The repository does not exist, or is private", ran)
    ran = run("Qwen/QwQ-32", *OPTIONS)
    assert_refused(ran, 3)


def test_a_near_name_is_suggested_for_a_model_that_is_not_there(hub: LoopbackHub, told: Told) -> None:
    """The catalogue knows what was probably meant."""
    ran = run("Qwen/QwQ-32", *OPTIONS)
    assert_refused(ran, 3, "Qwen/QwQ-32B")
    told(ACCESS, "The name has a typo", ran)


@pytest.mark.parametrize(("kind", "shown"), [("datasets", "dataset"), ("spaces", "Space")])
def test_a_dataset_in_place_of_a_model_is_named_as_a_dataset(
    kind: str, shown: str, hub: LoopbackHub, told: Told
) -> None:
    """Whoever names a dataset is told so."""
    hub.others["org/other"] = kind
    ran = run("org/other", *OPTIONS)
    assert_refused(ran, 3, f"is a {shown} on the Hub, not a model")
    told(ACCESS, f"The name is that of a {shown}", ran)


@pytest.mark.parametrize("name", ["datasets/org/data", "https://huggingface.co/spaces/org/app"])
def test_an_address_of_another_kind(name: str, hub: LoopbackHub, told: Told) -> None:
    """The address alone tells."""
    ran = run(name, *OPTIONS)
    assert_refused(ran, 3, "not a model")
    told(ACCESS, f"The name is `{name}`", ran)


def test_a_gated_repository_is_refused_with_the_page_of_its_terms(hub: LoopbackHub, told: Told) -> None:
    """The page where the terms are accepted, and how to log in."""
    hub.host("org/model", {"config.json": config_bytes()}, gated=True)
    ran = run("org/model", *OPTIONS)
    assert_refused(ran, 3, f"{hub.endpoint}/org/model")
    told(ACCESS, "The repository is gated", ran)


def test_a_gated_repository_of_the_catalogue_is_served_from_the_catalogue(hub: LoopbackHub, told: Told) -> None:
    """The configuration is the catalogue's, the sizes are the Hub's."""
    hub.host("Qwen/QwQ-32B", {"config.json": b"{}", **sharded(3)}, gated=True)
    ran = run("Qwen/QwQ-32B", *OPTIONS)
    assert ran.report["checkpoint"]["files"] == 3
    told(ACCESS, "The repository is gated; the catalogue has the model", ran)


def test_a_report_of_a_renamed_repository_has_the_present_name(hub: LoopbackHub, told: Told) -> None:
    """The Hub redirects, and the report says the present name."""
    hub.host("new/model", {"config.json": config_bytes(), "model.safetensors": weight_file(TINY_TENSORS)})
    hub.renamed["org/model"] = "new/model"
    ran = run("org/model", *OPTIONS)
    assert [warning["code"] for warning in ran.report["warnings"]] == ["renamed"]
    assert ran.report["checkpoint"]["tensors"] == len(TINY_TENSORS)
    told(ACCESS, "The repository was renamed", ran)


def test_a_published_count_is_explained_by_what_is_stored(hub: LoopbackHub) -> None:
    """A layer too many, and a tied head stored again: the difference to P is told to the last element."""
    tensors = {**TINY_TENSORS, "model.layers.1.mlp.up_proj.weight": ("BF16", (6, 4))}
    total = sum(math.prod(shape) for _, shape in tensors.values())
    files = {"config.json": config_bytes(tie_word_embeddings=True), "model.safetensors": weight_file(tensors)}
    hub.host("org/model", files, info={"safetensors": {"parameters": {"BF16": total}, "total": total}})
    report = run("org/model", *OPTIONS).report
    assert report["parameters"]["published"]["explanation"] == (
        "What is stored beside the parameters: +24 not in model, +40 tied."
    )
    assert report["checkpoint"]["beyond_parameters"] == {"not_in_model": 24, "tied": 40}
    assert report["parameters"]["base"] + 24 + 40 == total


def test_near_branches_and_tags_are_named_for_a_revision_that_is_not_there(hub: LoopbackHub, told: Told) -> None:
    """Near branches and tags are named."""
    repository = hub.host("org/model", {"config.json": config_bytes()})
    repository.branches |= {"v1.0": repository.branches["main"], "experiment": repository.branches["main"]}
    ran = run("org/model", "--revision", "v1", *OPTIONS)
    assert_refused(ran, 3, "(it has 'v1.0' or 'main' or 'experiment')")
    told(ACCESS, "The revision does not exist", ran)


def test_offline_mode_makes_no_request(hub: LoopbackHub, told: Told) -> None:
    """No request is made."""
    ran = run("org/model", "--offline", *OPTIONS)
    assert_refused(ran, 3)
    assert hub.requests == []
    told(ACCESS, "`--offline`, and the model is not in the cache", ran)


def test_a_pinned_commit_the_second_time(hub: LoopbackHub, told: Told) -> None:
    """Everything that is needed of a commit is kept."""
    repository = hub.host("org/model", {"config.json": config_bytes(), **sharded(3)})
    first = run("org/model", "--revision", repository.branches["main"], *OPTIONS).report
    hub.requests.clear()
    ran = run("org/model", "--revision", repository.branches["main"], *OPTIONS)
    assert hub.requests == []
    assert ran.report["checkpoint"] == first["checkpoint"]
    assert ran.report["model"]["source"] == "cache"
    told(ACCESS, "The same commit is inspected again", ran)

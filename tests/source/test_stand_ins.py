"""What is served when the Hub is not reached or says no: cache, then catalogue, then one clear line."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import constants

from inspector.errors import ModelUnavailableError
from inspector.records.source import ServedFrom, SourceFiles
from inspector.source.locate import locate

from .loopback_hub import Broken, LoopbackHub, commit_of

CONFIG = b'{"model_type": "llama"}'
API, FILES = "/api/", "/resolve/"
FAILURES = [
    pytest.param(Broken(status=500), "HTTP 500", id="500"),
    pytest.param(Broken(status=503), "HTTP 503", id="503"),
    pytest.param(Broken(status=429), "HTTP 429", id="429"),
    pytest.param(Broken(status=500, where=FILES), "HTTP 500", id="500 for files only"),
    pytest.param(Broken(body=None), "RemoteProtocolError", id="cut off"),
    pytest.param(Broken(body=None, where=FILES), "RemoteProtocolError", id="cut off for files only"),
    pytest.param(Broken(body=b"<html>Log in to the hotel's network</html>"), "is not the Hub's", id="captive portal"),
    pytest.param(Broken(body=b"{}", where=API), "is not the Hub's", id="an object of nothing"),
    pytest.param(Broken(body=b"[]", where=API), "is not the Hub's", id="a list"),
    pytest.param(Broken(body=b"[" * 100_000, where=API), "is not the Hub's", id="deep"),
    pytest.param(Broken(body=b'{"id": 1, "sha": "../..", "siblings": []}', where=API), "is not the Hub's", id="sha"),
    pytest.param(Broken(body=b'{"id": 1, "siblings": [7]}', where=API), "is not the Hub's", id="siblings"),
]


def error_of(name: str, **options: Any) -> str:
    with pytest.raises(ModelUnavailableError) as caught:
        locate(name, **options)
    assert str(caught.value).isprintable()
    return str(caught.value)


def notice_of(files: SourceFiles) -> tuple[str, str]:
    (notice,) = files.notices
    assert notice.message.isprintable()
    return notice.code, notice.message


@pytest.mark.parametrize(("broken", "detail"), FAILURES)
def test_a_failing_hub_is_replaced_by_the_catalogue(broken: Broken, detail: str, hub: LoopbackHub) -> None:
    """Whatever goes wrong on the way, a model of the catalogue is served, with a notice that names the cause."""
    hub.host("Qwen/QwQ-32B", {"config.json": CONFIG})
    hub.broken = broken
    files = locate("Qwen/QwQ-32B")
    assert files.served_from is ServedFrom.BUNDLED
    code, message = notice_of(files)
    assert code == "network-failed"
    assert detail in message
    assert "the bundled catalogue" in message


@pytest.mark.parametrize("broken", [Broken(status=500), Broken(body=None)], ids=["500", "cut off"])
def test_the_cache_comes_before_the_catalogue(broken: Broken, hub: LoopbackHub) -> None:
    """What was downloaded once is served when the network fails, and the notice says so."""
    hub.host("Qwen/QwQ-32B", {"config.json": CONFIG})
    locate("Qwen/QwQ-32B")
    hub.broken = broken
    files = locate("Qwen/QwQ-32B")
    assert (files.served_from, files.config) == (ServedFrom.CACHE, {"model_type": "llama"})
    assert files.revision == commit_of("first")
    assert "the Hugging Face cache" in notice_of(files)[1]


def test_an_error_without_network_cache_and_catalogue_names_all_three(hub: LoopbackHub) -> None:
    """Without network, cache and catalogue, the error names all three and the next step."""
    hub.close()
    error = error_of("org/model")
    assert "No network or no usable answer (ConnectError" in error
    assert "'org/model' is neither in the Hugging Face cache nor in the bundled catalogue" in error
    assert notice_of(locate("gpt2"))[0] == "network-failed"


def test_an_explicit_revision_is_never_served_from_the_catalogue(hub: LoopbackHub) -> None:
    """The catalogue has no revisions: the cache may answer, the catalogue may not."""
    hub.host("Qwen/QwQ-32B", {"config.json": CONFIG})
    locate("Qwen/QwQ-32B", revision="main")
    hub.broken = Broken(status=500)
    assert locate("Qwen/QwQ-32B", revision="main").served_from is ServedFrom.CACHE
    for options in ({}, {"offline": True}):
        error = error_of("Qwen/QwQ-32B", revision="v2", **options)
        assert "revision 'v2' of 'Qwen/QwQ-32B' is not in the Hugging Face cache" in error


def test_a_gated_model_of_the_catalogue_is_served_with_the_way_in(hub: LoopbackHub) -> None:
    """The notice names the page where the terms are accepted and how to log in."""
    hub.host("Qwen/QwQ-32B", {"config.json": CONFIG}, gated=True)
    files = locate("Qwen/QwQ-32B")
    assert files.served_from is ServedFrom.BUNDLED
    code, message = notice_of(files)
    assert code == "gated"
    assert f"accept its terms at {hub.endpoint}/Qwen/QwQ-32B, then set HF_TOKEN or run 'hf auth login'" in message


@pytest.mark.parametrize("where", [API, FILES])
def test_another_gated_model_is_an_error_with_the_way_in(where: str, hub: LoopbackHub) -> None:
    """Whether the listing or the file is refused, the error says how to get access."""
    hub.host("org/model", {"config.json": CONFIG})
    hub.broken = Broken(status=403, headers={"X-Error-Code": "GatedRepo"}, where=where)
    assert error_of("org/model") == (
        f"'org/model' is gated: accept its terms at {hub.endpoint}/org/model, then set HF_TOKEN or run 'hf auth login'."
    )


def test_a_model_that_is_not_there_is_named_with_near_ones(hub: LoopbackHub) -> None:
    """The Hub says the same of private repositories, so the error mentions the token too."""
    error = error_of("Qwen/QwQ-32")
    assert error.startswith(f"{hub.endpoint} has no public model 'Qwen/QwQ-32'. Did you mean 'Qwen/QwQ-32B'")
    assert error.endswith("A private repository needs a token: set HF_TOKEN or run 'hf auth login'.")
    assert "Did you mean" not in error_of("zzzz/0000-1111")


def test_a_model_of_the_catalogue_that_the_hub_lost_is_still_served(hub: LoopbackHub) -> None:
    """A mirror need not have every model."""
    files = locate("Qwen/QwQ-32B")
    assert files.served_from is ServedFrom.BUNDLED
    assert notice_of(files)[0] == "not-found"


def test_an_error_names_a_token_that_the_hub_refuses(hub: LoopbackHub) -> None:
    """With a token that is not valid, the Hub refuses public models too."""
    headers = {"X-Error-Message": "Invalid credentials in Authorization header"}
    hub.broken = Broken(status=401, headers=headers)
    error = error_of("org/model")
    assert error.startswith("The Hub refused 'org/model' (HTTP 401")
    assert "Invalid credentials" in error
    assert notice_of(locate("Qwen/QwQ-32B"))[0] == "hub-refused"


@pytest.mark.parametrize("by_environment", [False, True])
def test_offline_makes_no_request(by_environment: bool, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, the cache and then the catalogue answer, without a notice: the user asked for it."""
    hub.host("org/model", {"config.json": CONFIG})
    locate("org/model")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", by_environment)
    cached = locate("org/model", offline=not by_environment)
    bundled = locate("Qwen/QwQ-32B", offline=not by_environment)
    assert (cached.served_from, bundled.served_from) == (ServedFrom.CACHE, ServedFrom.BUNDLED)
    assert (cached.notices, bundled.notices) == ((), ())
    assert error_of("org/absent", offline=not by_environment) == (
        "Offline, and 'org/absent' is neither in the Hugging Face cache nor in the bundled catalogue; "
        "drop `offline` or unset HF_HUB_OFFLINE to ask the Hub."
    )
    assert hub.requests == []

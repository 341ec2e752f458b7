from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from inspector.errors import InspectorError, ModelUnavailableError, UnsupportedModelError
from inspector.records.checkpoint import LeftOut, StoredCheckpoint, StoredFile
from inspector.records.source import Published, ServedFrom, SourceFiles
from inspector.source import catalogue
from inspector.source.locate import locate

from .loopback_hub import Broken, LoopbackHub, commit_of

LLAMA = b'{"model_type": "llama", "q_lora_rank": null}'
FIRST = commit_of("first")


def config_of(name: str) -> SourceFiles:
    files = catalogue.load_model(name)
    assert files is not None
    return files


def failure(name: str, **options: Any) -> InspectorError:
    with pytest.raises(InspectorError) as caught:
        locate(name, **options)
    assert str(caught.value).isprintable()
    return caught.value


def test_a_hub_id_is_resolved_to_a_commit(hub: LoopbackHub) -> None:
    """The result holds the configuration, the commit that main points to and the published total with its address."""
    info = {"safetensors": {"parameters": {"BF16": 90, "F32": 10}, "total": 100}}
    hub.host("org/model", {"README.md": b"", "config.json": LLAMA}, info=info)
    assert locate("org/model") == SourceFiles(
        id="org/model",
        revision=FIRST,
        served_from=ServedFrom.HUB,
        config=json.loads(LLAMA),
        code_location="org/model",
        checkpoint_dtype="bfloat16",
        published=Published(
            parameters=100, kind="Hub safetensors total", source=f"{hub.endpoint}/api/models/org/model"
        ),
        checkpoint=StoredCheckpoint(
            companions=(StoredFile(name="config.json", bytes=len(LLAMA)),),
            left_out=(LeftOut(kind="other files", files=1, bytes=0),),
            repository_bytes=len(LLAMA),
            repository_files=2,
        ),
    )


def test_the_second_time_one_request_is_enough(hub: LoopbackHub) -> None:
    """The file is downloaded once; after that, only what main points to is asked for."""
    hub.host("org/model", {"config.json": LLAMA})
    locate("org/model")
    assert hub.requests[0] == "GET /api/models/org/model"
    assert hub.requests[-1] == "GET /org/model/resolve/main/config.json"
    hub.requests.clear()
    assert locate("org/model").served_from is ServedFrom.HUB
    assert hub.requests == ["GET /api/models/org/model"]


def test_the_pooling_of_an_embedding_model_is_read_and_may_be_missing_or_malformed(hub: LoopbackHub) -> None:
    """One small file more is asked for, only where the repository lists it; what it cannot say is left open."""
    named = {"org/cls": b'{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}', "org/broken": b"[]"}
    for name, content in named.items():
        hub.host(name, {"config.json": LLAMA, "1_Pooling/config.json": content})
    assert locate("org/cls").pooling == "cls"
    assert locate("org/cls").pooling == "cls"  # what is stored was read before
    assert locate("org/broken").pooling is None
    hub.host("org/model", {"config.json": LLAMA})
    assert locate("org/model").pooling is None
    assert not [request for request in hub.requests if "org/model" in request and "1_Pooling" in request]


def test_a_new_commit_is_noticed(hub: LoopbackHub) -> None:
    """When main moves on, its new configuration is served, and offline too from then on."""
    hub.host("org/model", {"config.json": b'{"version": 1}'})
    locate("org/model")
    hub.host("org/model", {"config.json": b'{"version": 2}'}, commit="second")
    for offline in (False, True):
        files = locate("org/model", offline=offline)
        assert files.config == {"version": 2}
        assert files.revision == commit_of("second")


def test_a_cached_commit_needs_no_request(hub: LoopbackHub) -> None:
    """A full commit hash never changes its meaning, so what is cached of it is served without asking."""
    hub.host("org/model", {"config.json": LLAMA})
    assert locate("org/model", revision=FIRST).served_from is ServedFrom.HUB
    hub.requests.clear()
    files = locate("org/model", revision=FIRST)
    assert (files.served_from, files.revision) == (ServedFrom.CACHE, FIRST)
    assert files.notices == ()
    assert hub.requests == []


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/1"])
def test_a_branch_or_tag_is_resolved(revision: str, hub: LoopbackHub) -> None:
    """A revision is resolved to its own commit, also when its name holds a slash."""
    repository = hub.host("org/model", {"config.json": b'{"version": 2}'}, commit="second")
    repository.files[FIRST] = {"config.json": b'{"version": 1}'}
    repository.branches[revision] = FIRST
    files = locate("org/model", revision=revision)
    assert (files.config, files.revision) == ({"version": 1}, FIRST)
    assert locate("org/model", revision=revision, offline=True).config == {"version": 1}


def test_a_renamed_repository_is_followed(hub: LoopbackHub) -> None:
    """The Hub redirects old names, such as gpt2; the configuration arrives under the name that was asked for."""
    hub.host("new-org/model", {"config.json": LLAMA})
    hub.renamed["old-org/model"] = "new-org/model"
    files = locate("old-org/model")
    assert files.config == json.loads(LLAMA)
    assert files.id == "old-org/model"


def test_a_token_opens_private_and_gated_repositories(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """HF_TOKEN is used as the client uses it."""
    hub.host("org/private", {"config.json": LLAMA}, private=True)
    hub.host("org/gated", {"config.json": LLAMA}, gated=True)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    for name in ("org/private", "org/gated"):
        assert locate(name).served_from is ServedFrom.HUB


@pytest.mark.parametrize(
    ("stored", "parameters", "dtype"),
    [
        (None, None, None),
        ({"parameters": {"I32": 50, "F16": 10}, "total": 60}, 60, "float16"),
        ({"parameters": {"F8_E4M3": 50}, "total": 50}, 50, None),
        ({"parameters": {"BF16": "many"}, "total": "many"}, None, None),
        ({"parameters": {"BF16": True}, "total": True}, None, None),
        ({"parameters": {"BF16": -5}, "total": -5}, None, None),
        ({"parameters": ["BF16"], "total": 2**64 - 1}, None, None),
    ],
)
def test_what_is_said_of_the_weights_is_checked(
    stored: object, parameters: int | None, dtype: str | None, hub: LoopbackHub
) -> None:
    """Totals that are no counts are left out; packed and quantized dtypes are not taken for the model's dtype."""
    hub.host("org/model", {"config.json": LLAMA}, info={"safetensors": stored})
    files = locate("org/model")
    assert (files.published.parameters if files.published else None) == parameters
    assert files.checkpoint_dtype == dtype


def test_the_catalogue_explains_an_equal_published_total(hub: LoopbackHub) -> None:
    """When the Hub's total is the one that the catalogue explains, the explanation is the same; else it is not."""
    known = config_of("Qwen/Qwen3-0.6B").published
    assert known is not None
    assert known.explanation is not None
    for total, explanation in ((known.parameters, known.explanation), (known.parameters + 1, None)):
        hub.host("Qwen/Qwen3-0.6B", {"config.json": LLAMA}, info={"safetensors": {"parameters": {}, "total": total}})
        published = locate("Qwen/Qwen3-0.6B").published
        assert published is not None
        assert published.explanation == explanation
        assert published.source.startswith(hub.endpoint)


def test_the_catalogue_knows_the_total_of_an_equal_configuration(hub: LoopbackHub) -> None:
    """A cached configuration comes without a total; when it is the catalogue's own, so is the total."""
    known = config_of("Qwen/QwQ-32B")
    hub.host("Qwen/QwQ-32B", {"config.json": json.dumps(known.config).encode()})
    assert locate("Qwen/QwQ-32B").published == known.published
    hub.host("Qwen/QwQ-32B", {"config.json": LLAMA}, commit="second")
    assert locate("Qwen/QwQ-32B").published is None


def test_a_password_in_the_endpoint_is_not_printed(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror's address may hold credentials; the source of a count shows the address without them."""
    hub.host("org/model", {"config.json": LLAMA}, info={"safetensors": {"parameters": {}, "total": 7}})
    secret = hub.endpoint.replace("//", "//user:secret@")
    monkeypatch.setattr("inspector.source.hub_client.get_endpoint", lambda: secret)
    published = locate("org/model").published
    assert published is not None
    assert published.source == f"{hub.endpoint}/api/models/org/model"
    assert "secret" not in str(failure("org/absent"))
    hub.broken = Broken(body=b"{}", where="/resolve/")  # the client's own message has the whole address
    hub.host("org/model2", {"config.json": LLAMA})
    message = str(failure("org/model2"))
    assert "is missing the 'X-Repo-Commit' header" in message
    assert "secret" not in message


def test_a_repository_without_a_configuration_says_what_it_holds(hub: LoopbackHub) -> None:
    """A GGUF-only repository is unavailable: there is nothing to build the model from."""
    hub.host("org/gguf", {f"model-{index}.gguf": b"" for index in range(6)})
    error = failure("org/gguf")
    assert isinstance(error, ModelUnavailableError)
    assert "'org/gguf' on the Hub has neither config.json nor adapter_config.json" in str(error)
    assert "it holds 'model-0.gguf', 'model-1.gguf', 'model-2.gguf', 'model-3.gguf' and 2 more" in str(error)
    hub.host("org/empty", {})
    assert "it holds no file at all" in str(failure("org/empty"))


def test_a_revision_that_is_not_there_is_an_error(hub: LoopbackHub) -> None:
    """Another revision never stands in for the one that was asked for, not even from the catalogue."""
    hub.host("Qwen/QwQ-32B", {"config.json": LLAMA})
    error = failure("Qwen/QwQ-32B", revision="v9")
    assert isinstance(error, ModelUnavailableError)
    assert str(error).startswith("'Qwen/QwQ-32B' has no revision 'v9'")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "config.json of 'org/model' is not valid JSON: Expecting value at line 1 column 1; correct it."),
        (b'{"a": 1', "config.json of 'org/model' is not valid JSON: "),
        (b"[]", "config.json of 'org/model' holds a list; write a JSON object."),
    ],
)
def test_a_malformed_configuration_cannot_be_inspected(content: bytes, message: str, hub: LoopbackHub) -> None:
    """The file is named with its repository; nothing stands in for it."""
    hub.host("org/model", {"config.json": content})
    error = failure("org/model")
    assert isinstance(error, UnsupportedModelError)
    assert str(error).startswith(message)


def test_a_huge_configuration_is_not_downloaded(hub: LoopbackHub) -> None:
    """The listing tells the size, and a file beyond 16 MiB stays where it is."""
    hub.host("org/model", {"config.json": b" " * (16 * 2**20 + 1)})
    assert isinstance(failure("org/model"), UnsupportedModelError)
    assert hub.requests == ["GET /api/models/org/model"]


def test_a_cache_that_cannot_be_written_says_how_to_move_it(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The client keeps what it downloads; where it cannot, HF_HOME is the way out."""
    hub.host("org/model", {"config.json": LLAMA})
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
    error = failure("org/model")
    assert isinstance(error, ModelUnavailableError)
    assert "cache cannot be written" in str(error)
    assert "set HF_HOME" in str(error)


def test_a_damaged_cache_says_how_to_move_it(hub: LoopbackHub) -> None:
    """A reference in the cache that is no text is an error of one line."""
    hub.host("org/model", {"config.json": LLAMA})
    locate("org/model")
    reference = Path(constants.HF_HUB_CACHE) / "models--org--model" / "refs" / "main"
    reference.write_bytes(b"\xff\xff")
    assert "cache cannot be read" in str(failure("org/model", offline=True))


def test_the_library_prints_nothing_and_leaves_the_client_as_it_was(
    hub: LoopbackHub, capfd: pytest.CaptureFixture[str]
) -> None:
    """The client's warnings and progress bars are silenced for the time of a call only."""
    hub.host("org/model", {"config.json": LLAMA})
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    enable_progress_bars()
    locate("org/model")
    assert not are_progress_bars_disabled("huggingface_hub.http_get")
    assert logger.level == level
    disable_progress_bars()
    hub.broken = Broken(headers={"X-HF-Warning": "topic; the server wants to be heard"})
    failure("org/model2")
    assert are_progress_bars_disabled("huggingface_hub.http_get")
    enable_progress_bars()
    assert capfd.readouterr() == ("", "")

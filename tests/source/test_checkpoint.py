"""What is stored, from the Hub by ranges, from a directory and from the cache."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, snapshot_download

from inspector.records.checkpoint import LeftOut, StoredCheckpoint, StoredFile
from inspector.records.source import ServedFrom, SourceFiles
from inspector.source import checkpoint as checkpoint_source
from inspector.source.locate import locate

from .loopback_hub import Broken, LoopbackHub, commit_of
from .weight_files import (
    TINY_TENSORS,
    config_bytes,
    framed,
    index_of,
    shard_names,
    sharded,
    weight_file,
)

CONFIG = config_bytes()
# 10 x 4 twice, 4 x 4 four times, 6 x 4 three times, three norms of 4.
ELEMENTS = 2 * 40 + 4 * 16 + 3 * 24 + 3 * 4
NAMES = sorted(TINY_TENSORS)


def stored(name: str, **options: Any) -> StoredCheckpoint:
    """Return what is stored, where all of it was read."""
    files = locate(name, **options)
    assert [notice for notice in files.notices if notice.code.startswith("checkpoint")] == []
    assert files.checkpoint is not None
    return files.checkpoint


def notices(files: SourceFiles) -> list[tuple[str, str]]:
    return [(notice.code, notice.message) for notice in files.notices]


def elements(checkpoint: StoredCheckpoint) -> int:
    assert checkpoint.tensors is not None
    return sum(tensor.elements for tensor in checkpoint.tensors.values())


def folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("ranges", [False, True])
def test_a_single_file_is_known_from_its_header(apart: bool, ranges: bool, hub: LoopbackHub) -> None:
    """Whether the server redirects to a store of its own or ignores ranges."""
    hub.stores_apart, hub.ranges = apart, ranges
    hub.host("org/model", {"config.json": CONFIG, "model.safetensors": weight_file(TINY_TENSORS)})
    found = stored("org/model")
    assert found.format == "safetensors"
    assert sorted(found.tensors or ()) == NAMES
    assert elements(found) == ELEMENTS == 228
    assert [file.name for file in found.weights] == ["model.safetensors"]


def test_a_sharded_checkpoint_of_160_files_costs_one_small_request_each(hub: LoopbackHub) -> None:
    """One listing, the configuration, one index, 160 ranges; of 16 MiB of data, none of it beyond the first range."""
    shards = 160
    big = {f"layer.{number}.weight": ("F32", (64, 1024)) for number in range(shards)}  # 256 KiB each
    hub.host("org/model", {"config.json": CONFIG, **sharded(shards, big)})
    told: list[str] = []
    found = stored("org/model", progress=told.append)
    assert hub.requests[:4] == [
        "GET /api/models/org/model",
        "GET /org/model/resolve/main/config.json",
        "HEAD /org/model/resolve/main/config.json",
        "GET /org/model/resolve/main/config.json",
    ]
    ranges = [f"GET /org/model/resolve/{commit_of('first')}/{name}" for name in shard_names(shards)]
    index = f"GET /org/model/resolve/{commit_of('first')}/model.safetensors.index.json"
    assert hub.requests[4] == index
    assert sorted(hub.requests[5:]) == sorted(ranges)
    assert elements(found) == shards * 64 * 1024
    assert hub.sent_bytes < shards * (128 * 2**10 + 1) + 2**20, "at most the first 128 KiB of each file"
    assert told[-1] == "reading the headers of the checkpoint: 160 of 160 files"


def test_a_long_header_takes_a_second_range(hub: LoopbackHub) -> None:
    """What did not fit in the first 128 KiB is asked for alone."""
    content = weight_file(TINY_TENSORS, padding=200_000)
    hub.host("org/model", {"config.json": CONFIG, "model.safetensors": content})
    assert elements(stored("org/model")) == ELEMENTS
    asked = [request for request in hub.requests if request.endswith("model.safetensors")]
    assert len(asked) == 2


def test_the_index_is_not_believed(hub: LoopbackHub) -> None:
    """Its total is 2^50 here; the sizes of the files and the headers say what is stored."""
    hub.host("org/model", {"config.json": CONFIG, **sharded(3)})
    found = stored("org/model")
    assert elements(found) == ELEMENTS
    assert sum(file.bytes or 0 for file in found.weights) == sum(len(sharded(3)[name]) for name in shard_names(3))


def test_files_that_are_not_downloaded_are_counted_by_kind(hub: LoopbackHub) -> None:
    """Duplicates in other formats, original weights and whatever else lies there."""
    files = {
        "config.json": CONFIG,
        "generation_config.json": b"{}",
        "model.safetensors": weight_file(TINY_TENSORS),
        "pytorch_model.bin": bytes(700),
        "original/consolidated.00.pth": bytes(500),
        "model-q4.gguf": bytes(300),
        "tf_model.h5": bytes(200),
        "original/model.safetensors": bytes(90),
        "README.md": b"---\nlicense: !!python/object:os.system\n---",
    }
    hub.host("org/model", files)
    found = stored("org/model")
    assert found.companions == (
        StoredFile(name="config.json", bytes=len(CONFIG)),
        StoredFile(name="generation_config.json", bytes=2),
    )
    assert found.left_out == (
        LeftOut(kind="safetensors", files=1, bytes=90),
        LeftOut(kind="pickle", files=2, bytes=1200),
        LeftOut(kind="gguf", files=1, bytes=300),
        LeftOut(kind="other frameworks", files=1, bytes=200),
        LeftOut(kind="other files", files=1, bytes=len(files["README.md"])),
    )
    assert found.repository_bytes == sum(map(len, files.values()))
    taken = sum(file.bytes or 0 for file in (*found.weights, *found.companions))
    assert taken + sum(item.bytes for item in found.left_out) == found.repository_bytes


def test_variants_of_a_checkpoint_are_listed_with_their_dtypes(hub: LoopbackHub) -> None:
    """`variant="fp16"` loads other files, single or sharded, by the old names and the new."""
    half = {name: ("F16", shape) for name, (_, shape) in TINY_TENSORS.items()}
    hub.host(
        "org/model",
        {
            "config.json": CONFIG,
            "model.safetensors": weight_file(TINY_TENSORS),
            "model.fp16.safetensors": weight_file(half),
            "model.int8-00001-of-00002.safetensors": weight_file({"a": ("U8", (3,))}),
            "model.int8-00002-of-00002.safetensors": weight_file({"b": ("U8", (4,))}),
            "model-00001-of-00001.old.safetensors": weight_file({"a": ("F64", (2,))}),
            "pytorch_model.ema.bin": bytes(5),
        },
    )
    found = {variant.name: (variant.files, dict(variant.dtypes)) for variant in stored("org/model").variants}
    assert found == {
        "ema": (1, {}),
        "fp16": (1, {"F16": ELEMENTS}),
        "int8": (2, {"U8": 7}),
        "old": (1, {"F64": 2}),
    }


def test_the_file_that_the_config_names_is_the_one_that_is_loaded(hub: LoopbackHub) -> None:
    """The library reads `transformers_weights` first."""
    files = {
        "config.json": config_bytes(transformers_weights="other.safetensors"),
        "other.safetensors": weight_file({"a": ("F32", (1,))}),
        "model.safetensors": weight_file(TINY_TENSORS),
    }
    hub.host("org/model", files)
    assert list(stored("org/model").tensors or ()) == ["a"]


@pytest.mark.parametrize("is_sharded", [False, True])
def test_pickles_are_sized_and_never_opened(is_sharded: bool, hub: LoopbackHub) -> None:
    """Their sizes come from the listing; no request goes to a pickle."""
    files = {"config.json": CONFIG}
    if is_sharded:
        names = [name.replace("model", "pytorch_model").replace("safetensors", "bin") for name in shard_names(2)]
        files["pytorch_model.bin.index.json"] = index_of({names[0]: {"a": 0}, names[1]: {"b": 0}})
        files |= dict.fromkeys(names, b"cos\nsystem\n(S'touch x'\ntR.")
    else:
        files["pytorch_model.bin"] = b"cos\nsystem\n(S'touch x'\ntR."
    hub.host("org/model", files)
    found = stored("org/model")
    assert (found.format, found.tensors) == ("pickle", None)
    assert [file.bytes for file in found.weights] == [26] * (1 + is_sharded)
    assert not any(request.endswith(".bin") for request in hub.requests)


def test_the_second_run_asks_for_the_listing_only_and_a_pinned_one_for_nothing(hub: LoopbackHub) -> None:
    """What was read stays in the assets cache, by commit."""
    hub.host("org/model", {"config.json": CONFIG, **sharded(3)})
    first = stored("org/model")
    hub.requests.clear()
    assert stored("org/model") == first
    assert hub.requests == ["GET /api/models/org/model"]
    hub.requests.clear()
    assert stored("org/model", revision=commit_of("first")) == first
    assert stored("org/model", offline=True) == first
    assert hub.requests == []


def test_another_commit_is_read_anew(hub: LoopbackHub) -> None:
    """What was kept of one commit says nothing of another."""
    hub.host("org/model", {"config.json": CONFIG, "model.safetensors": weight_file(TINY_TENSORS)})
    stored("org/model")
    changed = {"config.json": CONFIG, "model.safetensors": weight_file({"a": ("F32", (1,))})}
    hub.host("org/model", changed, commit="second")
    assert list(stored("org/model").tensors or ()) == ["a"]


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b'{"form": 0}', b'{"form": 1}', b'{"form": 1, "checkpoint": {"format": 7}}', b"\xff" * 100],
)
def test_a_damaged_note_is_read_anew(damage: bytes, hub: LoopbackHub) -> None:
    """A file that is half there, of another form or of another release is as good as none."""
    hub.host("org/model", {"config.json": CONFIG, "model.safetensors": weight_file(TINY_TENSORS)})
    first = stored("org/model")
    (note,) = (Path(constants.HF_ASSETS_CACHE) / "model-inspector" / "org--model").iterdir()
    note.write_bytes(damage)
    assert stored("org/model") == first
    assert json.loads(note.read_bytes())["form"] == 1


def test_a_note_with_wrong_values_is_read_anew(hub: LoopbackHub) -> None:
    """Each value is checked: a negative size, a shape of text, a tensor that is none."""
    hub.host("org/model", {"config.json": CONFIG, "model.safetensors": weight_file(TINY_TENSORS)})
    first = stored("org/model")
    (note,) = (Path(constants.HF_ASSETS_CACHE) / "model-inspector" / "org--model").iterdir()
    good = json.loads(note.read_bytes())
    for value in (["BF16", ["4"], 8], ["BF16", [4], -8], ["BF16", [4]], None, [1, [4], 8], ["BF16", [True], 1]):
        bad = json.loads(json.dumps(good))
        bad["checkpoint"]["tensors"]["model.norm.weight"] = value
        note.write_text(json.dumps(bad))
        hub.requests.clear()
        assert stored("org/model") == first
        assert len(hub.requests) == 2, "the listing and the header"


def test_headers_of_weights_in_the_cache_are_read_from_the_cache(hub: LoopbackHub) -> None:
    """Who has downloaded a model gets its headers without network, through the links that the cache consists of."""
    hub.host("org/model", {"config.json": CONFIG, **sharded(2)})
    snapshot_download("org/model", endpoint=hub.endpoint)
    hub.close()
    found = locate("org/model", offline=True)
    assert found.served_from is ServedFrom.CACHE
    assert found.checkpoint is not None
    assert elements(found.checkpoint) == ELEMENTS
    assert found.checkpoint.repository_bytes is None, "what else there is, nobody knows here"


def test_a_cache_with_the_configuration_alone_leaves_sizes_unknown_offline(hub: LoopbackHub) -> None:
    """Offline, sizes are unknown; online, a pinned commit is then asked for once, and never again."""
    hub.host("org/model", {"config.json": CONFIG, **sharded(2)})
    snapshot_download("org/model", endpoint=hub.endpoint, allow_patterns="config.json")
    assert locate("org/model", offline=True).checkpoint == StoredCheckpoint()
    assert elements(stored("org/model", revision=commit_of("first"))) == ELEMENTS
    hub.requests.clear()
    assert elements(stored("org/model", revision=commit_of("first"))) == ELEMENTS
    assert hub.requests == []


def test_an_unreachable_header_leaves_the_sizes(hub: LoopbackHub) -> None:
    """The model is inspected all the same, with a notice; nothing is kept of what was not read."""
    hub.host("org/model", {"config.json": CONFIG, **sharded(3)})
    hub.broken = Broken(status=503, where="00002")
    files = locate("org/model")
    (notice,) = notices(files)
    assert notice[0] == "checkpoint-unread"
    assert "HTTP 503" in notice[1]
    assert files.checkpoint is not None
    assert files.checkpoint.tensors is None
    assert len(files.checkpoint.weights) == 3
    hub.broken = None
    assert elements(stored("org/model")) == ELEMENTS


def test_a_request_that_succeeds_in_the_third_attempt_leaves_no_notice(hub: LoopbackHub) -> None:
    """The third attempt is the last one."""
    hub.host("org/model", {"config.json": CONFIG, "model.safetensors": weight_file(TINY_TENSORS)})
    hub.broken = Broken(status=503, where="model.safetensors", times=2)
    assert elements(stored("org/model")) == ELEMENTS
    assert sum("model.safetensors" in request for request in hub.requests) == 3


def test_a_report_of_a_gated_repository_has_the_sizes_of_its_files(hub: LoopbackHub) -> None:
    """Everybody may list it; the catalogue gives the configuration."""
    hub.host("Qwen/QwQ-32B", {"config.json": b"{}", **sharded(3)}, gated=True)
    files = locate("Qwen/QwQ-32B")
    assert files.served_from is ServedFrom.BUNDLED
    assert files.checkpoint is not None
    assert len(files.checkpoint.weights) == 3
    assert files.checkpoint.tensors is None


def test_what_the_cache_knows_is_kept_when_the_hub_fails(hub: LoopbackHub) -> None:
    """A new commit whose configuration cannot be downloaded: the old one is served whole, headers included."""
    hub.host("org/model", {"config.json": CONFIG, **sharded(2)})
    stored("org/model")
    hub.host("org/model", {"config.json": config_bytes(vocab_size=11), **sharded(3)}, commit="second")
    hub.broken = Broken(status=503, where="/resolve/main/config.json")
    files = locate("org/model")
    assert (files.served_from, files.revision) == (ServedFrom.CACHE, commit_of("first"))
    assert files.checkpoint is not None
    assert elements(files.checkpoint) == ELEMENTS


def test_the_catalogue_knows_the_published_total_only() -> None:
    """Sizes of files are not in it."""
    assert locate("Qwen/QwQ-32B", offline=True).checkpoint == StoredCheckpoint(parameters=32_763_876_352)


def test_headers_and_sizes_of_a_local_directory_are_read_in_place(tmp_path: Path) -> None:
    """Headers and sizes of local files, those of folders below it included."""
    path = folder(tmp_path, {"config.json": CONFIG, "sub/notes.txt": b"abc", ".git/x": b"", **sharded(2)})
    found = stored(str(path))
    assert elements(found) == ELEMENTS
    assert found.left_out == (LeftOut(kind="other files", files=1, bytes=3),)
    assert stored(str(path / "config.json")) == found


def test_links_to_files_are_followed_and_links_to_directories_are_not(tmp_path: Path) -> None:
    """The cache consists of links to files; a link to a directory may lead in a circle or out of here."""
    path = folder(tmp_path / "model", {"config.json": CONFIG})
    (tmp_path / "weights").write_bytes(weight_file(TINY_TENSORS))
    (path / "model.safetensors").symlink_to(tmp_path / "weights")
    (path / "up").symlink_to(tmp_path, target_is_directory=True)
    (path / "circle").symlink_to(path / "circle")
    found = stored(str(path))
    assert elements(found) == ELEMENTS
    assert found.repository_files == 2


@pytest.mark.parametrize("kind", ["pipe", "device", "text"])
def test_what_is_no_checkpoint_is_not_shown(kind: str, tmp_path: Path) -> None:
    """A pipe blocks nobody, a device is not read, and of a secret not a byte gets out."""
    path = folder(tmp_path / "model", {"config.json": CONFIG})
    target = path / "model.safetensors"
    if kind == "pipe":
        os.mkfifo(target)
    elif kind == "device":
        target.symlink_to("/dev/zero")
    else:
        (tmp_path / "secret").write_text('password{"a": "hunter2"}' * 10)
        target.symlink_to(tmp_path / "secret")
    files = locate(str(path))
    assert files.checkpoint is not None
    assert files.checkpoint.tensors is None
    assert "hunter2" not in str(files.notices)
    assert "password" not in str(files.notices)
    assert len(files.notices) == (1 if kind == "text" else 0)


def test_a_directory_that_loses_a_file_meanwhile_is_a_notice(tmp_path: Path) -> None:
    """An index that names files that are not there is malformed."""
    path = folder(tmp_path, {"config.json": CONFIG, **sharded(2)})
    (path / shard_names(2)[1]).unlink()
    ((code, message),) = notices(locate(str(path)))
    assert code == "checkpoint-malformed"
    assert "'model-00002-of-00002.safetensors', which is not there" in message


def test_all_headers_together_are_bounded(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many files just below the bound of one are as bad as one above it."""
    monkeypatch.setattr(checkpoint_source, "_MOST_HEADER_BYTES", 1000)
    hub.host("org/model", {"config.json": CONFIG, **sharded(3)})
    ((code, message),) = notices(locate("org/model"))
    assert code == "checkpoint-malformed"
    assert "its headers have more than 1000 B" in message


def test_a_file_that_is_shorter_than_its_header_says_is_malformed(hub: LoopbackHub) -> None:
    """The listing, the range and the header have to agree."""
    content = framed(json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode(), bytes(15))
    hub.host("org/model", {"config.json": CONFIG, "model.safetensors": content})
    ((code, message),) = notices(locate("org/model"))
    assert code == "checkpoint-malformed"
    assert f"describes a file of {len(content) + 1:,} bytes, and it has {len(content):,}" in message


def test_the_assets_cache_may_be_missing(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be kept, everything is read each time and nothing is said."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "file" / "assets"))
    hub.host("org/model", {"config.json": CONFIG, "model.safetensors": weight_file(TINY_TENSORS)})
    assert stored("org/model") == stored("org/model")
    shutil.rmtree(tmp_path / "cache")

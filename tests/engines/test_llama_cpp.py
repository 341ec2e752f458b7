"""llama.cpp's rules: published buffers to the byte, weights by device, and the options that it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inspector.engines import llama_cpp
from inspector.engines.gguf_sizes import read_sizes
from inspector.engines.llama_cpp import count_cells, count_row_bytes
from inspector.errors import UnsupportedModelError, UsageError
from inspector.hardware.catalogue import find_gpu
from inspector.records.engines.gguf import GgufModel, GgufTensor
from inspector.records.engines.serving import CacheKind, ServingOptions
from inspector.records.fit import Fit
from inspector.source.gguf.read import read_gguf
from tests.cli.running import run
from tests.source.gguf.gguf_files import QWEN3_8B, write_model

_MIB = 2**20
GPT_OSS_120B = {
    "general.architecture": "gpt-oss",
    "gpt-oss.block_count": 36,
    "gpt-oss.context_length": 131072,
    "gpt-oss.embedding_length": 2880,
    "gpt-oss.feed_forward_length": 2880,
    "gpt-oss.attention.head_count": 64,
    "gpt-oss.attention.head_count_kv": 8,
    "gpt-oss.attention.key_length": 64,
    "gpt-oss.attention.value_length": 64,
    "gpt-oss.attention.sliding_window": 128,
}


def _build(metadata: dict[str, Any], *tensors: tuple[str, str, tuple[int, ...], int]) -> GgufModel:
    """Return a model of these metadata values, with an embedding of 1,000 tokens where no tensor is given."""
    entries = tensors or (("token_embd.weight", "F16", (2880, 1000), 5_760_000),)
    return GgufModel(
        files=("model.gguf",),
        file_bytes=0,
        metadata=metadata,
        tensors=tuple(GgufTensor(name=name, type=kind, shape=shape, bytes=size) for name, kind, shape, size in entries),
    )


@pytest.mark.parametrize(
    ("kind", "context", "parallel", "ubatch", "padding", "buffer_mib"),
    [
        # Two published logs of gpt-oss-120b, 18 layers of each kind, f16: "KV buffer size = 9216.00 MiB", "90.00 MiB";
        # "70.88 MiB", "22.50 MiB". The second is of a build that padded to 32 and of `-c 2000`.
        (CacheKind.FULL, 262_144, 4, 2048, 256, 9216.00),
        (CacheKind.SLIDING, 262_144, 4, 2048, 256, 90.00),
        (CacheKind.FULL, 2_000, 1, 512, 32, 70.88),
        (CacheKind.SLIDING, 2_000, 1, 512, 32, 22.50),
    ],
)
def test_four_published_buffers_come_out_to_the_byte(
    kind: CacheKind, context: int, parallel: int, ubatch: int, padding: int, buffer_mib: float
) -> None:
    """llama.cpp prints two decimals of MiB of `size_k_bytes() + size_v_bytes()`."""
    buffers = {buffer.kind: buffer for buffer in read_sizes(_build(GPT_OSS_120B)).buffers}
    settings = {
        "ctx_size": context,
        "parallel": parallel,
        "kv_unified": True,
        "ubatch_size": ubatch,
        "cache_type_k": "f16",
        "cache_type_v": "f16",
    }
    cells, streams = count_cells(buffers[kind], settings, padding)
    size = len(buffers[kind].layers) * cells * streams * count_row_bytes(buffers[kind], settings)
    assert len(buffers[kind].layers) == 18
    assert f"{size / _MIB:.2f}" == f"{buffer_mib:.2f}"


def test_a_chat_server_of_a_gguf_on_a_24_gb_card_is_answered(tmp_path: Path) -> None:
    """Qwen3-8B in Q4_K_M: the output is on the GPU, the embedding is not, and 8 sequences share 32,768 tokens."""
    files = read_gguf(str(write_model(tmp_path / "qwen3.gguf")), revision=None, offline=True, progress=print)
    assert files.gguf is not None
    options = ServingOptions(engine="llama.cpp", ctx_size=32768, parallel=8)
    serving = llama_cpp.serve(files.gguf, options, [(find_gpu("4090").gpu, 1)])
    embedding = next(tensor for tensor in files.gguf.tensors if tensor.name == "token_embd.weight")
    assert serving.weights_bytes.low == sum(tensor.bytes for tensor in files.gguf.tensors) - embedding.bytes
    assert serving.request_bytes == 36 * 2 * 8 * 128 * 2 * 32768
    (verdict,) = serving.verdicts
    assert verdict.outcome is Fit.YES
    assert {item.what for item in verdict.budget} == {"weights", "KV cache", "compute buffers", "CUDA context"}


def test_eight_users_of_a_gguf_are_told_their_share_and_what_a_card_holds(tmp_path: Path) -> None:
    """The context is of all sequences together: what fits is told in their tokens, and with a cache in 8 bits."""
    path = write_model(tmp_path / "model.gguf")
    options = ("--engine", "llama.cpp", "--gpu", "4090", "--parallel", "8")
    small = run(str(path), *options, "--ctx-size", "32768").out
    assert "32,768 tokens, 4,096 for each of 8" in " ".join(small.split())
    large = run(str(path), *options, "--ctx-size", "262144", "--json")
    verdict = json.loads(large.out)["serving"]["verdicts"][0]
    assert verdict["outcome"] == "no"
    assert [item["change"] for item in verdict["advice"]] == [
        "--ctx-size 129024",
        "--cache-type-k q8_0 --cache-type-v q8_0 --ctx-size 243712",
    ]


def test_a_sequence_beyond_what_a_model_was_trained_for_is_said_on_the_first_screen(tmp_path: Path) -> None:
    """llama.cpp's server runs it; eight sequences that share as many tokens stay below."""
    path = write_model(tmp_path / "model.gguf")
    for parallel, is_said in (("1", True), ("8", False)):
        options = ("--engine", "llama.cpp", "--gpu", "4090", "--ctx-size", "128000", "--parallel", parallel)
        text = " ".join(run(str(path), *options).out.split())
        assert ("A sequence may become 128,000 tokens long, more than the 40,960" in text) is is_said


def test_layers_leave_the_gpu_from_the_first_one_on(tmp_path: Path) -> None:
    """With 10 of 37 the output and layers 27 to 35 stay, with their share of the cache."""
    files = read_gguf(str(write_model(tmp_path / "qwen3.gguf")), revision=None, offline=True, progress=print)
    assert files.gguf is not None
    options = ServingOptions(engine="llama.cpp", ctx_size=32768, n_gpu_layers=10)
    (verdict,) = llama_cpp.serve(files.gguf, options, [(find_gpu("4090").gpu, 1)]).verdicts
    sizes = {item.what: item.bytes.low for item in verdict.budget}
    layers = [
        tensor for tensor in files.gguf.tensors if tensor.name.startswith(tuple(f"blk.{n}." for n in range(27, 36)))
    ]
    outputs = [tensor for tensor in files.gguf.tensors if tensor.name.startswith("output")]
    assert sizes["weights"] == sum(tensor.bytes for tensor in (*layers, *outputs))
    assert sizes["KV cache"] == 9 * 2 * 8 * 128 * 2 * 32768


def test_a_tied_output_is_copied_to_the_gpu_and_short_rows_of_packed_types_are_padded() -> None:
    """Without output.weight the embedding is there twice; rows of 2,880 in Q8_0 get 192 elements more at the end."""
    model = _build(GPT_OSS_120B, ("token_embd.weight", "Q8_0", (2880, 1000), 2880 // 32 * 34 * 1000))
    serving = llama_cpp.serve(model, ServingOptions(engine="llama.cpp"), [])
    assert serving.weights_bytes.low == -(-(3_060_000 + 192 // 32 * 34) // 128) * 128


def test_a_latent_keeps_keys_alone_and_recurrent_layers_keep_float32_rows() -> None:
    """DeepSeek-V2 with MLA: 576 values; Qwen3-Next: three of four layers a state for each sequence."""
    latent = {
        "general.architecture": "deepseek2",
        "deepseek2.block_count": 27,
        "deepseek2.context_length": 163840,
        "deepseek2.embedding_length": 2048,
        "deepseek2.attention.head_count": 16,
        "deepseek2.attention.head_count_kv": 1,
        "deepseek2.attention.key_length": 576,
        "deepseek2.attention.value_length": 512,
        "deepseek2.attention.key_length_mla": 192,
        "deepseek2.attention.value_length_mla": 128,
    }
    serving = llama_cpp.serve(_build(latent), ServingOptions(engine="llama.cpp", ctx_size=1024), [])
    assert serving.bytes_per_token == 27 * 576 * 2
    mixed = {
        "general.architecture": "qwen3next",
        "qwen3next.block_count": 48,
        "qwen3next.context_length": 262144,
        "qwen3next.embedding_length": 2048,
        "qwen3next.attention.head_count": 16,
        "qwen3next.attention.head_count_kv": 2,
        "qwen3next.attention.key_length": 256,
        "qwen3next.attention.value_length": 256,
        "qwen3next.ssm.conv_kernel": 4,
        "qwen3next.ssm.inner_size": 4096,
        "qwen3next.ssm.state_size": 128,
        "qwen3next.ssm.group_count": 16,
    }
    serving = llama_cpp.serve(_build(mixed), ServingOptions(engine="llama.cpp", ctx_size=1024, parallel=2), [])
    by_kind = {group.kind: group for group in serving.groups}
    assert by_kind[CacheKind.FULL].bytes_per_token == 12 * 2 * 2 * 256 * 2
    state = 4 * (3 * (4096 + 2 * 16 * 128) + 128 * 4096)
    assert by_kind[CacheKind.STATE].page_bytes == state
    assert by_kind[CacheKind.STATE].request_bytes == 36 * 2 * state


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"general.architecture": None}, "does not say general.architecture"),
        ({"qwen3.block_count": "many"}, "does not say qwen3.block_count"),
        ({"qwen3.block_count": 2**40}, "does not say qwen3.block_count"),
        ({"qwen3.context_length": None}, "does not say qwen3.context_length"),
        ({"qwen3.attention.head_count_kv": [8, "x"]}, "head_count_kv for each layer"),
        ({"qwen3.attention.head_count_kv": 2**32 - 1}, "head_count_kv as a count up to"),
        ({"qwen3.attention.head_count_kv": 1.5}, "head_count_kv as a count up to"),
        ({"qwen3.attention.key_length": 2**31}, "key_length as a count up to"),
        ({"qwen3.attention.head_count_kv": 0}, "does not say qwen3.attention.head_count"),
        ({"qwen3.attention.head_count_kv": None, "qwen3.attention.head_count": None}, "attention.head_count"),
        ({"general.architecture": "bert"}, "keeps no cache of tokens"),
        ({"general.architecture": "deepseek32"}, "keeps a cache that no rule here counts"),
    ],
)
def test_metadata_that_is_absent_or_absurd_is_one_line(changes: dict[str, Any], match: str) -> None:
    """A file is untrusted: what it does not say is named."""
    with pytest.raises(UnsupportedModelError, match=match) as error:
        llama_cpp.serve(_build({**QWEN3_8B, **changes}), ServingOptions(engine="llama.cpp"), [])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"cache_type_k": "q3_k"}, "`cache_type_k` 'q3_k' is no type of a cache"),
        ({"cache_type_v": "q8_0", "flash_attn": "off"}, "needs flash attention"),
        ({"flash_attn": "maybe"}, "use on, off, auto"),
        ({"n_gpu_layers": -1}, "at least 0"),
        ({"max_model_len": 5}, "is an option of vllm, not of llama.cpp: give `ctx_size`"),
    ],
)
def test_options_that_llama_cpp_does_not_take_are_one_line(options: dict[str, Any], match: str) -> None:
    """The message names the option and what to give instead."""
    with pytest.raises(UsageError, match=match):
        llama_cpp.serve(_build({**QWEN3_8B}), ServingOptions(engine="llama.cpp", **options), [])

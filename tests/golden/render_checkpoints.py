"""Stored weights written by hand for the tests of the renderers; the model that they belong to is made up.

Two shards of 1.5 GiB and 0.8 GiB with headers of 4 KiB, duplicates in other formats, a layer that only the checkpoint
has, one tensor drawn at random, one of another shape.
"""

from __future__ import annotations

from inspector.records.checkpoint import (
    CheckpointFacts,
    FormatComparison,
    FormatDifference,
    LeftOut,
    LoadCost,
    NamedTensors,
    ShapeDifference,
    StoredFile,
    StoredVariant,
)

__all__ = ["DOWNLOAD", "hostile_checkpoint"]

_FIRST_BYTES, _SECOND_BYTES, _SMALL_BYTES = 1_610_616_832, 858_997_555, 24_310
_WEIGHTS_BYTES = _FIRST_BYTES + _SECOND_BYTES

DOWNLOAD = CheckpointFacts(
    format="safetensors",
    bytes=_WEIGHTS_BYTES,
    files=2,
    largest_file_bytes=_FIRST_BYTES,
    weights=(
        StoredFile(name="model-00001-of-00002.safetensors", bytes=_FIRST_BYTES),
        StoredFile(name="model-00002-of-00002.safetensors", bytes=_SECOND_BYTES),
    ),
    download_bytes=_WEIGHTS_BYTES + _SMALL_BYTES,
    # All of it: the download, and what is left out.
    repository_bytes=_WEIGHTS_BYTES + _SMALL_BYTES + 617_401_616 + _WEIGHTS_BYTES + 1_312_000_512 + 9_085_657,
    repository_files=15,
    left_out=(
        LeftOut(kind="safetensors", files=1, bytes=617_401_616),
        LeftOut(kind="pickle", files=2, bytes=_WEIGHTS_BYTES),
        LeftOut(kind="gguf", files=1, bytes=1_312_000_512),
        LeftOut(kind="other files", files=7, bytes=9_085_657),
    ),
    variants=(StoredVariant(name="fp16", files=1, bytes=617_401_616, dtypes={"F16": 308_700_000}),),
    tensors=312,
    tensor_bytes=2_469_606_195,
    dtypes={"BF16": 1_234_000_000, "F32": 401_548},
    parameters=1_234_401_548,
    beyond_parameters={"not_in_model": 31_457_280, "not_in_checkpoint": -1_536, "other_shape": -6_144},
    not_in_model=NamedTensors(
        tensors=9, parameters=31_457_280, names=("model.layers.28.mlp.gate_proj.weight", "model.layers.28.embed.weight")
    ),
    not_in_checkpoint=NamedTensors(tensors=1, parameters=1_536, names=("score.weight",)),
    mismatched=(ShapeDifference(name="lm_head.weight", stored=(151_936, 1536), model=(151_940, 1536)),),
    loading=(
        LoadCost(way="default", call="from_pretrained(MODEL)", host_bytes=2_500_000_256, gpu_bytes=2_400_000_256),
        LoadCost(
            way="low_memory",
            call="from_pretrained(MODEL, low_cpu_mem_usage=True)",
            host_bytes=2_500_000_256,
            gpu_bytes=2_400_000_256,
        ),
        LoadCost(
            way="device_map",
            call='from_pretrained(MODEL, device_map="auto")',
            host_bytes=933_494_784,
            gpu_bytes=2_500_000_256,
        ),
    ),
)


def hostile_checkpoint(text: str) -> CheckpointFacts:
    """Return stored weights with `text` wherever a repository can put one."""
    names = NamedTensors(tensors=2, parameters=2, names=(text, f"a.{text}"))
    return CheckpointFacts(
        format="safetensors",
        bytes=100,
        files=1,
        largest_file_bytes=100,
        weights=(StoredFile(name=text, bytes=100),),
        download_bytes=100,
        repository_bytes=100,
        repository_files=1,
        left_out=(),
        variants=(StoredVariant(name=text, files=1, bytes=5, dtypes={text: 1}),),
        tensors=1,
        tensor_bytes=2,
        dtypes={text: 1},
        parameters=1,
        beyond_parameters={"unexplained": -99},
        not_in_model=names,
        not_in_checkpoint=names,
        mismatched=(ShapeDifference(name=text, stored=(1,), model=(2,)),),
        by_format=FormatComparison(
            method=text,
            expected_bytes=1,
            stored_bytes=2,
            differences=(FormatDifference(names=(text,), tensors=1, stored_dtype=text, stored_shape=(1,)),),
        ),
    )

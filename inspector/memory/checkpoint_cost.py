"""What is stored -> what downloading and loading it takes: disk, main memory, GPU memory.

transformers 5 loads a checkpoint this way (modeling_utils._load_pretrained_model, 5.23): files are mapped, not read. A
tensor whose dtype and form are those of the model stays a view of the map; one that is cast becomes a copy, and
parameters that are stored in parts (experts) are put together from their parts, which live until that is done. So
memory holds the weights in the dtype they are loaded in, each once, and at most one assembled parameter twice. With a
`device_map` the tensors go to the GPU as they are read, by four threads, and are assembled there.

tests/model/test_load_cost.py holds that against the anonymous memory of a process that really loads. On top come pages
of the mapped files, which the kernel drops when memory is short, and what glibc keeps of freed copies: casting a
Mixtral of 655 MiB to float32 (1,310 MiB) held 2,190 MiB, and 1,441 MiB with MALLOC_MMAP_THRESHOLD_=1000000.
"""

from __future__ import annotations

from collections.abc import Mapping

from inspector.dtypes import dtype_bytes
from inspector.records.checkpoint import CheckpointFacts, Comparison, LoadCost, StoredCheckpoint, StoredTensor
from inspector.records.model import Counted

__all__ = ["gather_checkpoint_facts"]

# core_model_loading.GLOBAL_WORKERS (transformers 5.23) on a machine of four cores or more.
_LOADING_THREADS = 4


def gather_checkpoint_facts(stored: StoredCheckpoint, counted: Counted) -> CheckpointFacts:
    """Return what is known of the stored weights and what loading them as the counted model takes.

    That is for weights in float. Quantized ones, in the checkpoint or on loading, take another way: to the GPU one by
    one, which the trace shows where it knows the format.
    """
    sizes = [file.bytes for file in stored.weights]
    known = [size for size in sizes if size is not None]
    complete = bool(sizes) and len(known) == len(sizes)
    small = [file.bytes or 0 for file in stored.companions]
    comparison, tensors = counted.comparison, stored.tensors
    dtypes = stored.dtypes if tensors is None else _count_elements_by_dtype(tensors)
    return CheckpointFacts(
        format=stored.format,
        bytes=sum(known) if complete else None,
        files=len(sizes) or None,
        largest_file_bytes=max(known) if complete else None,
        weights=stored.weights or None,
        download_bytes=sum(known) + sum(small) if complete else None,
        repository_bytes=stored.repository_bytes,
        repository_files=stored.repository_files,
        left_out=None if stored.repository_files is None else stored.left_out,
        variants=None if stored.repository_files is None else stored.variants,
        tensors=None if tensors is None else len(tensors),
        tensor_bytes=None if tensors is None else sum(tensor.bytes for tensor in tensors.values()),
        dtypes=dtypes,
        parameters=stored.parameters if dtypes is None else sum(dtypes.values()),
        beyond_parameters=_list_beyond_parameters(comparison, sum(dtypes.values()) - counted.census.base)
        if comparison and dtypes
        else None,
        not_in_model=comparison.not_in_model if comparison else None,
        not_in_checkpoint=comparison.not_in_checkpoint if comparison else None,
        mismatched=comparison.mismatched if comparison else None,
        by_format=counted.by_format,
        loading=None if counted.quantization is not None else _list_load_costs(counted, tensors),
    )


def _list_beyond_parameters(comparison: Comparison, difference: int) -> dict[str, int]:
    """Return what leads from P to the number of stored elements; the rest, which should be none, is unexplained."""
    parts = {reason: count for reason, count in comparison.beyond_parameters.items() if count}
    rest = difference - sum(parts.values())
    return {**parts, "unexplained": rest} if rest else parts


def _count_elements_by_dtype(tensors: Mapping[str, StoredTensor]) -> dict[str, int]:
    """Return the number of stored elements by safetensors dtype."""
    elements: dict[str, int] = {}
    for tensor in tensors.values():
        elements[tensor.dtype] = elements.get(tensor.dtype, 0) + tensor.elements
    return elements


def _list_load_costs(counted: Counted, tensors: Mapping[str, StoredTensor] | None) -> tuple[LoadCost, ...]:
    """Return what each way of loading takes; where the tensors are not known, parameters stored in parts are not."""
    weights = sum(counted.base_dtypes.values()) + counted.base_buffer_bytes
    assembled = counted.comparison.largest_fused_bytes if counted.comparison else 0
    default = LoadCost(way="default", call="from_pretrained(MODEL)", host_bytes=weights + assembled, gpu_bytes=weights)
    low = LoadCost(
        way="low_memory",
        call="from_pretrained(MODEL, low_cpu_mem_usage=True)",
        host_bytes=default.host_bytes,
        gpu_bytes=weights,
    )
    if tensors is None:
        return default, low
    element_bytes = dtype_bytes(counted.model.dtype)
    largest = max((tensor.elements for tensor in tensors.values()), default=0) * element_bytes
    mapped = LoadCost(
        way="device_map",
        call='from_pretrained(MODEL, device_map="auto")',
        host_bytes=min(_LOADING_THREADS * largest, weights),
        gpu_bytes=weights + assembled,
    )
    return default, low, mapped

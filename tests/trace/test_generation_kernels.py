"""What CUDA's kernels take when one token is generated: no training step shows these calls.

Each case follows from the source that its rule cites. That whole generations come out as torch's CUDA code has them is
held by tests/workloads/test_generate.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from inspector.hardware.flash_splits import count_flash_splits
from inspector.hardware.platform import Platform
from inspector.records.tape import EventKind
from inspector.trace.kernels.sorting import scan_bytes
from inspector.trace.rules.cuda import apply_cuda_rules
from inspector.trace.rules.token_choice import ListIndices, read_tokens, see_made_tensors
from inspector.trace.tracer import Tracer

A100 = Platform(torch_version=(2, 13))


def run(call: Callable[[], object], *, token: int | None = None) -> list[int]:
    """Return the signed sizes of what a call allocates and frees, its result included."""
    tracer = Tracer(A100, token=token)
    with torch.no_grad(), apply_cuda_rules(A100), see_made_tensors(tracer.see_made), tracer:
        held = call()
        tape = tracer.tape()
        del held
    return [event.bytes if event.kind is EventKind.ALLOCATE else -event.bytes for event in tape]


def make(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Return a tensor on meta."""
    return torch.empty(shape, dtype=dtype, device="meta")


def test_one_row_of_grouped_heads_is_split_as_the_rows_of_its_groups() -> None:
    query, keys = make(1, 32, 1, 128), make(1, 8, 5000, 128)
    sizes = run(lambda: scaled_dot_product_attention(query, keys, keys, enable_gqa=True))
    splits = count_flash_splits(A100, 8, 4, 5000, 128)
    assert splits not in (1, count_flash_splits(A100, 32, 1, 5000, 128))
    assert sizes[2:4] == [4 * splits * 32, 4 * splits * 32 * 128], sizes


def test_what_attention_returns_beside_its_output_is_freed_from_the_first_on() -> None:
    query = make(1, 8, 64, 128)
    sizes = run(lambda: scaled_dot_product_attention(query, query, query, is_causal=True))
    row_sums = 4 * 8 * 64
    freed = [-size for size in sizes if size < 0]
    assert freed[0] == row_sums, sizes


def test_efficient_attention_accumulates_in_float32_where_either_head_size_is_above_128() -> None:
    query, values, mask = make(1, 16, 64, 192), make(1, 16, 64, 128), make(1, 1, 64, 64)
    sizes = run(lambda: scaled_dot_product_attention(query, query, values, attn_mask=mask))
    assert 4 * 16 * 64 * 128 in sizes, sizes


def test_efficient_attention_refuses_a_last_stride_that_is_not_one() -> None:
    query, mask = make(1, 4, 64, 64), make(1, 1, 64, 64).transpose(-1, -2)
    scores = 4 * 4 * 64 * 64
    assert scores in run(lambda: scaled_dot_product_attention(query, query, query, attn_mask=mask))
    assert scores not in run(lambda: scaled_dot_product_attention(query, query, query, attn_mask=mask.contiguous()))


def test_isin_compares_all_pairs_and_frees_what_any_makes_of_them_first() -> None:
    elements, tests = make(600, dtype=torch.int64), make(3, dtype=torch.int64)
    sizes = run(lambda: torch.isin(elements, tests))
    assert sizes[-4:] == [1800, 600, -600, -1800], sizes


def test_a_scan_of_four_bytes_has_descriptors_half_as_large() -> None:
    values = make(100_000, dtype=torch.float32)
    assert scan_bytes(A100, 100_000, element_bytes=4) < scan_bytes(A100, 100_000)
    # A tile has 1,920 floats: 53 tiles and 32 more have 8 bytes each, aligned; two allocations more are aligned.
    assert 768 + 2 * 256 - 1 in run(lambda: values.cumsum(0))
    assert scan_bytes(A100, 100_000) in run(lambda: values.double().cumsum(0))


def test_a_depthwise_convolution_copies_an_input_that_is_not_contiguous() -> None:
    values, weight = make(1, 40, 64).transpose(1, 2), make(64, 1, 4)
    copy = 2 * 64 * 40
    sizes = run(lambda: torch.nn.functional.conv1d(values, weight, groups=64))
    assert sizes == [copy, 2 * 64 * 37, -copy], sizes
    assert run(lambda: torch.nn.functional.conv1d(values.contiguous(), weight, groups=64)).count(copy) == 1


def test_a_convolution_copies_an_input_that_is_not_contiguous_unless_its_channels_are_innermost() -> None:
    """As torch's CUDA code does: frames of a video, rows of sound as a model has them, images of the other layout."""
    frames, weight = make(4, 2, 3, 16, 16, dtype=torch.float32), make(8, 3, 4, 4, dtype=torch.float32)
    assert run(lambda: torch.nn.functional.conv2d(frames[:, 0], weight))[-3:] == [12288, 21632, -12288]
    video, tubes = frames.permute(0, 2, 1, 3, 4), make(8, 3, 2, 4, 4, dtype=torch.float32)
    assert run(lambda: torch.nn.functional.conv3d(video, tubes))[-3:] == [24576, 21632, -24576]
    sound, filters = make(4, 20, 3, dtype=torch.float32).transpose(1, 2), make(8, 3, 4, dtype=torch.float32)
    assert run(lambda: torch.nn.functional.conv1d(sound, filters))[-3:] == [960, 2176, -960]
    images = make(4, 3, 16, 16, dtype=torch.float32).to(memory_format=torch.channels_last)
    assert run(lambda: torch.nn.functional.conv2d(images, weight))[-3:] == [21632, 1536, -1536]


def test_a_loss_of_differences_is_as_large_as_they_are_though_it_is_one_number() -> None:
    """As torch's CUDA code does: all losses are made beside a result that was as large before it was resized."""
    values, targets = make(10_000, dtype=torch.float32), make(10_000, dtype=torch.float32)
    for loss in (torch.nn.functional.mse_loss, torch.nn.functional.smooth_l1_loss):
        sizes = run(lambda loss=loss: loss(values, targets))  # type: ignore[misc]
        assert (sizes[:2], sizes[-1]) == ([40_000, 40_000], -40_000)
        assert run(lambda loss=loss: loss(values, targets, reduction="none")) == [40_000]  # type: ignore[misc]
    sizes = run(lambda: torch.nn.functional.huber_loss(values, targets))
    assert (sizes[:2], sizes[-1]) == ([40_000, 4], -40_000)


def test_a_chosen_token_and_a_number_made_a_tensor_have_values() -> None:
    logits = make(2, 500, dtype=torch.float32)

    def choose() -> bool:
        end = torch.tensor([7], device="meta")
        return bool((torch.argmax(logits, -1) == end).all())

    tracer = Tracer(A100, token=7)
    with torch.no_grad(), see_made_tensors(tracer.see_made), tracer:
        assert choose()
    assert 8 in run(choose, token=7)  # the tensor of one number has a block


def test_indices_of_unlike_strides_are_written_out_before_the_result_is_made() -> None:
    mask = make(2, 200, dtype=torch.bool)
    rows, columns = make(2, 1, dtype=torch.int64), make(1, 200, dtype=torch.int64)
    assert run(lambda: mask[rows, columns])[-5:] == [3200, 3200, 400, -3200, -3200]
    pairs = make(50, 2, dtype=torch.int64)  # columns of one tensor have one stride
    assert run(lambda: mask[pairs[:, 0], pairs[:, 1]]) == [50 * 16, 50]


def test_what_is_made_of_numbers_out_of_sight_has_a_block_and_a_value() -> None:
    tracer = Tracer(A100)
    with see_made_tensors(tracer.see_made), read_tokens(tracer.shadows), ListIndices(), tracer:
        ids = torch.as_tensor([[7, 8], [5, 6]], device="meta")
        chosen = ids[[1]]
        assert chosen.tolist() == [[5, 6]]
        tape = tracer.tape()
    # The ids, the index that Python makes of the list, and what it finds.
    assert [event.bytes for event in tape if event.kind is EventKind.ALLOCATE] == [32, 8, 16]

"""What the functions of flash-attn allocate, that transformers' code around them runs as with data, and that all ends.

No flash-attn is installed: the arithmetic is that of its source.
"""

from __future__ import annotations

import difflib
from typing import Any

import pytest
import torch
import transformers
from transformers import modeling_flash_attention_utils, modeling_utils

import inspector
from inspector.hardware.platform import Platform, find_installed_torch
from inspector.records.tape import Category, EventKind, Phase
from inspector.trace.kernels.attention import count_flash_splits
from inspector.trace.rules.flash_attn import provide_flash_attention, use_attention
from inspector.trace.tracer import Tracer
from inspector.workloads.batch import Input
from inspector.workloads.packed_rows import make_packed_inputs
from tests.model.tiny import llama
from tests.trace.cpu_truth import meta_step, real_step

FLASH = "flash_attention_2"
A100 = Platform(torch_version=find_installed_torch())
META = torch.device("meta")
PACKED = inspector.Recipe(batch_size=2, seq_len=24, packing=3)


def allocations(q: torch.Tensor, k: torch.Tensor, starts: torch.Tensor | None = None) -> dict[Phase, list[int]]:
    """Return what attention of q on k allocates, forward and backward, without the gradient that comes in."""
    out: Any = None
    with provide_flash_attention(A100, FLASH):
        functions, *_ = modeling_flash_attention_utils.lazy_import_flash_attention(FLASH)
        tracer = Tracer(A100, on_cuda=False)
        tracer.hold([q, k], Category.INPUTS)
        with tracer:
            tracer.enter(Phase.FORWARD, 1)
            if starts is None:
                out = functions[0](q, k, k)
            else:
                rows = q.shape[0]
                out = functions[1](
                    q, k, k, cu_seqlens_q=starts, cu_seqlens_k=starts, max_seqlen_q=rows, max_seqlen_k=rows
                )
            gradient = torch.empty_like(out)
            tracer.enter(Phase.BACKWARD, 1)
            torch.autograd.grad(out, [q], gradient)
            tape = tracer.tape()
    return {
        phase: [event.bytes for event in tape if event.phase is phase and event.kind is EventKind.ALLOCATE]
        for phase in (Phase.FORWARD, Phase.BACKWARD)
    }


def heads(*shape: int) -> torch.Tensor:
    """Return half-precision heads that require gradients."""
    return torch.empty(shape, dtype=torch.bfloat16, device=META, requires_grad=True)


def test_sequences_of_one_length_take_what_mha_fwd_and_mha_bwd_take() -> None:
    seen = allocations(heads(16, 300, 8, 64), heads(16, 300, 2, 64))
    # 16 x 8 x 5 blocks of 64 rows keep 216 slots busy: no splits. Output, row sums, state; then the gradient given.
    out, sums = 16 * 300 * 8 * 64 * 2, 16 * 8 * 300 * 4
    assert seen[Phase.FORWARD] == [out, sums, 16, out]
    # dq, dk, dv; row sums and float32 dq for 384 rows; dk and dv for each of 8 heads; k has two gradients to add.
    own = 16 * 300 * 2 * 64 * 2
    kernel = [16 * 8 * 384 * 4, 16 * 384 * 8 * 64 * 4, out, out]
    assert seen[Phase.BACKWARD][:7] == [out, own, own, *kernel]


def test_flash_attention_pads_heads_to_8_and_float32_accumulators_to_32_or_64() -> None:
    seen = allocations(heads(16, 128, 16, 100), heads(16, 128, 16, 100))
    padded, sums = 16 * 128 * 16 * 104 * 2, 16 * 16 * 128 * 4
    assert seen[Phase.FORWARD][:6] == [padded, padded, padded, padded, sums, 16]
    accumulator = 16 * 128 * 16 * 128 * 4
    # The gradient that comes in is padded too.
    assert seen[Phase.BACKWARD][:6] == [padded, padded, padded, padded, sums, accumulator]
    wide = allocations(heads(16, 128, 16, 160), heads(16, 128, 16, 160))
    assert 16 * 128 * 16 * 192 * 4 in wide[Phase.BACKWARD]


def test_packed_sequences_take_what_mha_varlen_fwd_and_mha_varlen_bwd_take() -> None:
    starts = torch.empty(4, dtype=torch.int32, device=META)
    seen = allocations(heads(1000, 8, 64), heads(1000, 8, 64), starts)
    out = 1000 * 8 * 64 * 2
    assert seen[Phase.FORWARD] == [out, 8 * 1000 * 4, 16, out]
    # Three rows: 128 more each.
    assert seen[Phase.BACKWARD][:5] == [out, out, out, 8 * 1384 * 4, 1384 * 8 * 64 * 4]


@pytest.mark.parametrize(
    ("batch_heads", "rows", "keys", "size", "splits"),
    [
        # 14 x 16 = 224 blocks for 216 slots.
        (14, 1024, 1024, 64, 1),
        # 14 x 8 = 112 blocks, 2 blocks of 256 keys: one part fills 0.52 of a wave, two fill 1.04 of 2 waves (0.52).
        (14, 512, 512, 64, 1),
        # 8 x 8 = 64 blocks, 4 of 128 keys: 0.30 and 0.59 of a wave, 0.59 of two in 4 parts.
        (8, 512, 512, 128, 2),
        # One head of 64 rows and 16 blocks of 64 keys: 16 parts are 0.074 of a wave and 11 to 15 add no fewer blocks.
        (1, 64, 1024, 256, 16),
    ],
)
def test_flash_attention_splits_few_blocks_over_the_keys(
    batch_heads: int, rows: int, keys: int, size: int, splits: int
) -> None:
    assert count_flash_splits(A100, batch_heads, rows, keys, size) == splits


def test_splits_accumulate_in_float32_while_the_kernel_runs() -> None:
    seen = allocations(heads(1, 512, 8, 128), heads(1, 512, 8, 128))
    out, sums = 512 * 8 * 128 * 2, 8 * 512 * 4
    assert seen[Phase.FORWARD] == [out, sums, 2 * sums, 2 * 8 * 512 * 128 * 4, 16, out]


@pytest.mark.parametrize("rows", ["of one length", "padded", "packed"])
@pytest.mark.filterwarnings("ignore")
def test_transformers_around_the_functions_runs_on_meta_as_with_data(rows: str) -> None:
    """The functions run on the CPU as well, where transformers reads real masks and real positions."""

    def build(device: str) -> tuple[Any, dict[str, Any]]:
        config = transformers.LlamaConfig(
            hidden_size=64,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_hidden_layers=3,
            intermediate_size=96,
            vocab_size=160,
            use_cache=False,
        )
        with torch.device(device):
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).train()
        for part in (model.config, model.model.config):
            part._attn_implementation_internal = FLASH  # transformers refuses the CPU
        if rows == "packed":
            return model, {
                name: item.on(device) if isinstance(item, Input) else item
                for name, item in make_packed_inputs(model, PACKED).items()
            }
        ids = (torch.arange(48).reshape(2, 24) % 160).to(device)
        mask = torch.ones(2, 24, dtype=torch.int64)
        mask[-1, -5:] = 0
        return model, {
            "input_ids": ids,
            "labels": ids,
            **({"attention_mask": mask.to(device)} if rows == "padded" else {}),
        }

    # oneDNN's products of bfloat16 take memory of their own.
    with provide_flash_attention(A100, FLASH), torch.backends.mkldnn.flags(enabled=False):
        real, inside = real_step(build)
        meta = meta_step(build, values=build("cpu")[1])
    # Summing the boolean mask of 48 positions copies it into int32 (ReduceOpsUtils.h), once a layer.
    mask_copy = [48 * 4, -48 * 4]
    comparison = difflib.SequenceMatcher(None, real, meta, autojunk=False)
    for tag, start, end, meta_start, meta_end in comparison.get_opcodes():
        if tag != "equal":
            assert meta_start == meta_end, meta[meta_start:meta_end]
            assert all(inside[start:end]) or (rows == "padded" and real[start:end] == mask_copy), real[start:end]


def test_no_flash_attention_is_left_after_a_trace() -> None:
    before = dict(vars(modeling_flash_attention_utils))
    tables = {2: modeling_flash_attention_utils.FLASH_ATTENTION_COMPATIBILITY_MATRIX[2]}
    available = modeling_utils.__dict__.get("is_flash_attn_2_available")
    report = inspector.inspect(llama(dtype="bfloat16"), recipe=inspector.Recipe(attention=FLASH, batch_size=2))
    assert report.training is not None
    assert vars(modeling_flash_attention_utils) == before
    assert modeling_flash_attention_utils.FLASH_ATTENTION_COMPATIBILITY_MATRIX[2] is tables[2]
    assert modeling_utils.__dict__.get("is_flash_attn_2_available") is available
    with META:
        model = transformers.AutoModelForCausalLM.from_config(llama(dtype="bfloat16"))
    with pytest.raises(inspector.UsageError, match="does not support flash_attention_2"):
        use_attention(model, FLASH)


def test_flash_attention_refuses_heads_beyond_256() -> None:
    config = llama(dtype="bfloat16", head_dim=264)
    with pytest.raises(inspector.UsageError, match="heads of at most 256, and these have 264"):
        inspector.inspect(config, recipe=inspector.Recipe(attention=FLASH))

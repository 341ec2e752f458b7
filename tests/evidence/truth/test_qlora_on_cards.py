"""QwQ-32B with QLoRA on every linear layer: what it takes, and on how much memory the real code stops.

transformers, PEFT, bitsandbytes and torch's allocator ran it over a stand-in for the CUDA runtime
(stand_in/README.md), with as much memory as these tests name: nothing here was measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from inspector.hardware.catalogue import find_gpu
from inspector.memory.replay import Replays
from inspector.memory.timeline import fold
from inspector.memory.verdict import find_overhead, find_usable_bytes, judge_fit
from inspector.records.tape import Event, Phase
from tests.evidence.truth.predictions import predict_row
from tests.evidence.truth.records import load

ROOT = Path(__file__).parents[3]
ROW = next(row for row in load() if (row.group, row.name) == ("quantized", "nf4-qwq-32b"))
# The largest peaks of the row, of the backward pass; docs/explain/quantization.md has them too.
PEAK_ALLOCATED = 31_996_397_056
PEAK_RESERVED = 34_353_446_912
# With so much memory the real step ran, all of it reserved; with one segment of 2 MiB less it stopped.
LEAST = 34_068_234_240


@pytest.fixture(scope="module")
def tape() -> Sequence[Event]:
    """Trace the step of the row."""
    return predict_row(ROW).tape


def test_the_row_is_the_recipe_of_the_documents_and_has_their_figures() -> None:
    recipe, adapter = ROW.recipe, ROW.record["adapter"]
    assert ROW.record["quantization"] == {"method": "nf4", "source": "request", "double_quant": True}
    assert (adapter["peft_type"], adapter["r"], adapter["target_modules"]) == ("LORA", 16, "all-linear")
    assert (recipe.batch_size, recipe.seq_len, recipe.gradient_checkpointing) == (1, 2048, True)
    assert recipe.mixed_precision == "bf16"
    phases = ROW.record["measured"]["phases"]
    assert max(phase["peak_allocated_bytes"] for phase in phases) == PEAK_ALLOCATED
    assert max(phase["peak_reserved_bytes"] for phase in phases) == PEAK_RESERVED
    described = (ROOT / "docs" / "explain" / "quantization.md").read_text(encoding="utf-8")
    assert all(f"{figure:,}" in described for figure in (PEAK_ALLOCATED, PEAK_RESERVED, LEAST))


@pytest.mark.filterwarnings("ignore")
def test_a_limited_replay_stops_where_the_real_allocator_stops_and_runs_where_it_runs(tape: Sequence[Event]) -> None:
    assert fold(tape, limit_bytes=LEAST).ran_out is None
    stopped = fold(tape, limit_bytes=LEAST - 2 * 2**20).ran_out
    assert stopped is not None
    # "Tried to allocate 1245708288 bytes (free: 1243611136)" in the backward pass of the second step: the logits in
    # float32, 2,048 × 152,064.
    assert (stopped.event.step, stopped.event.phase) == (2, Phase.BACKWARD)
    assert stopped.event.op == "aten._log_softmax_backward_data.default"
    failure = stopped.failure
    assert failure.requested_bytes == 4 * 2048 * 152_064 == 1_245_708_288
    assert failure.limit_bytes - failure.reserved_bytes == 1_243_611_136


@pytest.mark.filterwarnings("ignore")
def test_a_card_of_48_gb_has_12_gb_to_spare_and_one_of_24_gb_does_not_load_it(tape: Sequence[Event]) -> None:
    replays = Replays.from_tape(tape)
    large, small = (judge_fit(find_gpu(name).gpu, replays) for name in ("l40s", "rtx 4090"))
    assert (large.fits, large.headroom_bytes) == (True, large.usable_bytes - PEAK_RESERVED)
    assert large.headroom_bytes == 12_862_881_792
    assert (small.fits, small.headroom_bytes) == (False, small.usable_bytes - PEAK_ALLOCATED)
    assert small.headroom_bytes == -7_192_462_848
    gpu = find_gpu("rtx 4090").gpu
    limit = find_usable_bytes(gpu, find_overhead(gpu).bytes)
    stopped = fold(tape, limit_bytes=limit).ran_out
    assert stopped is not None
    # With 24,803,934,208 bytes the real code stopped while PEFT made the embedding float32, 152,064 × 5,120: "tried
    # to allocate 3114270720 bytes (free: 2035154944)".
    assert limit == 24_803_934_208
    assert stopped.event.phase is Phase.LOAD
    assert stopped.failure.requested_bytes == 4 * 152_064 * 5_120 == 3_114_270_720
    assert limit - stopped.failure.reserved_bytes == 2_035_154_944

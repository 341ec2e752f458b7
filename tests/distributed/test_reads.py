"""What the host reads of a rank's numbers: what a step that succeeds has, and known values as they are."""

from __future__ import annotations

import torch

from inspector.distributed.tracer import RankTracer
from inspector.distributed.world import begin_world
from inspector.hardware.platform import Platform


def test_a_value_that_is_known_is_read_as_it_is_and_another_as_a_step_that_succeeds_has_it() -> None:
    """A mask asks whether positions go up one by one, DeepSpeed whether gradients overflowed."""
    platform = Platform(
        compute_capability=(8, 0), multiprocessors=108, threads_per_multiprocessor=2048, torch_version=(2, 13)
    )
    with begin_world(2, 0) as streams:
        tracer = RankTracer(platform, {}, streams=streams)
        tracer.answer_reads()
        with tracer:
            goes_up = torch.empty((), dtype=torch.bool, device="meta")
            tracer.shadows.set(goes_up, torch.tensor(True))
            overflow = torch.isinf(torch.empty(4, device="meta")).any()
            assert (goes_up.item(), overflow.item()) == (True, False)
            assert torch.empty(4, device="meta").norm().item() == 1.0

"""The tape of a step on speech, codes and marked text equals what a real step on the CPU allocates, event by event."""

from __future__ import annotations

import pytest
import torch

from tests.trace.cpu_truth import assert_aligned, meta_step, real_step
from tests.trace.small_codes import SMALL_CODES
from tests.trace.small_tasks import build_small


@pytest.mark.parametrize("name", SMALL_CODES)
@pytest.mark.filterwarnings("ignore")
def test_a_step_on_codes_or_marks_allocates_and_frees_as_on_the_cpu(name: str) -> None:
    small = SMALL_CODES[name]
    real, inside = real_step(lambda device: build_small(device, small), kernels=small.kernels)
    batch = build_small("cpu", small)[1].items()
    values = {key: item for key, item in batch if isinstance(item, torch.Tensor) and not item.is_floating_point()}
    assert_aligned(real, inside, meta_step(lambda device: build_small(device, small), values=values))

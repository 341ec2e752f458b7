"""The tape of a step on speech, codes and marked text equals what a real step on the CPU allocates, event by event.

On torch's CUDA code its peak is the same, to the byte (tests/evidence/stand_in/README.md).
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

from inspector.trace.rules.cuda import apply_cuda_rules
from tests.evidence.truth.rank_page import build_platform
from tests.trace.cpu_truth import assert_aligned, meta_step, real_step
from tests.trace.small_codes import SMALL_CODES
from tests.trace.small_tasks import build_small

ON_CUDA = json.loads(
    (Path(__file__).parents[1] / "evidence" / "stand_in" / "steps-torch-213-a100.json").read_text(encoding="utf-8")
)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("name", SMALL_CODES)
@pytest.mark.filterwarnings("ignore")
def test_a_step_on_codes_or_marks_allocates_and_frees_as_on_the_cpu(name: str) -> None:
    small = SMALL_CODES[name]
    real, inside = real_step(lambda device: build_small(device, small), kernels=small.kernels)
    batch = build_small("cpu", small)[1].items()
    values = {key: item for key, item in batch if isinstance(item, torch.Tensor) and not item.is_floating_point()}
    assert_aligned(real, inside, meta_step(lambda device: build_small(device, small), values=values))


@pytest.mark.parametrize("name", ON_CUDA["steps"])
@pytest.mark.filterwarnings("ignore")
def test_a_step_on_codes_or_marks_peaks_as_torchs_cuda_code_does(name: str) -> None:
    small = SMALL_CODES[name]
    batch = build_small("cpu", small)[1].items()
    values = {key: item for key, item in batch if isinstance(item, torch.Tensor) and not item.is_floating_point()}
    platform = build_platform(ON_CUDA)
    with apply_cuda_rules(platform):
        ours = meta_step(lambda device: build_small(device, small), values=values, platform=platform)
    assert max(itertools.accumulate(ours)) == max(itertools.accumulate(ON_CUDA["steps"][name]))

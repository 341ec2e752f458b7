"""The tape of a step of a task beside text equals what a real step on the CPU allocates and frees, event by event."""

from __future__ import annotations

import pytest
import torch

from tests.trace.cpu_truth import assert_aligned, meta_step, real_step
from tests.trace.small_tasks import SMALL_TASKS, build_task, match_alike


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("name", SMALL_TASKS)
@pytest.mark.one_of(2)
@pytest.mark.filterwarnings("ignore")
def test_a_step_of_a_task_allocates_and_frees_as_on_the_cpu(name: str) -> None:
    with match_alike():
        real, inside = real_step(lambda device: build_task(device, name), kernels=SMALL_TASKS[name].kernels)
    batch = build_task("cpu", name)[1].items()
    tensors = {key: item for key, item in batch if isinstance(item, torch.Tensor)}
    values = {key: item for key, item in tensors.items() if "mask" in key or not item.is_floating_point()}
    with match_alike():
        meta = meta_step(lambda device: build_task(device, name), values=values)
    assert_aligned(real, inside, meta)

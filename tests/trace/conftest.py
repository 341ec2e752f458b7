"""Threads for steps on the CPU that convolve."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Take oneDNN's convolutions; with one thread the CPU has others, which make their gradients in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)

"""`inspect` where no kernel computes anything: what losses read of the device is answered here.

`python -m tests.evidence.stand_in.answered measure MODEL ...`. Lengths that a CTC loss reads are those of its tensors,
and what is matched is matched in turn. Nothing of that takes memory of the device; on a GPU it changes values alone.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from inspector.cli.main import main
from inspector.runtime.patches import replace_attribute, restore_changes
from tests.trace.small_tasks import match_alike

_compute_loss = functional.ctc_loss


def compute_loss(log_probs: Tensor, targets: Tensor, *_lengths: Any, **keywords: Any) -> Tensor:
    """Return the CTC loss of rows that are as long as they can be: all frames, and as many letters each."""
    frames, rows = log_probs.shape[:2]
    return _compute_loss(log_probs, targets, (frames,) * rows, (targets.numel() // rows,) * rows, **keywords)  # type: ignore[arg-type]


if __name__ == "__main__":
    with restore_changes(), match_alike():
        replace_attribute(torch.nn.functional, "ctc_loss", compute_loss)
        code: Any = main()  # type: ignore[func-returns-value]
    sys.exit(code)

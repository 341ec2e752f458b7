"""A rank of a real Trainer on torch's CUDA code peaks, reserves and ends where the trace says, to the byte.

FSDP2, DDP, accelerate's Accelerator, Trainer and ProcessGroupNCCL are real; the CUDA runtime and NCCL are stand-ins
(tests/evidence/stand_in/README.md), and no other rank is there.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import transformers

from tests.evidence.truth.rank_page import PAGE, RANKS, build_platform, write_rank_line
from tests.evidence.truth.rank_rows import predict_rank

WRITE = "run python -m tests.evidence.truth.rank_page"
ROWS = RANKS["rows"]
# One of each strategy, of each with packed weights, of each in copies, and with experts on ranks of their own.
_KINDS = {
    (
        row["launch"]["strategy"],
        "quantization" in row,
        "replicas" in row["launch"],
        "expert_parallel" in row["launch"],
    ): row
    for row in ROWS
}
CHOSEN = ROWS if os.environ.get("INSPECTOR_TRUTH") == "all" else list(_KINDS.values())


def name(row: dict[str, Any]) -> str:
    """Name a row by its model, its launch and what is special in its recipe."""
    options = {key: value for key, value in row["recipe"].items() if key != "seq_len"}
    launch = [str(item) for item in row["launch"].values() if not isinstance(item, dict)]
    launch += [str(item) for name in ("fsdp_config", "environment") for item in row["launch"].get(name, {}).values()]
    kind = "lora" if "lora" in row else "full"
    kind = " ".join([kind, *map(str, row.get("quantization", {}).values())])
    return " ".join([row["model"].partition("/")[2], kind, *launch, *map(str, options.values())])


@pytest.mark.parametrize("row", CHOSEN, ids=name)
@pytest.mark.skipif(
    transformers.__version__ != RANKS["transformers"], reason="recorded with another release of transformers"
)
@pytest.mark.filterwarnings("ignore")
def test_a_ranks_second_update_takes_what_is_traced(row: dict[str, Any]) -> None:
    if row["launch"]["strategy"] == "zero":
        pytest.importorskip("deepspeed", reason="stages of ZeRO run DeepSpeed's own code")
    predicted = predict_rank(row, build_platform(RANKS))
    assert predicted == row["measured"]
    assert write_rank_line(row, predicted) in PAGE.read_text(encoding="utf-8"), WRITE

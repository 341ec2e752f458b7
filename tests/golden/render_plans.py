"""A plan and comparisons for the tests of their renderers; `HOSTILE_...` have unfriendly text wherever they can."""

from __future__ import annotations

import dataclasses

from inspector.planning.compare import compare_reports
from inspector.records.fit import Fit, Method, Plan, PlanRow
from inspector.records.notice import Notice
from inspector.records.recipe import Recipe
from inspector.records.tape import Category
from tests.golden.render_reports import COUNT_ONLY, HOSTILE, HOSTILE_TEXT, QWQ_LORA, QWQ_TRAINING, VERSIONS

__all__ = ["HOSTILE_COMPARISON", "HOSTILE_PLAN", "PLAN", "THREE", "TWO"]

GIB = 2**30
USABLE = 23 * GIB
LORA = "--lora r=16 --targets all-linear"


def way(
    method: Method, options: str, *levers: str, total_bytes: int, largest: tuple[int | None, int | None] = (None, None)
) -> PlanRow:
    """Return a traced row: half a GiB of the total is the context, one more was never allocated."""
    headroom_bytes = USABLE - (total_bytes - GIB // 2)
    return PlanRow(
        method=method,
        options=options,
        levers=levers,
        outcome=Fit.YES if headroom_bytes >= 0 else Fit.NO,
        peak_allocated_bytes=total_bytes - 3 * GIB // 2,
        total_bytes=total_bytes,
        headroom_bytes=headroom_bytes,
        largest_batch_size=largest[0],
        largest_seq_len=largest[1],
    )


# Full fine-tuning does not fit, LoRA with checkpointing does, one QLoRA could not be traced and one not be turned up.
PLAN = Plan(
    versions=VERSIONS,
    model="org/model-7b",
    gpu="RTX 4090",
    memory_bytes=24 * GIB,
    usable_bytes=USABLE,
    margin_bytes=GIB // 2,
    recipe="batch size 1, sequence length 1,024, mixed precision no, attention sdpa, loop trainer",
    adapter="LORA",
    quantities=("batch-size", "seq-len"),
    rows=(
        way(Method.FULL, "--optimizer adamw_torch", "adamw_torch", total_bytes=73 * GIB, largest=(0, 0)),
        way(
            Method.FULL,
            "--gradient-checkpointing --optimizer paged_adamw_8bit",
            *("checkpointing", "paged_adamw_8bit"),
            total_bytes=31 * GIB,
            largest=(0, 0),
        ),
        way(Method.ADAPTER, f"{LORA} --optimizer adamw_torch", "adamw_torch", total_bytes=26 * GIB, largest=(0, 611)),
        way(
            Method.ADAPTER,
            f"{LORA} --gradient-checkpointing --optimizer adamw_torch",
            *("checkpointing", "adamw_torch"),
            total_bytes=20 * GIB + 1,
            largest=(3, 3_104),
        ),
        PlanRow(
            method=Method.QUANTIZED_ADAPTER,
            options=f"{LORA} --quantization nf4 --double-quant --optimizer adamw_torch --attention flash_attention_2",
            levers=("adamw_torch", "flash_attention_2"),
            refused="flash_attention_2 takes float16 and bfloat16, not float32; use --attention sdpa.",
        ),
        way(
            Method.QUANTIZED_ADAPTER,
            f"{LORA} --quantization nf4 --double-quant --gradient-checkpointing --optimizer adamw_torch",
            *("checkpointing", "adamw_torch"),
            total_bytes=11 * GIB,
            largest=(None, 12_288),
        ),
    ),
    warnings=("Its memory is the driver's total.",),
)

HOSTILE_PLAN = Plan(
    versions={"inspector": HOSTILE_TEXT},
    model=HOSTILE_TEXT,
    gpu=HOSTILE_TEXT,
    memory_bytes=24 * GIB,
    usable_bytes=USABLE,
    margin_bytes=GIB // 2,
    recipe=HOSTILE_TEXT,
    adapter=HOSTILE_TEXT,
    rows=(
        way(Method.FULL, HOSTILE_TEXT, HOSTILE_TEXT, total_bytes=GIB),
        PlanRow(method=Method.ADAPTER, options=HOSTILE_TEXT, levers=(HOSTILE_TEXT,), refused=HOSTILE_TEXT),
    ),
    warnings=(HOSTILE_TEXT,),
)

# Checkpointing in QwQ-32B: 28 GB of activations less, all else as it was.
_SAVED = 28_000_000_000
_PEAK = QWQ_TRAINING.peak
_CHECKPOINTED = dataclasses.replace(
    QWQ_LORA,
    memory=dataclasses.replace(
        QWQ_TRAINING,
        recipe=Recipe(gradient_checkpointing=True, attention="sdpa"),
        peak_allocated_bytes=QWQ_TRAINING.peak_allocated_bytes - _SAVED,
        peak_reserved_bytes=QWQ_TRAINING.peak_reserved_bytes - _SAVED,
        peak=dataclasses.replace(
            _PEAK,
            breakdown={**_PEAK.breakdown, Category.ACTIVATIONS: _PEAK.breakdown[Category.ACTIVATIONS] - _SAVED},
        ),
    ),
    fit=tuple(
        dataclasses.replace(each, headroom_bytes=(each.headroom_bytes or 0) + _SAVED, outcome=Fit.YES)
        for each in QWQ_LORA.fit or ()
    ),
    warnings=(Notice(code="beyond-positions", message="Rows are longer than the model is made for."),),
)
_NAMED = [
    ("Qwen/QwQ-32B --lora r=16 --targets all-linear", QWQ_LORA.to_dict()),
    ("with --gradient-checkpointing", _CHECKPOINTED.to_dict()),
]
TWO = compare_reports(_NAMED, VERSIONS)
THREE = compare_reports([*_NAMED, ("counted.json", COUNT_ONLY.to_dict())], VERSIONS)
HOSTILE_COMPARISON = compare_reports([_NAMED[0], (HOSTILE_TEXT, HOSTILE.to_dict())], VERSIONS)

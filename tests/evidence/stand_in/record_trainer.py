"""Record a real Trainer on torch's CUDA build: `python -m tests.evidence.stand_in.record_trainer`.

Each recipe of tests/evidence/truth/stand_in/trainer.json runs in a process of its own; its figures are written back.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from inspector.measure.loading import load_model
from tests.evidence.truth.trainer_rows import build
from tests.workloads.tracing import built

RECORD = Path(__file__).parents[1] / "truth" / "stand_in" / "trainer.json"


class Reader(transformers.TrainerCallback):
    """Read the allocator around the second update."""

    def __init__(self) -> None:
        self.figures: dict[str, int] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the peaks anew."""
        torch.cuda.reset_peak_memory_stats()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the figures of the second update."""
        if state.global_step == 2:
            self.figures = {
                "peak_allocated_bytes": torch.cuda.max_memory_allocated(),
                "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
                "end_of_step_allocated_bytes": torch.cuda.memory_allocated(),
            }


def measured(row: dict[str, Any]) -> dict[str, int]:
    """Run three updates and return the figures of the second."""
    recipe = row["recipe"]
    length, rows = recipe["seq_len"], recipe.get("batch_size", 1)
    precision = recipe.get("mixed_precision")
    reader = Reader()
    arguments = transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=recipe.get("gradient_accumulation", 1),
        gradient_checkpointing=recipe.get("gradient_checkpointing", False),
        optim=recipe.get("optimizer", "adamw_torch"),
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        max_steps=3,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    tokens = [1] * length
    model = build(row)
    load_model(built(model), torch.device("cuda"))
    transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=[{"input_ids": tokens, "labels": tokens}] * (rows * 3 * recipe.get("gradient_accumulation", 1)),
        callbacks=[reader],
        data_collator=lambda items: {key: torch.tensor([item[key] for item in items]) for key in items[0]},
    ).train()
    return reader.figures


def main() -> None:
    """Run every row and write the record."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        figures = pool.map(measured, record["rows"], chunksize=1)
        platform = pool.apply(describe_platform)
    rows = [{**row, "measured": values} for row, values in zip(record["rows"], figures, strict=True)]
    RECORD.write_text(json.dumps({**record, **platform, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def describe_platform() -> dict[str, Any]:
    """Return what the figures hold for."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "compute_capability": [properties.major, properties.minor],
        "multiprocessors": properties.multi_processor_count,
        "threads_per_multiprocessor": properties.max_threads_per_multi_processor,
    }


if __name__ == "__main__":
    main()

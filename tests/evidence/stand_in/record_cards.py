"""Record a real Trainer whose model lies on two cards: `python -m tests.evidence.stand_in.record_cards`.

Each recipe of tests/evidence/truth/stand_in/cards.json runs in a process of its own, with FAKE_DEVICES=2: transformers'
planner asks the driver for the memory of the cards, accelerate dispatches the model, PEFT attaches to it as it lies.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import accelerate
import peft
import torch
import transformers
from torch import nn

from inspector.compat.torch import buffers_of, parameters_of
from tests.evidence.stand_in.record_ranks import know_one_sequence_a_row, write_record
from tests.evidence.truth.trainer_rows import build

RECORD = Path(__file__).parents[1] / "truth" / "stand_in" / "cards.json"


class Reader(transformers.TrainerCallback):
    """Read the allocator of every card around the second update."""

    def __init__(self) -> None:
        self.figures: list[dict[str, int]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the peaks anew."""
        for card in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(card)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the figures of the second update."""
        if state.global_step == 2:
            self.figures = [
                {
                    "peak_allocated_bytes": torch.cuda.max_memory_allocated(card),
                    "peak_reserved_bytes": torch.cuda.max_memory_reserved(card),
                    "end_of_step_allocated_bytes": torch.cuda.memory_allocated(card),
                }
                for card in range(torch.cuda.device_count())
            ]


def place(model: nn.Module, cards: dict[str, int]) -> None:
    """Put a model on meta on its cards, tensor by tensor."""
    placed: dict[int, Any] = {}
    for is_buffer in (False, True):
        for path, module in model.named_modules():
            name = path
            while name and name not in cards:
                name = name.rpartition(".")[0]
            table: Any = buffers_of(module) if is_buffer else parameters_of(module)
            for key, old in table.items():
                if old is None:
                    continue
                if id(old) not in placed:
                    new = torch.empty(old.shape, dtype=old.dtype, device=f"cuda:{cards.get(name, 0)}")
                    placed[id(old)] = new if is_buffer else nn.Parameter(new, requires_grad=old.requires_grad)
                table[key] = placed[id(old)]


def measured(row: dict[str, Any]) -> dict[str, Any]:
    """Run three updates and return the figures of the second on each card, with the map."""
    from transformers.integrations.accelerate import _get_device_map

    know_one_sequence_a_row()
    recipe = row["recipe"]
    reader = Reader()
    arguments = transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=recipe.get("batch_size", 1),
        gradient_checkpointing=recipe.get("gradient_checkpointing", False),
        optim=recipe.get("optimizer", "adamw_torch_fused"),
        bf16=recipe.get("mixed_precision") == "bf16",
        max_steps=3,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    model: Any = build({**row, "lora": None})
    cards = _get_device_map(model, row["device_map"], None, None)
    place(model, cards)
    accelerate.dispatch_model(model, device_map=cards, skip_keys=model._skip_keys_device_placement)
    model.hf_device_map = cards
    if "lora" in row:
        model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **row["lora"]))
    tokens = [1] * recipe["seq_len"]
    transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=[{"input_ids": tokens, "labels": tokens}] * (3 * recipe.get("batch_size", 1)),
        callbacks=[reader],
        data_collator=lambda items: {key: torch.tensor([item[key] for item in items]) for key in items[0]},
    ).train()
    return {"map": cards, "cards": reader.figures}


if __name__ == "__main__":
    if torch.cuda.device_count() < 2:  # all would lie on one, where accelerate stops
        sys.exit("FAKE_DEVICES=2 says that there are two cards, to stand-ins that are built with runtime.c as it is.")
    write_record(RECORD, measured)

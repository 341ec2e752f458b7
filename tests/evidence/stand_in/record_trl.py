"""Record TRL's own trainers on torch's CUDA build: `python -m tests.evidence.stand_in.record_trl [NAME...]`.

Each row of tests/evidence/truth/stand_in/trl.json, or with TRL before 1.15 of trl-chunked.json, or those that are
named, runs in a process of its own; the figures of the second update are written back. All code is that of TRL,
transformers, PEFT, Liger and of the optimizers' packages; launches of Triton kernels return at once, and
cut-cross-entropy's sort is not compiled.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import datasets  # type: ignore[import-not-found]
import peft
import torch
import transformers
import triton  # type: ignore[import-not-found]
import trl  # type: ignore[import-not-found]

from inspector.measure.loading import load_model
from inspector.measure.quantized import load_quantized_model
from inspector.records.recipe import Recipe
from inspector.workloads.batch import Input
from inspector.workloads.registry import TRAINING, load_workload
from tests.evidence.stand_in.record_trainer import Reader, describe_platform
from tests.evidence.truth.rank_rows import build_rank
from tests.evidence.truth.trainer_rows import build, find_task, make_recipe
from tests.workloads.real_losses import Cce
from tests.workloads.tracing import built, resolve
from tests.workloads.trl_steps import IS_FUSED, make_tokenizer

RECORD = Path(__file__).parents[1] / "truth" / "stand_in" / ("trl.json" if IS_FUSED else "trl-chunked.json")
_UPDATES = 3
# What the stand-in answers where nothing else is said: no loss is NaN.
_ANSWERS = {"FAKE_NAN": "0"}


def measured(row: dict[str, Any]) -> dict[str, int]:
    """Run three updates and return the figures of the second."""
    os.environ.update({**_ANSWERS, **row.get("answers", {})})
    recipe = make_recipe(row)
    model = build(row)
    settled = resolve(model, recipe)
    inputs = load_workload(TRAINING).make_inputs(model, settled)
    batch = {name: item.on("cpu") if isinstance(item, Input) else item for name, item in inputs.items()}
    base: Any = build({**row, "lora": None})
    if "quantization" in row:
        base = load_quantized_model(build_rank(row), torch.device("cuda"))
    else:
        load_model(built(base), torch.device("cuda"))
    reader = Reader()
    with launch_nothing(), know_chunks(settled):
        trainer = make_trainer(row, base, settled, batch)
        trainer.add_callback(reader)
        if settled.stage == "grpo":
            _give_answers(trainer, base, settled)
        trainer.train()
    return reader.figures


def make_trainer(row: dict[str, Any], base: Any, recipe: Recipe, batch: dict[str, Any]) -> Any:
    """Return TRL's trainer of a row on a model that is on the device already, and the same batch again and again."""
    name = row["trainer"]
    module = _find_module(name)
    rows = recipe.batch_size * recipe.gradient_accumulation
    options: dict[str, Any] = {}
    if row.get("lora") and "quantization" not in row:  # which comes with its adapter
        options["peft_config"] = peft.LoraConfig(task_type=find_task(row), **row["lora"])
    elif name in ("DPO", "KTO"):
        options["ref_model"] = copy.deepcopy(base).eval()
    if name == "GRPO":
        words = " ".join(["w5"] * (recipe.prompt_len or 0))
        examples = [{"prompt": words}] * (8 * rows)
        options["reward_funcs"] = [lambda completions, **_: [0.0 for _ in completions]]
    else:
        examples = [_EXAMPLES[name]] * (8 * rows)
        options["data_collator"] = lambda _items: {
            key: item.clone() if isinstance(item, torch.Tensor) else item for key, item in batch.items()
        }
    precision = recipe.mixed_precision
    arguments = getattr(module, "TrainingArguments" if name == "Trainer" else f"{name}Config")(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        gradient_checkpointing=recipe.gradient_checkpointing,
        optim=recipe.optimizer,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        max_steps=_UPDATES,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **({} if name == "GRPO" else {"remove_unused_columns": False}),
        **row.get("trl", {}),
    )
    model = base
    if name == "Trainer" and "peft_config" in options:
        model = peft.get_peft_model(base, options.pop("peft_config"))
    if row.get("patch") == "cce":
        Cce().build_forward(base)
    return getattr(module, name if name == "Trainer" else f"{name}Trainer")(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_list(examples),
        processing_class=make_tokenizer(),
        **options,
    )


def _find_module(name: str) -> Any:
    """Return where a trainer and its arguments are."""
    if name == "Trainer":
        return transformers
    return trl if hasattr(trl, f"{name}Trainer") else importlib.import_module(f"trl.experimental.{name.lower()}")


_PAIR = {"prompt": "w5 w6 w7", "chosen": "w8 w9", "rejected": "w9 w8"}
# What a dataset needs for a trainer to take it; the batch is ours.
_EXAMPLES: dict[str, dict[str, Any]] = {
    "SFT": {"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8]},
    "Trainer": {"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8]},
    "DPO": _PAIR,
    "ORPO": _PAIR,
    "Reward": _PAIR,
    "KTO": {"prompt": "w5 w6 w7", "completion": "w8 w9", "label": True},
}


def _give_answers(trainer: Any, base: Any, recipe: Recipe) -> None:
    """Let a GRPO trainer go on with known tokens after it generated some, or as they come from vLLM.

    vLLM is not in this process. Tokens that no kernel chose are any bytes, and no kernel says when rows have ended.
    """
    length = recipe.completion_len or (recipe.seq_len or 0) - (recipe.prompt_len or 0)
    trainer.use_vllm = recipe.vllm_share is not None
    generate = trainer._generate_single_turn

    def answer(prompts: list[Any], *arguments: Any, **keywords: Any) -> tuple[list[list[int]], Any]:
        if not trainer.use_vllm:
            passes = itertools.count(1)
            # In a pass a mask is asked whether all of it holds, after it whether all rows have ended.
            hooks = (
                base.register_forward_pre_hook(lambda *_: os.environ.update(FAKE_EQUAL="1")),
                base.register_forward_hook(lambda *_: os.environ.update(FAKE_EQUAL=str(int(next(passes) == length)))),
            )
            generate(prompts, *arguments, **keywords)
            for hook in hooks:
                hook.remove()
        logprobs = [[0.0] * length for _ in prompts] if trainer.use_vllm else None
        return [[5] * length for _ in prompts], logprobs

    trainer._generate_single_turn = answer


@contextlib.contextmanager
def launch_nothing() -> Iterator[None]:
    """Let launches of Triton kernels return without one."""

    def do_nothing(*_arguments: Any, **_options: Any) -> None:
        """Stand for a launch; a mock would keep the tensors that it was called with."""

    kinds = (triton.runtime.jit.JITFunction, triton.runtime.autotuner.Autotuner, triton.runtime.autotuner.Heuristics)
    with contextlib.ExitStack() as stack:
        for kind in kinds:
            if "run" in vars(kind):
                stack.enter_context(mock.patch.object(kind, "run", do_nothing))
        yield


@contextlib.contextmanager
def know_chunks(recipe: Recipe) -> Iterator[None]:
    """Let TRL's chunked loss know what no kernel counted: that positions have labels, and how many chunks they fill."""
    module = importlib.import_module("trl.trainer.sft_trainer")
    compute = getattr(module, "_chunked_cross_entropy_loss", None)
    if compute is None or recipe.loss != "chunked":
        yield
        return
    size = int(module._CHUNKED_LM_HEAD_CHUNK_SIZE)
    rows = recipe.batch_size * ((recipe.seq_len or 0) - 1) - bool(recipe.padding)

    def count(_number: Any) -> int:
        """Stand for what is read of the number of positions; a mock would keep the tensor."""
        return -(-rows // size) * size

    def answer(*arguments: Any, **keywords: Any) -> Any:
        with mock.patch.object(torch.Tensor, "__index__", count):
            os.environ["FAKE_EQUAL"] = "0"
            found = compute(*arguments, **keywords)
            os.environ["FAKE_EQUAL"] = before
            return found

    before = os.environ.get("FAKE_EQUAL", "1")
    with mock.patch.object(module, "_chunked_cross_entropy_loss", answer):
        yield


def main() -> None:
    """Run the rows and write the record."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    asked = set(sys.argv[1:])
    # Libraries are imported once; no process that is forked has touched the device.
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for row in record["rows"]:
            if not asked or row["row"] in asked:
                row["measured"] = pool.apply(measured, (row,))
        platform = pool.apply(describe_platform)
    versions = {name: importlib.import_module(name).__version__ for name in ("trl", "peft", "triton")}
    content = {**record, **platform, **versions, "transformers": transformers.__version__}
    RECORD.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

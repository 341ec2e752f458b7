"""Steps of TRL's trainers on the CPU with a small model, and ours of the same batch: what each allocates and frees.

Kernels of Triton are launched on nothing: they write into tensors that are there already, and no figure reads them.
"""

from __future__ import annotations

import copy
import gc
import importlib
import itertools
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch.profiler import ProfilerActivity, profile

from inspector.records.recipe import Recipe
from inspector.records.tape import Phase
from inspector.workloads.batch import Input
from inspector.workloads.registry import TRAINING, load_workload
from tests.trace.cpu_truth import relevant
from tests.trace.small_models import build
from tests.workloads.tracing import resolve

trl: Any = pytest.importorskip("trl")
datasets: Any = pytest.importorskip("datasets")
IS_FUSED = tuple(map(int, trl.__version__.split(".")[:2])) >= (1, 15)


class _Nothing:
    """A kernel that is launched on nothing."""

    def __getitem__(self, _grid: Any) -> Any:
        return lambda *_arguments, **_options: None


class _Recorder(transformers.TrainerCallback):
    """Record the second update of a Trainer."""

    def __init__(self) -> None:
        self.profile: Any = profile(activities=[ProfilerActivity.CPU], profile_memory=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start before the first pass of the second update."""
        if state.global_step == 1:
            self.start()

    def start(self) -> None:
        """Start."""
        gc.collect()
        self.profile.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop when its gradients are gone."""
        if state.global_step == 2:
            self.profile.__exit__(None, None, None)


def use_kernels_of_a_gpu(patch: pytest.MonkeyPatch) -> None:
    """Let TRL's functions take the way that they take on a GPU with Triton."""
    utils = importlib.import_module("trl.trainer.utils")
    kernels = [importlib.import_module("trl.kernels.logprob_entropy")]
    patch.setattr(utils, "_supports_trl_loss_kernel", lambda *_: True)
    if IS_FUSED:
        kernels.append(importlib.import_module("trl.kernels.chunked_logprob"))
        patch.setattr(kernels[-1], "_addmm_fp32", _add_product)
        for module in (utils, kernels[-1]):
            patch.setattr(module, "_use_triton", lambda *_: True)
    for module in kernels:
        for name in ("_forward_kernel", "_backward_kernel"):
            patch.setattr(module, name, _Nothing())


def _add_product(total: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> None:
    """Add a product to float32: in half precision a GPU does that in cuBLAS, without anything beside."""
    if first.dtype not in (torch.float16, torch.bfloat16):
        total.addmm_(first.float(), second.float())


def make_tokenizer() -> Any:
    """Return a tokenizer of words w0 to w149."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<pad>": 0, "</s>": 2, "<s>": 1, **{f"w{number}": number for number in range(3, 150)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>")


def make_batch(model: Any, recipe: Recipe) -> dict[str, Any]:
    """Return the batch of a resolved recipe on the CPU."""
    inputs = load_workload(TRAINING).make_inputs(model, recipe)
    return {name: item.on("cpu") if isinstance(item, Input) else item for name, item in inputs.items()}


def read_events(recorded: Any) -> list[int]:
    """Return the signed sizes of what a profile saw, in order.

    What is freed in one go stands in the order of size: autocast frees its casts in that of their addresses.
    """
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()) if relevant(event.nbytes())]
    runs = (list(run) for _, run in itertools.groupby(sizes, key=lambda size: size > 0))
    return [size for run in runs for size in (run if run[0] > 0 else sorted(run))]


def record_ours(name: str, recipe: Recipe, *, adapter: bool) -> list[int]:
    """Return what our second update allocates and frees; in GRPO from where its rows are there."""
    model = _build("cpu", name, recipe)
    if adapter:
        model = peft.get_peft_model(model, _lora())
    workload, recipe = load_workload(TRAINING), resolve(model, recipe)
    workload.prepare(model, recipe)
    optimizer = workload.make_state(model, recipe, on_gpu=False)
    recorded: Any = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    seen: list[Phase] = []

    def on_phase(phase: Phase, step: int) -> None:
        if step != 2:
            return
        seen.append(phase)
        is_first = len(seen) == 1 if recipe.stage != "grpo" else seen.count(Phase.GENERATE) == 2
        if is_first and (recipe.stage != "grpo" or phase is Phase.FORWARD):
            seen.append(Phase.GENERATE)
            gc.collect()
            recorded.__enter__()

    held = workload.run(model, make_batch(model, recipe), optimizer, on_phase, recipe)
    recorded.__exit__(None, None, None)
    del held
    return read_events(recorded)


def record_trainers(
    trainer: str, name: str, recipe: Recipe, folder: Path, *, adapter: bool, rows: Any, **options: Any
) -> list[int]:
    """Return what the second update of a trainer of TRL allocates and frees on the same batch."""
    model = _build("cpu", name, recipe)
    extra: dict[str, Any] = {"peft_config": _lora()} if adapter else {}
    if not adapter and recipe.stage in ("dpo", "kto"):
        extra["ref_model"] = copy.deepcopy(model).eval()
    described = _build("meta", name, recipe)
    described = peft.get_peft_model(described, _lora()) if adapter else described
    batch = make_batch(described, resolve(described, recipe))
    recorder = _Recorder()
    module = _find_module(trainer)
    arguments = getattr(module, f"{trainer}Config")(
        **_arguments(recipe, folder),
        gradient_checkpointing=bool(recipe.gradient_checkpointing),
        remove_unused_columns=False,
        **options,
    )
    dataset = datasets.Dataset.from_list([dict(rows)] * (8 * recipe.batch_size * recipe.gradient_accumulation))
    getattr(module, f"{trainer}Trainer")(
        model=model,
        args=arguments,
        train_dataset=dataset,
        processing_class=make_tokenizer(),
        callbacks=[recorder],
        data_collator=lambda _items: {key: item.clone() for key, item in batch.items()},
        **extra,
    ).train()
    return read_events(recorder.profile)


def record_grpo_trainers(name: str, recipe: Recipe, folder: Path, *, adapter: bool, **options: Any) -> list[int]:
    """Return what the second update of TRL's GRPOTrainer allocates and frees once its rows are there."""
    model = _build("cpu", name, recipe)
    length, prompt = recipe.seq_len or 0, recipe.prompt_len or 0
    recorder = _Recorder()
    arguments = trl.GRPOConfig(
        **_arguments(recipe, folder),
        max_completion_length=length - prompt,
        num_generations=2,
        gradient_checkpointing=bool(recipe.gradient_checkpointing),
        **options,
    )
    words = " ".join(["w5"] * prompt)
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=[lambda completions, **_: [0.0 for _ in completions]],
        args=arguments,
        train_dataset=datasets.Dataset.from_list([{"prompt": words}] * 16),
        processing_class=make_tokenizer(),
        callbacks=[recorder],
        peft_config=_lora() if adapter else None,
    )
    trainer.callback_handler.remove_callback(recorder)
    trainer.callback_handler.add_callback(_Stopper(recorder))
    trainer._generate_single_turn = lambda prompts, *_, **__: ([[5] * (length - prompt) for _ in prompts], None)
    compute_loss = trainer.compute_loss

    def start_then_compute(*arguments: Any, **keywords: Any) -> Any:
        if trainer.state.global_step == 1:
            recorder.start()
        return compute_loss(*arguments, **keywords)

    trainer.compute_loss = start_then_compute
    trainer.train()
    return read_events(recorder.profile)


class _Stopper(transformers.TrainerCallback):
    """Stop a recorder when the gradients of the second update are gone."""

    def __init__(self, recorder: _Recorder) -> None:
        self._recorder = recorder

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop."""
        self._recorder.on_step_end(args, state, control)


def _find_module(trainer: str) -> Any:
    """Return where TRL has a trainer."""
    if hasattr(trl, f"{trainer}Trainer"):
        return trl
    return importlib.import_module(f"trl.experimental.{trainer.lower()}")


def _arguments(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Return the arguments that all trainers have."""
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "per_device_train_batch_size": recipe.batch_size,
        "gradient_accumulation_steps": recipe.gradient_accumulation,
        "optim": recipe.optimizer,
        "max_steps": 3,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "bf16": recipe.mixed_precision == "bf16",
    }


def _build(device: str, name: str, recipe: Recipe) -> Any:
    """Return a small model, with a head of one score for rewards."""
    model: Any = build(device, name)[0]
    if recipe.stage != "reward":
        return model
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    with torch.device(device):
        return transformers.AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")


def _lora() -> Any:
    return peft.LoraConfig(r=8, target_modules="all-linear")


__all__ = ["IS_FUSED", "record_grpo_trainers", "record_ours", "record_trainers", "use_kernels_of_a_gpu"]

"""An interrupt anywhere in an inspection leaves the host process as it was."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import constants
from torch.nn.modules import module as torch_modules

from inspector import pipeline
from inspector.quantization.bitsandbytes import functional as bitsandbytes
from inspector.records.recipe import Recipe
from inspector.records.report import Report
from inspector.records.request import Request
from inspector.runtime import patches, quiet
from tests.cli.running import run, written
from tests.model.tiny import llama
from tests.source.weight_files import TINY_CONFIG

LORA = {"peft_type": "LORA", "r": 2, "target_modules": "all-linear"}

# Functions around which an inspection changes something of the process, by where they are looked up.
POINTS = (
    "inspector.runtime.patches:call_at_end",
    "inspector.runtime.patches:_set_attribute",
    "inspector.runtime.patches:_set_item",
    "inspector.runtime.patches:_set_items",
    "inspector.compat.torch:_destroy",
    "inspector.model.untrusted.bounds:register_module_module_registration_hook",
    "inspector.model.skeleton:from_config_of",
    "inspector.quantization.bitsandbytes.stand_in:_list_layer_modules",
    "inspector.quantization.bitsandbytes.stand_in:_put_layers_back",
    "inspector.trace.rules.autocast:_switch_on",
    "inspector.trace.rules.autocast:set_key_included",
    "inspector.trace.rules.cuda:provide_autocast_for_meta",
    "inspector.trace.tracer:register_module_forward_pre_hook",
    "inspector.trace.tracer:register_module_forward_hook",
    "inspector.workloads.quantized_load:_load",
    "inspector.workloads.quantized_load:attach_adapter",
    "inspector.workloads.run:load_quantized",
    "inspector.workloads.training.workload:run_trainer_steps",
    "torch:set_default_dtype",
    "torch:set_num_threads",
    "warnings:simplefilter",
    "gc:disable",
)


def inspect() -> Report:
    """Inspect a small model on the way that changes most: quantized, with an adapter, in mixed precision."""
    recipe = Recipe(seq_len=8, mixed_precision="bf16")
    request = Request(model=llama(), peft=LORA, quantization="nf4", recipe=recipe, gpus=("a100-80gb",), advice=False)
    return pipeline.run(request)


def snapshot() -> dict[str, Any]:
    """Return everything of the process that an inspection changes."""
    peft = {name: module for name, module in sys.modules.items() if name.startswith("peft.")}
    keys = ("included", "excluded")
    return {
        "bitsandbytes": sys.modules.get("bitsandbytes"),
        "layers": {name: module for name, module in peft.items() if name.endswith(".bnb")},
        "questions": {name: vars(module).get("is_bnb_available") for name, module in peft.items()},
        "integration": vars(importlib.import_module("transformers.integrations.bitsandbytes")).get("bnb"),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "streams": (sys.stdout, sys.stderr),
        "autocast": (torch.autocast.__init__, torch.is_autocast_enabled, torch.get_autocast_dtype),
        "cache": torch.clear_autocast_cache,
        "foreach": vars(importlib.import_module("torch.utils._foreach_utils")).copy(),
        "hooks": {
            name: dict(value) for name, value in vars(torch_modules).items() if name.startswith("_global_") and value
        },
        "modes": torch.utils._python_dispatch._get_current_dispatch_mode_stack(),
        "keys": [getattr(torch._C, f"_dispatch_tls_is_dispatch_key_{key}")("AutocastIPU") for key in keys],
        "kernels": [
            torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", key)
            for name, key in (("dropout", "AutogradMeta"), ("one_hot", "AutogradMeta"), ("mm", "AutocastIPU"))
        ],
        "transformers": dict(vars(transformers.PreTrainedModel)),
        "loggers": [logging.getLogger(name).level for name in quiet._LOGGERS],
        "warnings": (list(warnings.filters), warnings.showwarning),
        "offline": constants.HF_HUB_OFFLINE,
        "environment": dict(os.environ),
        "collector": gc.isenabled(),
        "stand-in": (dict(bitsandbytes._GPU), dict(bitsandbytes._TABLES)),
        "pending": list(patches._pending.steps),
    }


class Calls:
    """Count the calls of a function and interrupt one of them, before or after it does its work."""

    def __init__(self, function: Callable[..., Any], interrupted: int, *, after: bool) -> None:
        self.count = 0
        self._function = function
        self._interrupted = interrupted
        self._after = after

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, or interrupt it."""
        self.count += 1
        is_meant = self.count == self._interrupted
        if is_meant and not self._after:
            raise KeyboardInterrupt
        result = self._function(*args, **kwargs)
        if is_meant:
            raise KeyboardInterrupt
        return result


@pytest.fixture(scope="module")
def first() -> Report:
    """Return the report of an inspection that is not interrupted; it imports what the others need too."""
    return inspect()


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.one_of(3)
def test_an_interrupt_anywhere_leaves_the_process_as_it_was(
    point: str, first: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the exception is kept, as a notebook keeps it, and when it is dropped; the next report is the same."""
    module_name, _, name = point.partition(":")
    owner = importlib.import_module(module_name)
    before, kept = snapshot(), []

    def interrupted_at(call: int, *, after: bool = False) -> int:
        calls = Calls(getattr(owner, name), call, after=after)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, calls)
            try:
                inspect()
            except KeyboardInterrupt as error:
                kept.append(error)
        assert snapshot() == before, f"call {call} of {point}"
        return calls.count

    count = interrupted_at(0)
    assert count, f"{point} is not called"
    for call in sorted({1, count}):
        for after in (False, True):
            interrupted_at(call, after=after)
    assert kept
    kept.clear()
    gc.collect()
    assert snapshot() == before
    assert inspect() == first


def test_an_interrupted_plan_leaves_the_environment_as_it_was(tmp_path: Path) -> None:
    """It hides the GPUs from the processes that it forks."""
    before = dict(os.environ)
    model = written(tmp_path, TINY_CONFIG)
    assert run("plan", model, "--offline", "--gpu", "h100", "--fit", "none", "--seq-len", "16").code == 0
    assert dict(os.environ) == before

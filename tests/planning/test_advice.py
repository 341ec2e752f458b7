"""Which changes are offered for a request, in which order, and what they do to it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from inspector.planning.advice import apply_change, format_options, list_changes
from inspector.records.recipe import Recipe
from inspector.records.request import LoraOptions, Request
from inspector.records.source import ServedFrom, SourceFiles
from inspector.resolve import ResolvedRun, resolve_run

EXPANDED = "--alloc-conf expandable_segments:True"
FUSED = "--optimizer adamw_torch_fused"
CHECKPOINTING = "--gradient-checkpointing"
FLASH = "--attention flash_attention_2"
EIGHT_BIT = "--optimizer adamw_8bit"
LORA = "--lora r=16 --targets all-linear"
NF4 = "--quantization nf4 --double-quant"
DTYPE = "--no-autocast-adapter-dtype"
ADAPTER = LoraOptions(r=8)


def files(**fields: Any) -> SourceFiles:
    """Return the files of a repository; `adapter_config` makes it an adapter's."""
    adapter = fields.pop("adapter_config", None)
    return SourceFiles(id="x", served_from=ServedFrom.LOCAL, config=fields, adapter_config=adapter)


def run(request: Request, source: SourceFiles | None) -> ResolvedRun:
    """Return the run of a request."""
    return dataclasses.replace(resolve_run(request, None, {}), files=source)


def offered(source: SourceFiles | None = None, **fields: Any) -> list[str]:
    """Return what is offered for a request, as options."""
    return [format_options(change) for change in list_changes(run(Request(model="x", **fields), source))]


def test_full_fine_tuning_is_made_smaller_before_something_else_is_trained() -> None:
    """Adapters come last: LoRA, in the dtype of its base, on a base of 4 bits."""
    assert offered(files()) == [
        *(EXPANDED, CHECKPOINTING, FLASH, EIGHT_BIT, "--seq-len 512"),
        *(LORA, f"{LORA} {DTYPE}", f"{LORA} {NF4}"),
    ]


@pytest.mark.parametrize("named", [False, True], ids=["asked for", "named"])
def test_an_adapter_is_made_smaller_in_the_order_of_harm(named: bool) -> None:
    """Whether it was asked for or the repository is one."""
    source = files(adapter_config={"peft_type": "LORA"}) if named else files()
    recipe = Recipe(batch_size=8, gradient_accumulation=2, optimizer="adamw_torch")
    assert offered(source, peft=None if named else ADAPTER, recipe=recipe) == [
        *(EXPANDED, FUSED, CHECKPOINTING, FLASH, "--batch-size 1 --gradient-accumulation 16", EIGHT_BIT),
        *(DTYPE, NF4, "--seq-len 512"),
    ]


def test_what_is_there_already_is_not_offered_again() -> None:
    """Nor an AdamW in 8 bits for what is no AdamW."""
    recipe = Recipe(
        gradient_checkpointing=True,
        optimizer="adafactor",
        attention="flash_attention_2",
        seq_len=1,
        alloc_conf="expandable_segments:True",
    )
    assert offered(files(), peft=ADAPTER, autocast_adapter_dtype=False, recipe=recipe) == [NF4]
    assert offered(files(), peft=ADAPTER, quantization="nf4", recipe=recipe) == ["--double-quant"]
    assert offered(files(), peft=ADAPTER, quantization="fp4", double_quant=True, recipe=recipe) == []
    assert offered(files(), peft=ADAPTER, quantization="int8", recipe=recipe) == [DTYPE, NF4]


def test_a_checkpoint_that_is_quantized_is_not_quantized_again() -> None:
    """Whatever packed it."""
    source = files(quantization_config={"quant_method": "gptq"})
    recipe = Recipe(gradient_checkpointing=True, optimizer="sgd", attention="flash_attention_2", seq_len=1)
    assert offered(source, peft=ADAPTER, recipe=recipe) == [EXPANDED, DTYPE]
    assert offered(source, recipe=recipe) == [EXPANDED, LORA, f"{LORA} {DTYPE}"]


def test_checkpointing_that_the_preparation_switches_on_is_not_offered() -> None:
    assert CHECKPOINTING not in offered(files(), peft=ADAPTER, quantization="nf4")
    off = Recipe(gradient_checkpointing=False)
    assert CHECKPOINTING in offered(files(), peft=ADAPTER, quantization="nf4", recipe=off)


def test_settings_of_the_allocator_are_added_to_those_that_are_there() -> None:
    recipe = Recipe(alloc_conf="max_split_size_mb:64")
    assert offered(files(), recipe=recipe)[0] == "--alloc-conf max_split_size_mb:64,expandable_segments:True"


def test_a_suggested_change_applies_to_the_request_and_to_its_recipe() -> None:
    """Each field where it belongs, the others as they were; what 4-bit weights need of the adapter is part of it."""
    request = Request(model="x", autocast_adapter_dtype=False, recipe=Recipe(batch_size=4))
    merged = {name: value for change in list_changes(run(request, files())) for name, value in change.items()}
    made = apply_change(request, merged)
    assert made.recipe == Recipe(
        batch_size=1,
        gradient_accumulation=4,
        seq_len=512,
        optimizer="adamw_8bit",
        gradient_checkpointing=True,
        attention="flash_attention_2",
        alloc_conf="expandable_segments:True",
    )
    assert (made.quantization, made.double_quant, made.autocast_adapter_dtype) == ("nf4", True, True)
    assert made.peft == LoraOptions(r=16, targets="all-linear")

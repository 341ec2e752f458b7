"""X-LoRA, attached by the configurations of the adapters that it mixes, against PEFT that loads their weights."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

import inspector
from inspector.hardware.selection import select
from inspector.model.adapter.attach import attach_adapter
from inspector.model.adapter.config import read_peft_config
from inspector.predict.predictor import Predictor
from inspector.records.recipe import Recipe
from inspector.records.request import Request
from inspector.resolve import resolve_run
from tests.cli.running import SMALL, assert_refused, run
from tests.model.tiny import llama
from tests.trace.cpu_truth import assert_aligned, meta_step, real_step

EXPERTS: tuple[dict[str, Any], ...] = (
    {"r": 4, "target_modules": ["q_proj", "v_proj"]},
    {"r": 8, "target_modules": ["q_proj", "down_proj"], "lora_dropout": 0.1},
)
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"use_trainable_adapters": True},
    {"layerwise_scalings": True, "xlora_depth": 3, "xlora_size": 16},
    {"top_k_lora": 1, "enable_softmax": False, "enable_softmax_topk": True},
)


def ask(adapters: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return the fields of an X-LoRA configuration of these adapters."""
    return {"peft_type": "XLORA", "task_type": "CAUSAL_LM", "hidden_size": 16, "adapters": adapters, **fields}


def make_base(device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> Any:
    """Return a tiny model without a cache, which PEFT wants for X-LoRA."""
    torch.manual_seed(0)
    with torch.device(device):
        config = llama(use_cache=False)
        return transformers.LlamaForCausalLM._from_config(config, dtype=dtype, attn_implementation="eager")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Return the folders of trained adapters by the names that PEFT gives them, with their weights."""
    folder = tmp_path_factory.mktemp("experts")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, fields in enumerate(EXPERTS):
            config = peft.LoraConfig(task_type="CAUSAL_LM", **fields)
            peft.get_peft_model(make_base(), config).save_pretrained(str(folder / str(name)))
        yield {str(name): str(folder / str(name)) for name in range(len(EXPERTS))}


@pytest.fixture(scope="module")
def bare(saved: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return folders with the configurations of these adapters alone, and that of a model beside them."""
    folder = tmp_path_factory.mktemp("bare")
    for name, path in saved.items():
        (folder / name).mkdir()
        (folder / name / "adapter_config.json").write_text((Path(path) / "adapter_config.json").read_text())
    (folder / "model").mkdir()
    model = llama().to_dict() | {"architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}
    (folder / "model" / "config.json").write_text(json.dumps(model))
    return {name: str(folder / name) for name in (*saved, "model")}


def attach_for_real(fields: dict[str, Any], dtype: torch.dtype = torch.bfloat16) -> Any:
    """Attach X-LoRA the way a user does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(make_base(dtype=dtype), peft.PeftConfig.from_peft_type(**fields))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda fields: " ".join(fields) or "default")
def test_what_mixes_adapters_is_counted_and_sized_as_with_their_weights(
    variant: dict[str, Any], saved: dict[str, str], bare: dict[str, str], tmp_path: Path
) -> None:
    real = attach_for_real(ask(saved, **variant))
    adapters = {name: bare[name] for name in saved}
    report = inspector.inspect(bare["model"], peft=ask(adapters, **variant), count_only=True)
    assert (report.parameters.trainable, report.parameters.total) == real.get_nb_trainable_parameters()
    real.save_pretrained(str(tmp_path))
    assert report.adapter is not None
    assert report.adapter.file_bytes == (tmp_path / "adapter_model.safetensors").stat().st_size
    count = sum(item.numel() for item in load_file(tmp_path / "adapter_model.safetensors").values())
    (notice,) = [notice for notice in report.warnings if notice.code == "classifier-not-saved"]
    whole = sum(item.numel() for item in real.internal_xlora_classifier.parameters())
    assert f"leaves {whole - count:,} of the {whole:,} parameters" in notice.message


def is_aligned(real: list[int], inside: list[bool], meta: list[int]) -> bool:
    """Tell whether the events of both are the same but for those of the CPU's own kernels."""
    try:
        assert_aligned(real, inside, meta)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda fields: " ".join(fields) or "default")
def test_a_step_of_it_allocates_on_meta_what_it_does_on_the_cpu(variant: dict[str, Any], saved: dict[str, str]) -> None:
    """Both forward passes, the one that the classifier reads and the one that is trained, and the backward pass.

    In double precision: the CPU makes the scalings of the first pass in float32 and copies them, as any device does.
    """
    tokens = torch.randint(0, 30, (2, 9), generator=torch.Generator().manual_seed(0))

    def build(device: str) -> Any:
        if device == "cpu":
            model = attach_for_real(ask(saved, **variant), torch.float64)
        else:
            fields = ask({str(name): {"peft_type": "LORA", **expert} for name, expert in enumerate(EXPERTS)}, **variant)
            config, _ = read_peft_config(fields, "LlamaForCausalLM")
            model, _ = attach_adapter(lambda: make_base("meta", torch.float64), config)
            model.double()  # as PEFT casts an adapter to its base where that has values
        batch = {name: tokens.to(device) for name in ("input_ids", "labels")}
        return model.train(), batch

    real, inside = real_step(build)
    meta = meta_step(build)
    # PEFT keeps the scalings until it has those of the next step. The profiler says nothing of a block that was made
    # before it began, such as those of the step before.
    numbers = (
        2 * 9 * len(EXPERTS) * (1 if "top_k_lora" in variant else 9)
    )  # without softmax those of all layers are one
    assert (sum(real), sum(meta)) == (8 * numbers, 0)
    assert any(
        is_aligned(real, inside, meta[:index] + meta[index + 1 :])
        for index, size in enumerate(meta)
        if size == -8 * numbers
    )


def test_a_deep_model_is_traced_whole_where_adapters_are_mixed() -> None:
    """What scales those of one layer has numbers for all layers."""
    fields = ask({str(name): {"peft_type": "LORA", **expert} for name, expert in enumerate(EXPERTS)})
    card = select(("RTX 4090",), ()).gpus[0]
    for variant in VARIANTS[2:3]:
        request = Request(
            model=llama(num_hidden_layers=9, architectures=["LlamaForCausalLM"]),
            peft=fields | variant,
            recipe=Recipe(seq_len=16),
        )
        tapes = [
            list(Predictor(None).predict(resolve_run(dataclasses.replace(request, extrapolate=flag), card, {})).tape)
            for flag in (True, False)
        ]
        assert tapes[0] == tapes[1]


@pytest.mark.parametrize(
    ("adapters", "code", "words"),
    [
        ({}, 2, "names none: add them by path, id or configuration, such as"),
        ({"style": {"peft_type": "LORA"}, "facts": {"peft_type": "LORA"}}, 2, "PEFT calls the adapters"),
        ({"0": {"peft_type": "IA3"}}, 2, "is of type 'IA3'"),
        ({"0": "./nowhere"}, 3, "Or write its configuration in its place"),
        ({"0": {"peft_type": "LORA", "r": 0}}, 2, "rank r must be"),
        ({"0": {"peft_type": "LORA", "megatron_config": {"a": 1}}}, 2, "megatron_config"),
    ],
    ids=["none", "other names", "another method", "not here", "no rank", "a loader"],
)
def test_what_cannot_be_mixed_is_refused_with_what_it_needs(adapters: Any, code: int, words: str) -> None:
    found = run(SMALL, "--offline", "--count-only", "--peft", json.dumps(ask(adapters, hidden_size=896)))
    assert_refused(found, code, words)


def test_a_classifier_of_another_size_than_the_hidden_states_is_refused() -> None:
    """PEFT takes 4,096 where none is named, and its first step stops."""
    fields = json.dumps(ask({"0": {"peft_type": "LORA"}}, hidden_size=None))
    assert_refused(run(SMALL, "--offline", "--count-only", "--peft", fields), 2, "set hidden_size to 896")


def test_an_adapter_whose_weights_peft_does_not_find_is_refused_as_peft_does(tmp_path: Path) -> None:
    """It takes the names of weights apart at `model.`, which that of the head has not."""
    alone: dict[str, Any] = {"r": 4, "target_modules": ["q_proj", "lm_head"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft.get_peft_model(make_base(), peft.LoraConfig(**alone)).save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="unexpected keys"):
        attach_for_real(ask({"0": str(tmp_path)}))
    with pytest.raises(inspector.UsageError, match="one adapts lm_head of LlamaForCausalLM"):
        inspector.inspect(llama(), peft=ask({"0": {"peft_type": "LORA", **alone}}), count_only=True)


def test_a_model_is_no_adapter_to_mix(bare: dict[str, str]) -> None:
    fields = json.dumps(ask({"0": bare["model"]}))
    assert_refused(run(bare["model"], "--count-only", "--peft", fields), 2, "is a model; name an adapter")

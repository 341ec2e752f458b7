"""Tapes extrapolated from shallow models, against those of the whole models: equal in every field of every event."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Sequence
from typing import Any

import pytest

from inspector.extrapolate.held import sort_frees
from inspector.hardware.platform import build_platform
from inspector.hardware.selection import select
from inspector.memory.replay import Replays
from inspector.memory.timeline import fold
from inspector.model.build import build_shallow, build_whole
from inspector.predict.predictor import Predictor
from inspector.records.recipe import Recipe
from inspector.records.request import LoraOptions, Request
from inspector.records.tape import Event
from inspector.resolve import ResolvedRun, resolve_run
from inspector.runtime.quiet import silence_output
from inspector.source.locate import locate
from inspector.workloads.registry import TRAINING, load_workload
from inspector.workloads.run import trace_run
from tests.extrapolate.sampled import Sample

GPU = select(("RTX 4090",), ()).gpus[0]
LORA = LoraOptions(r=16, targets="all-linear")
# What differs in how a step's lists grow with the layers; the optimizers and forms of weights come with one model.
FULL = Recipe(seq_len=128)
CHECKPOINTED = Recipe(seq_len=128, gradient_checkpointing=True, batch_size=2)
RECIPES = {
    "plain loop, eager, SGD": Recipe(seq_len=128, attention="eager", optimizer="sgd", loop="plain"),
    "fp16, two micro-batches, fused": Recipe(
        seq_len=128, mixed_precision="fp16", gradient_accumulation=2, optimizer="adamw_torch_fused"
    ),
    "8-bit": Recipe(seq_len=128, mixed_precision="bf16", optimizer="adamw_8bit"),
    "Adafactor": Recipe(seq_len=128, optimizer="adafactor"),
    "Lion, reentrant": Recipe(seq_len=128, optimizer="lion_32bit", gradient_checkpointing=True),
    "cache": Recipe(seq_len=128, use_cache=True),
    "NEFTune, attention kept": Recipe(
        seq_len=128, gradient_checkpointing=True, checkpoint_keeps="attention", neftune=5.0, mixed_precision="bf16"
    ),
    "checkpoints on the host": Recipe(seq_len=128, batch_size=2, gradient_checkpointing=True, offload="checkpoints"),
    "activations on the host": Recipe(seq_len=128, batch_size=2, offload="activations"),
    "schedule-free": Recipe(seq_len=128, optimizer="schedule_free_adamw"),
    "Muon": Recipe(seq_len=64, optimizer="muon"),
    "packed, sdpa": Recipe(packing="4x32"),
    "packed, flash-attn": Recipe(batch_size=2, packing="4x16", attention="flash_attention_2"),
}
# Each kind of stack: equal layers, alternating ones, some that differ first, experts, one of two stacks that grows,
# two passes through one stack.
MODELS = (
    "meta-llama/Llama-3.2-1B",
    "openai-community/gpt2",
    "google/gemma-2-2b",
    "openai/gpt-oss-20b",
    "deepseek-ai/DeepSeek-V2-Lite",
    "Qwen/Qwen3-30B-A3B",
    "FacebookAI/roberta-large",
    "google/vit-base-patch16-224",
    "bigscience/bloom-7b1",
    "openai/whisper-small",
    "BAAI/bge-m3",
)


def request(model: str, recipe: Recipe, *, peft: Any = None, quantization: str | None = None) -> Request:
    """Return a request for a bundled model."""
    return Request(model=model, peft=peft, quantization=quantization, recipe=recipe, offline=True)


def run_of(asked: Request) -> ResolvedRun:
    """Return the run of a request on the GPU."""
    files = locate(str(asked.model), revision=None, offline=True)
    return dataclasses.replace(resolve_run(asked, GPU, {}), files=files)


def predictor_of(asked: Request) -> Predictor:
    """Return a predictor for the model of a request."""
    return Predictor(locate(str(asked.model), revision=None, offline=True))


def whole_tape(asked: Request) -> list[Event]:
    """Return the tape of the whole model."""
    built = build_whole(asked, locate(str(asked.model), revision=None, offline=True))
    workload = load_workload(TRAINING)
    with silence_output():
        return trace_run(workload, built, workload.resolve(built.model, run_of(asked).recipe), build_platform(GPU))


def assert_same(tape: Sequence[Event], whole: Sequence[Event]) -> None:
    """Insist that two tapes are equal in all of their events, layer numbers in module paths included."""
    differences = [pair for pair in enumerate(zip(tape, whole, strict=False)) if pair[1][0] != pair[1][1]]
    assert differences[:3] == []
    assert len(tape) == len(whole)


def check(asked: Request, predictor: Predictor | None = None) -> None:
    """Hold the extrapolated tape and its replay against the whole model's."""
    predictor = predictor or predictor_of(asked)
    prediction = predictor.predict(run_of(asked))
    tape = whole_tape(asked)
    assert len(prediction.template.traced) < len(tape), "the model was traced whole"
    assert_same(prediction.tape, tape)
    timeline = fold(prediction.tape, descending_addresses=build_platform(GPU).takes_lowest_address)
    assert prediction.replays.unlimited.peak_allocated_bytes == timeline.peak_allocated_bytes
    assert prediction.replays.unlimited.peak_reserved_bytes == timeline.peak_reserved_bytes
    gc.collect()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.one_of(3)
def test_the_tape_of_full_fine_tuning_is_extrapolated_from_shallow_models(model: str) -> None:
    """Weights, gradients and foreach lists of all layers."""
    check(request(model, FULL))


@pytest.mark.parametrize("model", ["meta-llama/Llama-3.2-1B", "google/gemma-2-2b", "openai-community/gpt2"])
@pytest.mark.one_of(3)
def test_the_tape_of_an_adapter_with_checkpointing_is_extrapolated(model: str) -> None:
    """Recomputed blocks, padded sequences, and the first block's input, which needs no gradient."""
    check(request(model, CHECKPOINTED, peft=LORA))


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.one_of(3)
def test_the_tape_of_any_recipe_is_extrapolated(name: str) -> None:
    """Each optimizer goes through its lists in its own way."""
    check(request("meta-llama/Llama-3.2-1B", RECIPES[name], peft=LORA))


@pytest.mark.parametrize("model", ["Qwen/Qwen2.5-0.5B", "EleutherAI/pythia-1.4b"])
@pytest.mark.one_of(2)
def test_the_tape_of_quantized_weights_is_extrapolated(model: str) -> None:
    """They are loaded one after the other; a bias changes its dtype when it is first used."""
    check(request(model, FULL, peft=LORA, quantization="nf4"))


def test_the_tape_of_checkpointed_quantized_weights_is_extrapolated_but_for_the_order_of_neighbouring_frees() -> None:
    """Two blocks of one size die together, one of them made again in the backward pass."""
    asked = request("Qwen/Qwen2.5-0.5B", CHECKPOINTED, peft=LORA, quantization="nf4")
    prediction = predictor_of(asked).predict(run_of(asked))
    tape = whole_tape(asked)
    assert len(prediction.template.traced) < len(tape)
    assert_same(list(sort_frees(prediction.tape)), list(sort_frees(tape)))
    whole = Replays.from_tape(tape).unlimited
    assert prediction.replays.unlimited == whole


@pytest.mark.parametrize("method", ["OFT", "OSF"])
def test_the_tape_of_adapters_whose_tensors_share_memory_or_have_hooks_is_extrapolated(method: str) -> None:
    """OFT's buffers are views of one tensor, OSF's parameters parts of larger ones, with a hook on each gradient.

    A copy of the model that gave each tensor memory of its own, or that lost the hooks, would be another model.
    """
    check(request("HuggingFaceTB/SmolLM2-135M", FULL, peft={"peft_type": method, "task_type": "CAUSAL_LM"}))


def test_what_layers_add_is_learned_once_for_all_recipes() -> None:
    """The second recipe differs in its batch, the third in its optimizer; what layers add is known by then."""
    model = "meta-llama/Llama-3.2-1B"
    predictor = predictor_of(request(model, FULL))
    for recipe in (
        Recipe(seq_len=128, batch_size=2),
        Recipe(seq_len=128, batch_size=5),
        Recipe(seq_len=256, batch_size=3, optimizer="adamw_torch_fused"),
    ):
        check(request(model, recipe, peft=LORA), predictor)


def test_a_model_whose_last_layers_alone_train_is_extrapolated() -> None:
    """Layers that train are of another kind than those that do not."""
    check(request("Qwen/Qwen2.5-0.5B", Recipe(seq_len=64, train_only=["last=2", "norm"], gradient_checkpointing=True)))


def test_a_model_of_which_one_block_in_three_is_checkpointed_is_traced_whole() -> None:
    """The layers of a shallow one would be other ones of the three."""
    asked = request("Qwen/Qwen2.5-0.5B", Recipe(seq_len=64, gradient_checkpointing=True, checkpoint_every=3), peft=LORA)
    prediction = predictor_of(asked).predict(run_of(asked))
    assert len(prediction.template.traced) == len(prediction.tape)


def test_an_adapter_that_names_layers_is_attached_to_the_whole_model() -> None:
    """Layer 7 alone has weights to train, so that no other layer says what it does."""
    peft = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "layers_to_transform": [7]}
    asked = request("meta-llama/Llama-3.2-1B", FULL, peft=peft)
    files = locate(str(asked.model), revision=None, offline=True)
    assert build_shallow(asked, files)[1] == 0
    prediction = Predictor(files).predict(run_of(asked))
    assert len(prediction.template.traced) == len(prediction.tape)
    assert_same(prediction.tape, whole_tape(asked))


def test_an_adapter_that_counts_layers_is_extrapolated_from_three() -> None:
    """PEFT refuses more layers than there are: the shallow model has three."""
    peft = {"peft_type": "ADAPTION_PROMPT", "task_type": "CAUSAL_LM", "adapter_layers": 16, "adapter_len": 4}
    asked = request("meta-llama/Llama-3.2-1B", FULL, peft=peft)
    prediction = predictor_of(asked).predict(run_of(asked))
    assert_same(prediction.tape, whole_tape(asked))


def test_one_stack_alone_is_extrapolated_of_an_encoder_and_its_decoder() -> None:
    """Were both to grow, the decoder's layers in a list would read as the encoder's that follow."""
    check(request("google/flan-t5-base", FULL))


# What differs in what a later update makes: optimizers, loops, micro-batches, scaled losses, masks, packed weights.
RESIZED = {
    "full, Adafactor": request("meta-llama/Llama-3.2-1B", Recipe(seq_len=128, batch_size=2, optimizer="adafactor")),
    "plain loop, two micro-batches": request(
        "openai-community/gpt2", Recipe(seq_len=128, batch_size=2, gradient_accumulation=2, loop="plain")
    ),
    "fp16, padded": request("google/gemma-2-2b", Recipe(seq_len=96, batch_size=3, mixed_precision="fp16"), peft=LORA),
    "checkpointed": request("meta-llama/Llama-3.2-1B", CHECKPOINTED, peft=LORA),
    "nf4": request("Qwen/Qwen2.5-0.5B", Recipe(seq_len=128, batch_size=2), peft=LORA, quantization="nf4"),
    "on the host": request(
        "meta-llama/Llama-3.2-1B", Recipe(batch_size=2, seq_len=128, gradient_checkpointing=True, offload="checkpoints")
    ),
    "packed": request("Qwen/Qwen2.5-0.5B", Recipe(batch_size=2, seq_len=128, packing=4, attention="flash_attention_2")),
    "no tokens": request("google/vit-base-patch16-224", Recipe(batch_size=2)),
}


@pytest.mark.parametrize("name", RESIZED)
@pytest.mark.one_of(3)
def test_the_first_passes_are_enough_at_another_batch_size_and_sequence_length(name: str) -> None:
    """The optimizer's stretch and the second update follow from a step of another size."""
    asked = RESIZED[name]
    predictor = predictor_of(asked)
    before = predictor.predict(run_of(asked))
    larger = dataclasses.replace(asked, recipe=dataclasses.replace(asked.recipe, batch_size=5, seq_len=160))
    prediction = predictor.predict(run_of(larger))
    assert prediction.template is before.template
    tape = whole_tape(larger)
    assert_same(prediction.tape, tape)
    assert prediction.recipe.batch_size == 5


def test_first_passes_are_traced_once_for_all_optimizers() -> None:
    """The second optimizer's step at the new size costs no trace."""
    model = "meta-llama/Llama-3.2-1B"
    predictor = predictor_of(request(model, FULL))
    adamw, fused = (Recipe(seq_len=128, batch_size=2, optimizer=name) for name in ("adamw_torch", "adamw_torch_fused"))
    for recipe in (adamw, fused):
        predictor.predict(run_of(request(model, recipe, peft=LORA)))
    others = [request(model, dataclasses.replace(recipe, batch_size=6), peft=LORA) for recipe in (adamw, fused)]
    assert predictor.find_known(run_of(others[1])) is None
    predictor.predict(run_of(others[0]))
    prediction = predictor.find_known(run_of(others[1]))
    assert prediction is not None
    assert prediction.recipe.optimizer == "adamw_torch_fused"
    assert_same(prediction.tape, whole_tape(others[1]))


def test_a_step_that_runs_other_operations_is_traced_to_its_end() -> None:
    """Two sequences are padded and need a mask, which one has not."""
    model = "meta-llama/Llama-3.2-1B"
    predictor = predictor_of(request(model, FULL))
    before = predictor.predict(run_of(request(model, FULL)))
    padded = request(model, dataclasses.replace(FULL, batch_size=2))
    prediction = predictor.predict(run_of(padded))
    assert prediction.template is not before.template
    assert_same(prediction.tape, whole_tape(padded))


def test_some_of_what_tests_extrapolate_is_held_against_whole_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another tape than that of the whole model is found, and named with its run; what was held waits no more."""
    monkeypatch.setattr(Predictor, "_extrapolate", Predictor._extrapolate)
    sample = Sample(1)
    sample.install()
    asked = request("Qwen/Qwen2.5-0.5B", Recipe(seq_len=32), peft=LORA)
    template = predictor_of(asked).predict(run_of(asked)).template
    sample.hold_all()
    predictor_of(asked).predict(run_of(dataclasses.replace(asked, recipe=Recipe(seq_len=64))))
    files, run, _ = sample._waiting[0]
    sample._waiting = [(files, run, template)]
    with pytest.raises(AssertionError, match=r"Qwen2\.5-0\.5B.*the extrapolated event is another one"):
        sample.hold_all()
    assert sample._waiting == []

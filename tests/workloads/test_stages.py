"""Steps of the stages beside supervised training: their batches and passes, and what is refused."""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import inspector
from inspector.errors import UsageError
from inspector.hardware.platform import Platform, find_installed_torch
from inspector.measure.running import run_steps
from inspector.memory.timeline import Timeline, fold
from inspector.predict.predictor import Predictor
from inspector.records.recipe import Recipe
from inspector.records.request import LoraOptions, Request
from inspector.records.steps.stages import Reference, split_row
from inspector.records.tape import Category, Event, Phase
from inspector.resolve import resolve_run
from inspector.source.locate import locate
from inspector.trace.rules.any_device import treat_meta_as_device
from inspector.trace.tracer import Tracer
from inspector.workloads.batch import Input
from inspector.workloads.loading import list_in_load_order
from inspector.workloads.registry import TRAINING, load_workload
from tests.model.tiny import LLAMA_UNTIED, llama
from tests.trace.cpu_truth import assert_aligned, profiled_events, tape_events
from tests.trace.small_models import build
from tests.workloads.tracing import built, resolve, trace

CONFIG = llama(max_position_embeddings=2048)


def step_of(recipe: Recipe, *, adapter: bool = False) -> tuple[Timeline, Recipe, set[str]]:
    """Return what the step of a small model takes, its recipe as it runs, and the names of its inputs."""
    model: Any = build("meta", "qwen2", adapter=adapter)[0]
    recipe = resolve(model, recipe)
    inputs = load_workload(TRAINING).make_inputs(model, recipe)
    return fold(trace(model, recipe)), recipe, set(inputs)


def peak_of(timeline: Timeline, phase: Phase) -> int | None:
    """Return the peak of a phase of the second step, None where it has no such phase."""
    return next((item.peak_allocated_bytes for item in timeline.phases if (item.name, item.step) == (phase, 2)), None)


def weights_of(timeline: Timeline) -> int:
    """Return the weights at the peak."""
    assert timeline.peak is not None
    return timeline.peak.breakdown[Category.WEIGHTS]


def test_a_batch_of_pairs_has_two_rows_a_pair() -> None:
    model: Any = build("meta", "qwen2")[0]
    inputs = load_workload(TRAINING).make_inputs(model, Recipe(stage="dpo", batch_size=3, seq_len=64))
    shapes = {name: item.shape for name, item in inputs.items() if isinstance(item, Input)}
    assert shapes == dict.fromkeys(("input_ids", "attention_mask", "completion_mask"), (6, 64))


def test_a_second_model_is_loaded_where_there_is_no_adapter_and_counts_as_weights() -> None:
    alone, beside = (step_of(Recipe(stage=stage, seq_len=16)) for stage in ("orpo", "dpo"))
    assert weights_of(beside[0]) == 2 * weights_of(alone[0])
    assert beside[1].reference is Reference.MODEL
    assert beside[0].peak is not None


def test_a_reference_pass_of_an_adapter_loads_nothing() -> None:
    alone, beside = (step_of(Recipe(stage=stage, seq_len=16), adapter=True) for stage in ("orpo", "dpo"))
    assert weights_of(beside[0]) == weights_of(alone[0])
    assert beside[1].reference is Reference.ADAPTER
    assert peak_of(beside[0], Phase.REFERENCE) is not None


def test_no_reference_pass_runs_where_its_log_probabilities_are_known() -> None:
    timeline, _, inputs = step_of(Recipe(stage="dpo", reference="none", seq_len=16))
    assert peak_of(timeline, Phase.REFERENCE) is None
    assert inputs >= {"ref_chosen_logps", "ref_rejected_logps"}


def test_grpo_generates_the_rows_of_all_micro_batches_at_once() -> None:
    steps = (
        step_of(Recipe(stage="grpo", batch_size=2, seq_len=256, gradient_accumulation=count), adapter=True)
        for count in (1, 2)
    )
    one, two = (peak_of(timeline, Phase.GENERATE) or 0 for timeline, _, _ in steps)
    assert two > one


def test_generation_keeps_the_cache_of_whole_rows() -> None:
    steps = (step_of(Recipe(stage="grpo", batch_size=8, prompt_len=8, completion_len=length)) for length in (512, 1024))
    short, long = (peak_of(timeline, Phase.GENERATE) or 0 for timeline, _, _ in steps)
    # Keys and values of 2 heads of 16 in float32, in 3 layers, for the further tokens of 8 rows.
    assert long - short >= 8 * 512 * 3 * 2 * 2 * 16 * 4


def test_vllm_takes_its_share_of_the_card_and_nothing_is_generated_beside_it() -> None:
    verdicts = {}
    for share in (None, 0.3):
        asked = Recipe(stage="grpo", batch_size=2, seq_len=16, vllm_share=share)
        report = inspector.inspect(CONFIG, recipe=asked, gpu="4090", advice=False)
        assert report.fit is not None
        assert report.training is not None
        verdicts[share] = report.fit[0]
        whats = {item.what for item in report.training.not_accounted}
        assert ("vLLM in the same process" in whats) is (share is not None)
    memory_bytes = verdicts[None].memory_bytes
    assert verdicts[None].usable_bytes - verdicts[0.3].usable_bytes == int(0.3 * memory_bytes)


def test_a_reward_model_gives_one_score_in_the_place_of_logits() -> None:
    report = inspector.inspect(CONFIG, recipe=Recipe(stage="reward", seq_len=16), gpu="4090", advice=False)
    assert report.model.model_class == "LlamaForSequenceClassification"
    assert report.parameters.base == LLAMA_UNTIED - 1_024 + 16  # a row of hidden size for the score
    assert "reward-head" in {notice.code for notice in report.warnings}


@pytest.mark.parametrize(
    ("recipe", "named"),
    [
        ({"stage": "dpo", "reference": "adapter"}, "reference=adapter"),
        ({"stage": "dpo", "loop": "plain"}, "loop"),
        ({"stage": "grpo", "batch_size": 3, "num_generations": 2}, "num_generations=2"),
        ({"stage": "dpo", "prompt_len": 1024}, "prompt_len"),
        ({"stage": "orpo", "reference": "model"}, "reference"),
        ({"prompt_len": 8}, "prompt_len"),
        ({"stage": "dpo", "vllm_share": 0.3}, "vllm_share"),
        ({"stage": "grpo", "vllm_share": 1.5}, "vllm_share"),
        ({"stage": "ppo"}, "stage"),
        ({"loss": "float32"}, "loss=float32"),
        ({"stage": "orpo", "loss": "fused"}, "stage=orpo"),
    ],
)
def test_what_no_stage_could_run_so_is_refused_with_its_name(recipe: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        inspector.inspect(CONFIG, recipe=Recipe(**recipe), gpu="4090", advice=False)
    assert f"`{named}" in str(caught.value)


@pytest.mark.parametrize("name", ["t5", "bert"])
def test_preferences_are_of_causal_language_models(name: str) -> None:
    with pytest.raises(UsageError, match="is of causal language models with a head"):
        resolve(build("meta", name)[0], Recipe(stage="dpo", seq_len=16))


def test_supervised_training_is_no_stage() -> None:
    assert Recipe(stage="sft") == Recipe()
    assert Recipe(stage="dpo", reference="auto") == Recipe(stage="dpo")


def test_a_prompt_and_an_answer_make_a_row() -> None:
    assert Recipe(stage="grpo", prompt_len=100, completion_len=28).seq_len == 128
    assert split_row(128, None, None, halves=True) == (64, 64)
    assert split_row(128, None, 28, halves=True) == (100, 28)
    assert split_row(128, None, None, halves=False) == (1, 127)
    assert split_row(8, 100, None, halves=False) == (7, 1)  # a search tries short rows, too


class StopsAtTheEnd:
    """A profile ends when the steps are over, while batch and optimizer are still there, as the tape does."""

    def __init__(self, recorded: profile) -> None:
        self._recorded = recorded

    def enter(self, phase: Phase, step: int) -> None:
        """Let the profile go on."""

    def close(self) -> None:
        """End the profile."""
        self._recorded.stop()


def tape_on_cpu(model: Any, recipe: Recipe) -> list[Event]:
    """Return the tape of loading a model with its second one and of two steps under CPU's rules."""
    workload = load_workload(TRAINING)
    workload.prepare(model, recipe)
    tracer = Tracer(Platform(torch_version=find_installed_torch()), on_cuda=False)
    for _, tensor, category in list_in_load_order(built(model)):
        tracer.hold([tensor], category)
    for companion in workload.find_companions(model).values():
        tracer.hold((*companion.parameters(), *companion.buffers()), Category.WEIGHTS)
    batch: dict[str, Any] = {}
    for name, item in workload.make_inputs(model, recipe).items():
        assert isinstance(item, Input)
        batch[name] = item.on("meta")
        tracer.shadows.set(batch[name], item.on("cpu"))
    tracer.hold(batch.values(), Category.INPUTS)
    with treat_meta_as_device(), tracer:
        optimizer = workload.make_state(model, recipe, on_gpu=False)
        held = workload.run(model, batch, optimizer, tracer.enter, recipe)
        tape = tracer.tape()
        del held
        return tape


@pytest.mark.parametrize("stage", ["dpo", "kto"])
@pytest.mark.filterwarnings("ignore")
def test_what_is_measured_of_a_stage_allocates_what_the_tape_says(stage: str) -> None:
    model: Any = build("meta", "qwen2")[0]
    recipe = resolve(model, Recipe(stage=stage, batch_size=2, seq_len=24, prompt_len=8, optimizer="adamw_torch"))
    gc.collect()
    recorded = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    recorded.start()
    run_steps(load_workload(TRAINING), built(model), recipe, torch.device("cpu"), StopsAtTheEnd(recorded))
    kernels = ("aten::normal_", "aten::sum", "aten::index", "aten::nansum", "aten::mul")
    real, inside = profiled_events(recorded, kernels)
    assert_aligned(real, inside, tape_events(tape_on_cpu(build("meta", "qwen2")[0], recipe)))


LORA = {"peft": LoraOptions(r=16, targets="all-linear")}
USUAL: dict[str, Any] = {"mixed_precision": "bf16", "gradient_checkpointing": True, "prompt_len": 512}
# docs/reference/recipes.md has them. LLaMA-Factory's were held against its own losses; 2 x 2,048 x 151,936 x 4 bytes of
# its DPO are logits of the policy, which live while the reference runs.
FIGURES = [
    ({"stage": "dpo"}, LORA, 4_331_262_976),
    ({"stage": "dpo", "loss": "fused"}, LORA, 1_424_320_512),
    ({"stage": "dpo", "loss": "fused", "batch_size": 8}, LORA, 3_553_732_608),
    ({"stage": "dpo", "loss": "fused"}, {"dtype": "float32"}, 10_479_791_616),
    (
        {"stage": "dpo", "loss": "fused", "seq_len": 2048, "prompt_len": 1024},
        {"peft": LoraOptions(r=8, targets="all-linear")},
        1_688_809_472,
    ),
    (
        {"stage": "dpo", "loss": "float32", "seq_len": 2048, "prompt_len": 1024, "use_reentrant": True},
        {"peft": LoraOptions(r=8, targets="all-linear")},
        13_709_333_504,
    ),
    (
        {"stage": "grpo", "loss": "fused", "batch_size": 8, "prompt_len": 256, "completion_len": 256},
        LORA,
        1_722_063_872,
    ),
    ({"stage": "kto", "batch_size": 2}, LORA, 5_263_507_968),
    ({"stage": "kto", "loss": "float32", "batch_size": 2}, LORA, 8_684_582_912),
    (
        {"stage": "reward", "loss": "float32", "prompt_len": None, "use_reentrant": True},
        {"peft": LoraOptions(r=8, targets="all-linear")},
        4_297_237_504,
    ),
]


@pytest.mark.parametrize(("recipe", "model", "peak_bytes"), FIGURES, ids=[str(figure) for _, _, figure in FIGURES])
@pytest.mark.one_of(3)
def test_a_stage_of_a_real_model_peaks_at_the_figure_that_is_published(
    recipe: dict[str, Any], model: dict[str, Any], peak_bytes: int
) -> None:
    files = locate("Qwen/Qwen2.5-0.5B", revision=None, offline=True)
    asked = Request(model="Qwen/Qwen2.5-0.5B", offline=True, recipe=Recipe(**{**USUAL, **recipe}), **model)
    run = dataclasses.replace(resolve_run(asked, None, {}), files=files)
    assert Predictor(files).predict(run).peak_allocated_bytes == peak_bytes

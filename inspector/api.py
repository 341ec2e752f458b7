"""The Python API: `inspect`, `plan`, `compare` and `measure`, which take what a notebook has at hand.

They turn their arguments into a Request, let the pipeline do the work, and return records; they print nothing. What
cannot be raises a subclass of InspectorError whose message is one line and names the argument in backticks.

Importing this module loads neither torch nor transformers; the functions do.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from inspector.arguments.forms import (
    OF_A_COMPARED_RECIPE,
    build_request,
    find_name,
    read_quantities,
    read_recipe_to_compare,
)
from inspector.arguments.keywords import explain_keyword, takes_no_others
from inspector.checks import check_count, describe_value
from inspector.errors import UsageError, one_line
from inspector.hardware.card_counts import read_card_counts
from inspector.records.comparison import Comparison, SharedNotice
from inspector.records.fit import Plan
from inspector.records.measurement import Measurement
from inspector.records.report import Report
from inspector.records.request import Request
from inspector.runtime.isolation import run_isolated

__all__ = ["compare", "inspect", "measure", "plan"]

# Packages of kernels that ask results for their HTML.
_NOTEBOOKS = ("ipykernel", "marimo", "xeus_python_shell")


@takes_no_others
def inspect(
    model: Any,
    *,
    peft: Any = None,
    autocast_adapter_dtype: bool = True,
    adapter_dtype: str = "auto",
    preparation: str = "peft",
    workload: str = "training",
    recipe: Any = None,
    torch: str | None = None,
    gpu: str | Sequence[str] | None = None,
    gpu_memory: str | int | Sequence[str | int] | None = None,
    gpu_count: int = 1,
    sharding: str | None = None,
    device_map: Any = None,
    tensor_parallel: int | None = None,
    expert_parallel: int | None = None,
    nodes: int | None = None,
    margin: str | int | None = None,
    fit: str | None = None,
    context: Sequence[int] = (),
    advice: bool = True,
    revision: str | None = None,
    dtype: Any = "auto",
    quantization: str | None = None,
    double_quant: bool | None = None,
    quant_storage: str | None = None,
    model_class: str | type | None = None,
    trust_remote_code: bool = False,
    assume_defaults: bool = False,
    extrapolate: bool = True,
    offline: bool = False,
    count_only: bool = False,
    depth: int = 3,
    serving: Any = None,
    framework: str | None = None,
    launch: str | Sequence[str] = (),
    base_model: str | None = None,
    strict: bool = False,
) -> Report:
    """Count a model, with an adapter or without, and return the report; print nothing.

    Args:
        model: a Hub id, a local directory, a path to a config.json, an adapter (id or directory), a
            `transformers.PretrainedConfig`, or a transformers model, `peft.PeftModel` or any other `torch.nn.Module` on
            the meta device. Of the last two the parameters are counted and no step is traced. Or a training file of
            axolotl, LLaMA-Factory, TRL, transformers or Unsloth ("train.yaml"): then every argument that is left at its
            default is what the file says, and `report.source` says where each value is from.
        peft: the adapter: any `peft.PeftConfig`, a mapping of its fields with `peft_type`, or `LoraOptions`. None
            counts the model as it is, and its static bytes are those of full fine-tuning.
        autocast_adapter_dtype: as in PEFT's `get_peft_model`: whether an adapter in half precision becomes float32.
        adapter_dtype: what a trainer casts the attached adapter to: "float32" as LLaMA-Factory, "bfloat16" as TRL on
            packed weights; "auto" leaves it as PEFT made it.
        preparation: what happens to packed weights before an adapter trains on them: "peft" is its
            `prepare_model_for_kbit_training`, "none" what TRL 0.26 and newer and LLaMA-Factory do, "axolotl" its own.
        workload: what runs: "training", "forward" for a pass without gradients, or "generate".
        recipe: how it runs: a `Recipe`, a mapping of its fields, a `Generation`, which sets the workload too, or
            `TrainingArguments` and any other dataclass with its fields, such as TRL's `SFTConfig`; warnings say what of
            these is not traced. None is a batch of one sequence of 1,024 tokens in `transformers.Trainer`.
        torch: the torch release of the machine that will run it, such as "2.10"; None is the installed one.
        gpu: the GPU, or several, that `report.fit` is about, by names as `inspect gpus` lists them: "a100-80gb",
            ["4090", "H100"]; "2x4090" is two cards for one run. Each kind is judged by a trace of its own kernels, and
            the figures are those of the first. None: a few common ones, and the figures of an A100's kernels.
        gpu_memory: the same for GPUs of which only the memory is known, as text with a unit, "24GiB", or in bytes.
        gpu_count: how many of each named GPU one run has. One card alone is judged; `report.fit` says how many hold
            the state of the run when it is sharded.
        sharding: what is sharded over them: "fsdp" (FSDP2), "fsdp1", "zero1", "zero2" or "zero3".
        tensor_parallel: how many cards share each layer, by transformers' plan of the model.
        expert_parallel: over how many cards the experts of each layer are spread whole; the rest of the model is
            sharded with `sharding="fsdp"`, or cut over as many with `tensor_parallel`.
        nodes: machines that the cards stand in; under FSDP each keeps all shards on its own cards (HSDP).
        margin: how much of a GPU is to stay free, as text with a unit, "1GiB", or in bytes. None is what is not known
            of the card: a step that fits and leaves less is "tight", and searches leave as much.
        fit: "batch-size", "seq-len" or "rank", of a generation "prompt-len" or "new-tokens": the largest value that
            fits the first GPU is searched, and the report is of the step with it (`report.search`).
        context: of a generation, lengths of prompts in tokens: `report.context` says what each takes.
        advice: whether to look for changes that make the step fit a named GPU, up to eight traces more, or, where it
            fits, for what could be turned up, up to six. `report.fit` has them.
        revision: branch, tag or commit of a Hub repository.
        dtype: dtype of the base weights, as text or torch's; "auto" is what the checkpoint declares.
        quantization: "nf4", "fp4" or "int8" loads the base weights quantized as bitsandbytes does, "none" in float;
            None is what the checkpoint declares.
        double_quant: whether the scales of 4-bit weights are packed too; None is bitsandbytes' default, no.
        quant_storage: the dtype of the tensors that hold 4-bit weights: "uint8", the default, or "float16", "bfloat16"
            or "float32", which FSDP shards.
        model_class: the transformers class to build, or its name; default: the one that the config names.
        trust_remote_code: run model code from the repository. Without it nothing from a repository is executed.
        assume_defaults: go on where a config.json does not say how large the model is, with the defaults of its class;
            the first warning says so. Without it that is an UnsupportedModelError.
        extrapolate: whether the step of a deep model may be worked out from those of shallow ones; else the whole model
            is traced, and each token of a generation.
        offline: make no request: the local cache, then the bundled catalogue.
        count_only: stop after the parameter counts.
        depth: how deep `report.parameters.tree` goes; 0 is the model alone.
        serving: what a serving engine makes of the model, in the place of a step: `ServingOptions` or a mapping of its
            fields, {"engine": "vllm", "max_model_len": 32768}, by the engine's own option names; `report.serving` has
            it. llama.cpp takes GGUF files.
        framework: whose defaults hold for a training file, "axolotl==0.21" for one; None is what its keys say, in the
            installed version, else in the newest that is known.
        launch: accelerate's YAML or DeepSpeed's JSON beside the model or the training file, or several.
        base_model: the model in the place of the one that the training file names.
        strict: raise UsageError where the training file has what changes memory and is not modelled.

    Raises:
        InspectorError: one of its subclasses, each with a message of one line and an `exit_code`.
    """
    request, notices = build_request(
        model=model,
        peft=peft,
        autocast_adapter_dtype=autocast_adapter_dtype,
        adapter_dtype=adapter_dtype,
        preparation=preparation,
        workload=workload,
        recipe=recipe,
        torch=torch,
        gpu=gpu,
        gpu_memory=gpu_memory,
        gpu_count=gpu_count,
        sharding=sharding,
        device_map=device_map,
        tensor_parallel=tensor_parallel,
        expert_parallel=expert_parallel,
        nodes=nodes,
        margin=margin,
        fit=fit,
        context=context,
        advice=advice,
        revision=revision,
        dtype=dtype,
        quantization=quantization,
        double_quant=double_quant,
        quant_storage=quant_storage,
        model_class=model_class,
        trust_remote_code=trust_remote_code,
        assume_defaults=assume_defaults,
        extrapolate=extrapolate,
        offline=offline,
        count_only=count_only,
        depth=depth,
        serving=serving,
        framework=framework,
        launch=launch,
        base_model=base_model,
        strict=strict,
    )
    # A notebook shows the run, which stays in the process that traced it.
    function = "run_to_draw" if any(name in sys.modules for name in _NOTEBOOKS) else "run"
    report: Report = run_isolated(f"inspector.pipeline:{function}", request)
    return dataclasses.replace(report, warnings=(*notices, *report.warnings)) if notices else report


@takes_no_others
def plan(
    model: Any,
    *,
    gpu: str | Sequence[str] | None = None,
    gpu_memory: str | int | Sequence[str | int] | None = None,
    gpu_count: int | str | Sequence[int] = 1,
    margin: str | int | None = None,
    fit: str | Sequence[str] | None = ("batch-size", "seq-len"),
    peft: Any = None,
    recipe: Any = None,
    torch: str | None = None,
    revision: str | None = None,
    dtype: Any = "auto",
    quantization: str | None = None,
    double_quant: bool | None = None,
    quant_storage: str | None = None,
    model_class: str | type | None = None,
    trust_remote_code: bool = False,
    assume_defaults: bool = False,
    offline: bool = False,
    framework: str | None = None,
    launch: str | Sequence[str] = (),
    base_model: str | None = None,
    strict: bool = False,
) -> Plan:
    """Return up to 24 recipes to train a model on one GPU: what each takes, its largest batch size and sequence length.

    The arguments are those of `inspect`, and one GPU has to be named. `fit` is of what the largest value is searched:
    "batch-size", "seq-len", both in a list, or None for nothing, which is quick. The optimizer and checkpointing of
    `recipe` play no part, since the plan goes through these itself. With a `gpu_count`, such as 8 or "1-64", the plan
    is of so many cards: recipes under each strategy, the least number that fits, and what no further card takes off.

    Raises:
        InspectorError: what `inspect` raises, and UsageError where not exactly one GPU is named.
    """
    request, notices = build_request(
        model=model,
        peft=peft,
        recipe=recipe,
        torch=torch,
        gpu=gpu,
        gpu_memory=gpu_memory,
        margin=margin,
        advice=False,
        revision=revision,
        dtype=dtype,
        quantization=quantization,
        double_quant=double_quant,
        quant_storage=quant_storage,
        model_class=model_class,
        trust_remote_code=trust_remote_code,
        assume_defaults=assume_defaults,
        offline=offline,
        depth=0,
        framework=framework,
        launch=launch,
        base_model=base_model,
        strict=strict,
    )
    quantities, counts = read_quantities(fit), read_card_counts(gpu_count)
    result: Plan = run_isolated("inspector.pipeline:plan", request, quantities, counts, forks=True)
    return dataclasses.replace(result, warnings=(*(notice.message for notice in notices), *result.warnings))


def compare(recipes: Sequence[Any] | Mapping[str, Any], **settings: Any) -> Comparison:
    """Return what differs between two or more recipes, models or reports: settings, parameters, bytes, verdicts.

    `recipes` is a list, or a mapping with a name for each. One of them is a `Report` or its `to_dict()`, a mapping of
    arguments of `inspect`, or a model as `inspect` takes it. `settings` are arguments of `inspect` that hold for all
    that are not reports; what a recipe says itself goes before.

    >>> compare(["Qwen/Qwen2.5-7B", "Qwen/Qwen3-8B"], gpu="4090")
    >>> compare({"as it is": {}, "in 4 bits": {"quantization": "nf4"}}, model="Qwen/Qwen2.5-7B", peft=LoraOptions(r=16))

    Raises:
        InspectorError: what `inspect` raises for one of them, with its name in front.
    """
    if not isinstance(recipes, (Mapping, list, tuple)) or (isinstance(recipes, Mapping) and "schema" in recipes):
        raise UsageError(
            f"`recipes` is {describe_value(recipes)}; give a list of models, reports or arguments of inspect, or a "
            "mapping with a name for each."
        )
    named = list(recipes.items()) if isinstance(recipes, Mapping) else [(None, recipe) for recipe in recipes]
    for setting, value in settings.items():
        if setting not in OF_A_COMPARED_RECIPE:
            raise UsageError(explain_keyword("compare", setting, value, OF_A_COMPARED_RECIPE))
    compared: list[tuple[str, Request | Mapping[str, Any]]] = []
    warnings: list[SharedNotice] = []
    for index, (name, recipe) in enumerate(named):
        request, notices = read_recipe_to_compare(recipe, settings)
        compared.append((find_name(request) if name is None else one_line(name, 100), request))
        warnings += [SharedNotice(recipes=(chr(ord("A") + index),), message=notice.message) for notice in notices]
    if settings and not any(isinstance(request, Request) for _, request in compared):
        raise UsageError(f"reports are compared as they are; drop `{next(iter(settings))}`, or name a model instead.")
    result: Comparison = run_isolated("inspector.pipeline:compare", compared)[0]
    return dataclasses.replace(result, warnings=(*warnings, *result.warnings))


@takes_no_others
def measure(
    model: Any,
    *,
    peft: Any = None,
    autocast_adapter_dtype: bool = True,
    adapter_dtype: str = "auto",
    preparation: str = "peft",
    workload: str = "training",
    recipe: Any = None,
    revision: str | None = None,
    dtype: Any = "auto",
    quantization: str | None = None,
    double_quant: bool | None = None,
    quant_storage: str | None = None,
    model_class: str | type | None = None,
    trust_remote_code: bool = False,
    assume_defaults: bool = False,
    offline: bool = False,
    framework: str | None = None,
    base_model: str | None = None,
    strict: bool = False,
    gpu_count: int = 1,
    sharding: str | None = None,
    tensor_parallel: int | None = None,
    expert_parallel: int | None = None,
    launch: str | Sequence[str] = (),
    rank: int | None = None,
) -> Measurement:
    """Run the step of a model for real on the CUDA GPU at hand, with random weights, beside its prediction.

    The arguments are those of `inspect`. Of several cards it runs one rank: that of the launcher that started this
    process (torchrun), or `rank` of `gpu_count` alone, 0 by default. Nothing is left on the GPU, and nothing is run
    where the prediction does not fit what is free. Settings of the allocator hold from the first tensor of a process
    on: a process that has used the GPU before measures with those that it has.

    Raises:
        DoesNotFitError: the step needs more than the GPU has free.
        InspectorError: what `inspect` raises, and UsageError where there is no CUDA GPU.
    """
    request, notices = build_request(
        model=model,
        peft=peft,
        autocast_adapter_dtype=autocast_adapter_dtype,
        adapter_dtype=adapter_dtype,
        preparation=preparation,
        workload=workload,
        recipe=recipe,
        advice=False,
        revision=revision,
        dtype=dtype,
        quantization=quantization,
        double_quant=double_quant,
        quant_storage=quant_storage,
        model_class=model_class,
        trust_remote_code=trust_remote_code,
        assume_defaults=assume_defaults,
        offline=offline,
        depth=0,
        framework=framework,
        base_model=base_model,
        strict=strict,
        gpu_count=gpu_count,
        sharding=sharding,
        tensor_parallel=tensor_parallel,
        expert_parallel=expert_parallel,
        launch=launch,
        at_hand=True,
    )
    from inspector import pipeline

    result = pipeline.measure(request, rank=None if rank is None else check_count("rank", rank, least=0))
    return dataclasses.replace(result, notices=(*(notice.message for notice in notices), *result.notices))


def _show_in_a_notebook(report: Report) -> str:
    """Return the report as an HTML fragment; IPython asks the object itself, and only renderers know how it looks."""
    from inspector.render.writers.html import render_html

    return render_html(report)


def _print(record: Report | Plan | Comparison | Measurement) -> str:
    """Return the record as the command prints it."""
    from inspector.render.printed import format_record

    return format_record(record)


Report._repr_html_ = _show_in_a_notebook  # type: ignore[attr-defined]
for _kind in (Report, Plan, Comparison, Measurement):
    _kind.__str__ = _print  # type: ignore[assignment]  # mypy has no way to say that of four records

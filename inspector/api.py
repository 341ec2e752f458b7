"""The Python API: what `inspector.inspect` and its siblings do.

Importing this module loads neither torch nor transformers; the functions do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inspector.records.recipe import Recipe
from inspector.records.report import Report

__all__ = ["inspect"]


def inspect(
    model: Any,
    *,
    peft: Any = None,
    autocast_adapter_dtype: bool = True,
    workload: str = "training",
    recipe: Recipe | None = None,
    torch: str | None = None,
    gpu: str | Sequence[str] = (),
    gpu_memory: str | Sequence[str] = (),
    fit: str | None = None,
    advice: bool = True,
    revision: str | None = None,
    dtype: str = "auto",
    quantization: str | None = None,
    double_quant: bool | None = None,
    model_class: str | None = None,
    trust_remote_code: bool = False,
    offline: bool = False,
    count_only: bool = False,
    depth: int = 3,
) -> Report:
    """Count a model, with an adapter or without, and return the report; print nothing.

    Args:
        model: a Hub id, a local directory, a path to a config.json, an adapter (id or directory), a
            `transformers.PretrainedConfig`, or a transformers model or `peft.PeftModel` on the meta device.
        peft: the adapter: any `peft.PeftConfig`, a mapping of its fields with `peft_type`, or `LoraOptions`. None
            counts the model as it is, and its static bytes are those of full fine-tuning.
        autocast_adapter_dtype: as in PEFT's `get_peft_model`: whether an adapter in half precision becomes float32.
        recipe: how the traced training step runs; None is a batch of one row of 1,024 tokens in `transformers.Trainer`.
        workload: what runs: "training" or "forward", a pass without gradients. torch: the torch release of the machine
        that will run it, such as "2.10"; None is the installed one. gpu: the GPU, or several, that `report.fit` is
        about, by names as in `--gpu`: "a100-80gb", ["4090", "H100"]. Each
            is judged by a trace of its own kernels; figures are those of the first. None named: a few common ones.
        gpu_memory: the same for GPUs of which only the memory is known, as text with a unit: "24GiB".
        fit: "batch-size", "seq-len" or "rank": the largest value that fits the first GPU is searched, and the report is
            of the step with it; `report.search` says how it was found.
        advice: whether to look for changes that make the step fit a named GPU, up to eight traces more, or, where it
            fits, for what could be turned up, up to six. `report.fit` has them.
        revision: branch, tag or commit of a Hub repository.
        dtype: dtype of the base weights; "auto" is what the checkpoint declares.
        quantization: "nf4", "fp4" or "int8" loads the base weights quantized as bitsandbytes does, "none" in float;
            None is what the checkpoint declares.
        double_quant: whether the scales of 4-bit weights are packed too; None is bitsandbytes' default, no.
        model_class: name of the transformers class to build; default: the one that the config names.
        trust_remote_code: run model code from the repository. Without it nothing from a repository is executed.
        offline: make no request: the local cache, then the bundled catalogue.
        count_only: stop after the parameter counts.
        depth: how deep `report.parameters.tree` goes; 0 is the model alone.

    Raises:
        InspectorError: one of its subclasses, each with a message of one line and an `exit_code`.
    """
    from inspector.records.request import Request
    from inspector.runtime.isolation import run_isolated

    report: Report = run_isolated(
        "inspector.pipeline:run",
        Request(
            model=model,
            revision=revision,
            dtype=dtype,
            quantization=quantization,
            double_quant=double_quant,
            model_class=model_class,
            trust_remote_code=trust_remote_code,
            offline=offline,
            peft=peft,
            autocast_adapter_dtype=autocast_adapter_dtype,
            workload=workload,
            torch=torch,
            recipe=recipe if recipe is not None else Recipe(),
            gpus=(gpu,) if isinstance(gpu, str) else tuple(gpu),
            gpu_memory=(gpu_memory,) if isinstance(gpu_memory, str) else tuple(gpu_memory),
            fit=fit,
            advice=advice,
            count_only=count_only,
            depth=depth,
        ),
    )
    return report

"""`inspect measure`: the step for real on the GPU at hand, beside its prediction."""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any

from inspector.cli.console import render_document, show_progress
from inspector.cli.exit_codes import ExitCode
from inspector.cli.group import Work, subcommand
from inspector.cli.jobs import Job, build_job
from inspector.cli.option_groups.cards import RANK
from inspector.cli.option_names import name_options
from inspector.cli.options import list_parameters_without
from inspector.cli.output import open_output

__all__ = ["measure"]

# Options of a report that a run on the GPU at hand has no use for.
_NOT_OF_A_RUN = (
    "torch",
    "gpus_",
    "gpu_memory",
    "device_map",
    "margin",
    "fit",
    "advice",
    "count_only",
    "context",
    "depth",
)


@subcommand([*list_parameters_without(*_NOT_OF_A_RUN), RANK])
def measure(rank: int | None, **options: Any) -> Work:
    """Run the step of MODEL for real on the CUDA GPU at hand, and print predicted beside measured.

    The weights are random and made on the GPU, the batch and the step are those that `inspect MODEL` traces, and the
    options are its options. It refuses before anything is allocated where the prediction says that the step will not
    fit, and leaves nothing on the GPU. --json writes the record that tests/evidence/truth keeps.

    Of a run on several cards it measures ranks: all of them under torchrun or accelerate launch, where rank 0 prints
    them, or one alone on the GPU at hand.

    \b
    inspect measure Qwen/Qwen2.5-0.5B --lora r=16 --targets all-linear
    inspect measure Qwen/Qwen2.5-7B --lora r=16 --gradient-checkpointing --json --output row.json
    inspect measure Qwen/Qwen2.5-7B --gradient-checkpointing --gpus 8 --fsdp --rank 3
    torchrun --nproc-per-node 2 -m inspector measure Qwen/Qwen2.5-7B --gradient-checkpointing --fsdp

    Exit code 1: it does not fit what the GPU has free. A difference is no failure: the exit code is 0.
    """  # noqa: D301  # as above
    unused: dict[str, Any] = {
        "torch": None,
        "gpus_": (),
        "gpu_memory": (),
        "margin": None,
        "fit": None,
        "advice": False,
        "count_only": False,
    }
    return functools.partial(_measure, build_job(**unused, depth=0, at_hand=True, **options), rank)


def _measure(job: Job, rank: int | None) -> int:
    """Measure, print or write predicted beside measured, and return the exit code."""
    from inspector.pipeline import measure as measure_step
    from inspector.render.measurement import build_measurement_document, render_measurement_json

    is_first = os.environ.get("RANK", "0") == "0"
    with show_progress(shown=job.progress and is_first, color=job.color) as progress:
        measurement = measure_step(job.request, progress, rank)
    if measurement.is_told_by_another:
        return ExitCode.DONE
    notices = [name_options(notice) for notice in measurement.notices]
    measurement = dataclasses.replace(measurement, notices=notices)
    with open_output(job.output, quiet=not job.progress) as stream:
        if job.format == "json":
            render_measurement_json(measurement, stream)
        else:
            render_document(build_measurement_document(measurement), job.format, stream, color=job.color)
    return ExitCode.DONE

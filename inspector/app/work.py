"""What a worker process does: read the words of a question as the command would, and make the page of its answer.

A worker keeps what it read and traced of the last models, so that a question that differs in its sizes alone costs the
trace of two passes. It serves strangers: before the first question it is confined to the code and to its own folder,
and to the hosts of the Hub (`runtime.confinement`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import click

from inspector.app.kept import KeptStages
from inspector.app.questions import Answer, Kind, Question
from inspector.cli.commands.inspect import command as report_command
from inspector.cli.commands.plan import plan as plan_command
from inspector.cli.jobs import Job
from inspector.cli.option_names import name_options, name_options_in_notices
from inspector.errors import InspectorError
from inspector.pipeline import plan, record
from inspector.records.request import LoraOptions, Request
from inspector.render.page.plan import write_plan_page
from inspector.render.page.report import write_report_page
from inspector.runtime.confinement import confine, list_code_folders, list_hub_hosts

resource: ModuleType | None
try:
    import resource
except ImportError:  # Windows
    resource = None

__all__ = ["answer", "prepare"]

# What makes the page itself from the words; the command line that is shown first does without.
_AS_A_PAGE = ("--format", "html", "--output", "report.html")
# The smallest model of the catalogue that takes every common path, to import what a first trace imports.
_WARM_UP = "Qwen/Qwen2.5-0.5B"
_PACKING = 5

Progress = Callable[[str], None]
_kept = KeptStages()


def prepare(memory_bytes: int, folders: Sequence[str], progress: Progress) -> None:
    """Import and try what answers need, then confine this process; it may map `memory_bytes` more from here on."""
    from huggingface_hub import constants, hf_api  # noqa: F401  # what the first question would import

    request = Request(model=_WARM_UP, offline=True, peft=LoraOptions(r=8), gpus=("a100-80gb",), advice=False)
    report, recording = record(request, progress)
    write_report_page(report, recording, io.StringIO(), command=None)
    _limit_memory(memory_bytes)
    hosts = list_hub_hosts(constants.ENDPOINT, os.environ)
    confine(folders=[*list_code_folders(), Path.cwd(), *folders], hosts=hosts)


def answer(question: Question, progress: Progress) -> Answer:
    """Return the answer to a question; raises InspectorError with a message that names options."""
    try:
        with _hold_upload(question):
            return _ANSWERS[question.kind](question, progress)
    except click.ClickException as error:
        raise InspectorError(error.format_message()) from None
    except InspectorError as error:
        raise InspectorError(name_options(str(error))) from None
    except MemoryError:
        raise InspectorError("this takes more memory than a question has here; ask for a smaller step.") from None


def _answer_report(question: Question, progress: Progress) -> Answer:
    """Inspect, and write the page of the report."""
    job, _, _, typed = _read_words(report_command, "inspect", (*question.words, *_AS_A_PAGE))
    report, recording = record(job.request, progress, _kept)
    report = dataclasses.replace(report, warnings=name_options_in_notices(report.warnings))
    page = io.StringIO()
    progress("drawing the page")
    write_report_page(report, recording, page, command=typed)
    command = typed.removesuffix(" " + " ".join(_AS_A_PAGE))
    return Answer(page=_pack(page), command=command, settings=_describe_settings(job.request))


def _answer_plan(question: Question, progress: Progress) -> Answer:
    """Plan, and write its page."""
    job, _, order, typed = _read_words(plan_command, "plan", (*question.words, "--fit=none"))
    result = plan(job.request, (), None, progress, keeps=False)
    rows = [dataclasses.replace(row, refused=row.refused and name_options(row.refused)) for row in result.rows]
    result = dataclasses.replace(result, rows=tuple(rows), warnings=tuple(map(name_options, result.warnings)))
    page = io.StringIO()
    write_plan_page(result, order, page, command=typed)
    return Answer(page=_pack(page), command=typed)


_ANSWERS: dict[Kind, Callable[[Question, Progress], Answer]] = {
    Kind.REPORT: _answer_report,
    Kind.PLAN: _answer_plan,
}


def _read_words(command: click.Command, name: str, words: Sequence[str]) -> tuple[Job, Any, Any, str]:
    """Return what a command would work on: its job, two things of its own, and the command line spelled out."""
    # Not by the first word, which is the model here and names no command.
    context = click.Command.make_context(command, name, list(words))
    with context:
        work = cast(functools.partial[int], click.Command.invoke(command, context))
    job, first, second, typed = work.args
    return job, first, second, typed


@contextlib.contextmanager
def _hold_upload(question: Question) -> Iterator[None]:
    """Keep the training file of a question in the working directory, by its name, while the block runs."""
    if question.upload is None:
        yield
        return
    path = Path(question.upload.name)
    path.write_bytes(question.upload.content)
    try:
        yield
    finally:
        path.unlink()


def _describe_settings(request: Request) -> dict[str, object]:
    """Return what a form shows of a request."""
    recipe, adapter = request.recipe, request.peft
    settings: dict[str, object] = {
        "model": str(request.model),
        "adapter": "none" if adapter is None else "lora",
        "quantization": "auto" if request.quantization is None else _name(request.quantization),
        "gradient_checkpointing": {None: "auto", True: "on", False: "off"}[recipe.gradient_checkpointing],
        "mixed_precision": _name(recipe.mixed_precision),
        "optimizer": _name(recipe.optimizer),
        "batch_size": recipe.batch_size,
        "seq_len": recipe.seq_len,
        "gradient_accumulation": recipe.gradient_accumulation,
    }
    if isinstance(adapter, LoraOptions):
        targets = adapter.targets or ""
        settings["targets"] = targets if isinstance(targets, str) else ",".join(targets)
        settings |= {} if adapter.r is None else {"rank": adapter.r}
    return settings


def _name(choice: object) -> str:
    """Return a member of a choice as it is written."""
    return str(getattr(choice, "value", choice))


def _pack(page: io.StringIO) -> bytes:
    """Return a page as it is kept and sent."""
    return gzip.compress(page.getvalue().encode("utf-8", "backslashreplace"), _PACKING, mtime=0)


def _limit_memory(memory_bytes: int) -> None:
    """Let this process, and each that it forks, map so much more memory to write to."""
    statistics = Path("/proc/self/statm")
    if resource is None or not statistics.exists():
        return
    mapped = int(statistics.read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (mapped + memory_bytes, resource.getrlimit(resource.RLIMIT_DATA)[1]))

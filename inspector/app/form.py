"""What a visitor sets on the page -> the words of a command line.

Everything may have been typed by a program: choices are checked, numbers bounded, and each option with its value is one
word (`--targets=...`), so that no value is taken for another option. The model is a Hub id or an address of the Hub;
what is written as a path is refused here, and a worker would not look for it either (`runtime.confinement`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from inspector.app.questions import Kind, Question, Upload
from inspector.errors import ModelUnavailableError, UsageError, quoted
from inspector.records.recipe import Recipe
from inspector.records.steps.optimizers import OPTIMIZERS, OptimizerName
from inspector.source.local import is_path_like
from inspector.source.recognize.address import looks_like_address
from inspector.training_files.names import SUFFIXES, has_suffix

__all__ = [
    "ADAPTERS",
    "BOUNDS",
    "CHECKPOINTING",
    "PRECISIONS",
    "QUANTIZATIONS",
    "Form",
    "build_question",
    "fit_settings",
    "make_upload",
]

# What the switches of the page offer, by the words of the command line.
ADAPTERS = ("none", "lora")
QUANTIZATIONS = ("auto", "none", "nf4", "fp4", "int8")
PRECISIONS = ("no", "bf16", "fp16")
CHECKPOINTING = ("auto", "on", "off")
# The least and the most of what a slider sets.
BOUNDS: Mapping[str, tuple[int, int]] = {
    "rank": (1, 256),
    "batch_size": (1, 256),
    "seq_len": (16, 131_072),
    "gradient_accumulation": (1, 256),
}
# The default of the command.
_OPTIMIZER = OptimizerName(Recipe().optimizer).value
_LONGEST_NAME = 300
_LONGEST_FILE_NAME = 80
_LONGEST_TARGETS = 1000
_MOST_GPUS = 6
_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(?:/[\w.-]+)?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The settings of the page, at first those of a command without options but for LoRA."""

    model: str = ""
    adapter: str = "lora"
    rank: int = 16
    targets: str = "all-linear"
    quantization: str = "auto"
    gpus: tuple[str, ...] = ()
    batch_size: int = 1
    seq_len: int = 1024
    gradient_accumulation: int = 1
    gradient_checkpointing: str = "auto"
    mixed_precision: str = "no"
    optimizer: str = _OPTIMIZER
    advice: bool = False


def make_upload(name: str, content: bytes) -> Upload:
    """Return a file that was dropped, under a name that can stand in a command; UsageError for another kind of file."""
    if not has_suffix(name):
        raise UsageError(f"{quoted(name, 60)} is no training file; drop one of {', '.join(SUFFIXES)}.")
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)[-_LONGEST_FILE_NAME:].lstrip("-._")
    return Upload(name=plain if has_suffix(plain) and "." in plain[1:] else f"train.{plain}", content=content)


def build_question(kind: Kind, form: Form, upload: Upload | None = None, settled: Form | None = None) -> Question:
    """Return the question of a form; UsageError or ModelUnavailableError where it cannot be asked.

    `settled` is the form as a training file filled it: what still is as it was is what the file says. Before that the
    file says everything but the cards, and the model where one is named.
    """
    _check(form)
    if kind is Kind.PLAN and len(form.gpus) != 1:
        raise UsageError("a plan is for one card: choose one.")
    model = form.model.strip()
    if upload is None or model:
        _check_model(model)
    words = [model] if upload is None else [upload.name]
    if upload is not None and model and (settled is None or model != settled.model):
        words.append(f"--base-model={model}")
    if upload is None or settled is not None:
        words += _list_adapter_words(form, settled)
        words += _list_recipe_words(kind, form, Form() if settled is None else settled)
    words += [f"--gpu={gpu}" for gpu in form.gpus]
    if kind is Kind.REPORT and form.gpus and not form.advice:
        words.append("--no-advice")
    return Question(kind=kind, words=tuple(words), upload=upload)


def _check_model(name: str) -> None:
    """Raise ModelUnavailableError where a name is neither a Hub id nor written as an address of the Hub."""
    if not name:
        raise ModelUnavailableError("Name a model by its Hub id, org/name, or drop a training file.")
    if len(name) > _LONGEST_NAME or (is_path_like(name) and not looks_like_address(name)):
        raise ModelUnavailableError(f"{quoted(name, 60)} is no Hub id: 'org/name'. Paths are not read here.")
    if not (_ID.fullmatch(name) or looks_like_address(name)):
        raise ModelUnavailableError(f"{quoted(name, 60)} is no Hub id; name a model by one: 'org/name'.")


def fit_settings(form: Form, settings: Mapping[str, object]) -> Form:
    """Return a form filled with what a recipe came to, each value as far as the page can show it."""
    values = {name: getattr(form, name) for name in Form.__dataclass_fields__} | dict(settings)
    for name, (least, most) in BOUNDS.items():
        values[name] = min(max(int(values[name]), least), most)
    for name, choices in _CHOICES.items():
        if values[name] not in choices:
            values[name] = getattr(form, name)
    return Form(**values)


_CHOICES: Mapping[str, Sequence[str]] = {
    "adapter": ADAPTERS,
    "quantization": QUANTIZATIONS,
    "mixed_precision": PRECISIONS,
    "optimizer": tuple(OptimizerName(name).value for name in OPTIMIZERS),
    "gradient_checkpointing": CHECKPOINTING,
}


def _check(form: Form) -> None:
    """Raise UsageError where a form has what the page cannot set."""
    for name, choices in _CHOICES.items():
        if getattr(form, name) not in choices:
            raise UsageError(f"{name} is {quoted(getattr(form, name), 60)}; choose one of {', '.join(choices)}.")
    for name, (least, most) in BOUNDS.items():
        value = getattr(form, name)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise UsageError(f"{name} is {quoted(value, 60)}; give a whole number from {least:,} to {most:,}.")
    if len(form.targets) > _LONGEST_TARGETS:
        raise UsageError(f"the target modules are longer than {_LONGEST_TARGETS:,} characters; name fewer.")
    if len(form.gpus) > _MOST_GPUS or any(len(gpu) > _LONGEST_NAME for gpu in form.gpus):
        raise UsageError(f"choose up to {_MOST_GPUS} cards.")


def _list_adapter_words(form: Form, settled: Form | None) -> Iterator[str]:
    """Yield the options of the adapter, none where the one of a file stays as it is."""
    targets = form.targets.strip()
    if settled is not None:
        if (form.adapter, form.rank, targets) == (settled.adapter, settled.rank, settled.targets):
            return
        if form.adapter == "none":
            raise UsageError("a training file keeps its adapter; take the file away to train all parameters.")
    if form.adapter == "lora":
        yield f"--lora=r={form.rank}"
        if targets:
            yield f"--targets={targets}"


def _list_recipe_words(kind: Kind, form: Form, settled: Form) -> Iterator[str]:
    """Yield the options of the recipe that are set; a plan goes through some of them itself."""
    if form.quantization not in ("auto", settled.quantization):
        yield f"--quantization={form.quantization}"
    for name in ("batch_size", "seq_len", "gradient_accumulation", "mixed_precision"):
        if getattr(form, name) != getattr(settled, name):
            yield f"--{name.replace('_', '-')}={getattr(form, name)}"
    if kind is Kind.PLAN:
        return
    if form.optimizer != settled.optimizer:
        yield f"--optimizer={form.optimizer}"
    if form.gradient_checkpointing not in ("auto", settled.gradient_checkpointing):
        yield "--gradient-checkpointing" if form.gradient_checkpointing == "on" else "--no-gradient-checkpointing"

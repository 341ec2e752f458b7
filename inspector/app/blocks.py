"""The page of `inspect app`, in Gradio: the settings beside the answer, which is a page of its own in a frame.

Every change asks anew; while the answer is awaited the last change alone is asked after it. Nothing of a visitor is
kept on the server but the training file, as long as their page is open. Handlers are generators, so that the page says
what is being done and for how long.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from inspector.app.form import (
    ADAPTERS,
    BOUNDS,
    CHECKPOINTING,
    PRECISIONS,
    QUANTIZATIONS,
    Form,
    build_question,
    fit_settings,
    make_upload,
)
from inspector.app.questions import Answer, Kind, Question, Refusal, Upload
from inspector.app.service import Service, Stage
from inspector.cli.option_names import name_options
from inspector.errors import InspectorError, one_line
from inspector.hardware.catalogue import catalogue
from inspector.records.steps.optimizers import OPTIMIZERS, OptimizerName
from inspector.source.catalogue import list_ids
from inspector.training_files.names import SUFFIXES

__all__ = ["MOST_UPLOAD_BYTES", "STYLE", "build_blocks", "build_theme"]

MOST_UPLOAD_BYTES = 2 * 2**20
# What a visitor sees first.
FIRST = Form(model="Qwen/Qwen2.5-7B", gpus=("rtx-4090",))
_OPEN_SESSIONS = 500
_UPLOAD_SECONDS = 3600
STYLE = """
.gradio-container { max-width: 1700px !important; }
iframe.answer { width: 100%; height: max(640px, calc(100vh - 230px)); border: 1px solid var(--border-color-primary);
  border-radius: 6px; background: var(--background-fill-primary); }
.said { min-height: 1.6em; } .said.refused { color: var(--error-text-color, #b91c1c); font-weight: 600; }
.empty { color: var(--body-text-color-subdued); padding: 3em 1em; text-align: center; }
"""
_NO_PLAN = '<div class="empty">Choose one card and press the button: full fine-tuning, the adapter, and the adapter on '
_NO_PLAN += "weights in 4 bits, each with the optimizers and switches that save memory. It takes a while.</div>"
_HEAD = "## model-inspector\nExact parameter counts and memory of a training step, traced from the configuration alone."


def build_theme() -> gr.themes.Base:
    """Return a theme whose fonts are those of the visitor: none is loaded from another host."""
    return gr.themes.Base(
        primary_hue="blue",
        font=("ui-sans-serif", "system-ui", "sans-serif"),
        font_mono=("ui-monospace", "Consolas", "monospace"),
    )


def build_blocks(service: Service) -> gr.Blocks:
    """Return the page, which asks a service."""
    with gr.Blocks(
        title="model-inspector", analytics_enabled=False, delete_cache=(300, 900), fill_width=True
    ) as blocks:
        gr.Markdown(_HEAD)
        upload = gr.State(None, time_to_live=_UPLOAD_SECONDS)
        settled = gr.State(None, time_to_live=_UPLOAD_SECONDS)
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                controls, file, button = _build_form()
            with gr.Column(scale=3, min_width=320):
                said = gr.HTML(_say("", ""), elem_id="said")
                command = gr.Textbox(
                    label="The same on the command line", interactive=False, buttons=["copy"], elem_id="command"
                )
                with gr.Tabs():
                    with gr.Tab("Report", id="report"):
                        report = gr.HTML(elem_id="report")
                    with gr.Tab("Plan", id="plan"):
                        plan_button = gr.Button("List recipes for the card", elem_id="ask-plan")
                        plan = gr.HTML(_NO_PLAN, elem_id="plan")
        inputs = [*controls.values(), upload, settled]
        outputs = [said, command, report, *controls.values(), settled]
        common: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
        ask = _make_handler(service, Kind.REPORT)
        triggers = [_find_trigger(control) for control in controls.values()]
        triggers += [controls["targets"].submit, button.click]
        gr.on(triggers, ask, inputs, outputs, trigger_mode="always_last", **common)
        dropped = gr.on(
            [file.upload, file.clear], _take_file, [file], [upload, settled, controls["model"], said], **common
        )
        dropped.then(ask, inputs, outputs, **common)
        blocks.load(ask, inputs, outputs, **common)
        plan_outputs = [said, command, plan, *controls.values(), settled]
        plan_button.click(_make_handler(service, Kind.PLAN), inputs, plan_outputs, trigger_mode="once", **common)
    blocks.state_session_capacity = _OPEN_SESSIONS
    blocks.queue(default_concurrency_limit=None, max_size=200)
    return blocks


def _build_form() -> tuple[dict[str, Any], Any, Any]:
    """Return the controls by the fields of a form, the file and the button."""
    controls: dict[str, Any] = {}
    controls["model"] = gr.Dropdown(
        list(list_ids()), value=FIRST.model, allow_custom_value=True, filterable=True, label="Model",
        info="A Hub id; type to search the catalogue", elem_id="model",
    )  # fmt: skip
    controls["gpus"] = gr.Dropdown(
        [(gpu.name, _spell_gpu(gpu.name)) for gpu in catalogue()], value=list(FIRST.gpus), multiselect=True,
        max_choices=6, allow_custom_value=True, label="Cards",
        info="None: a few common ones; 2x4090 is two for one run", elem_id="gpus",
    )  # fmt: skip
    controls["adapter"] = gr.Radio(
        [("all parameters", ADAPTERS[0]), ("LoRA", ADAPTERS[1])], value=FIRST.adapter, label="What trains"
    )
    controls["rank"] = _make_slider("rank", "LoRA rank")
    controls["quantization"] = gr.Dropdown(
        [("as stored", "auto"), *((name, name) for name in QUANTIZATIONS[1:])], value=FIRST.quantization,
        label="Quantization of the base weights",
    )  # fmt: skip
    controls["batch_size"] = _make_slider("batch_size", "Batch size")
    controls["seq_len"] = _make_slider("seq_len", "Sequence length", step=16)
    with gr.Accordion("More of the recipe", open=False):
        controls["targets"] = gr.Textbox(
            FIRST.targets, label="LoRA target modules", max_length=1000,
            info="all-linear, names, or a regular expression",
        )  # fmt: skip
        controls["gradient_checkpointing"] = gr.Radio(
            [("as the library does", CHECKPOINTING[0]), *CHECKPOINTING[1:]], value=FIRST.gradient_checkpointing,
            label="Gradient checkpointing",
        )  # fmt: skip
        controls["mixed_precision"] = gr.Radio(list(PRECISIONS), value=FIRST.mixed_precision, label="Autocast")
        controls["optimizer"] = gr.Dropdown(
            [OptimizerName(name).value for name in OPTIMIZERS], value=FIRST.optimizer, label="Optimizer"
        )
        controls["gradient_accumulation"] = _make_slider("gradient_accumulation", "Gradient accumulation")
        controls["advice"] = gr.Checkbox(
            FIRST.advice, label="Look for changes that make it fit", info="Traces more, and takes a few seconds more"
        )
    file = gr.File(label="Or drop a training file", file_types=list(SUFFIXES), height=150, elem_id="file")
    button = gr.Button("Inspect", variant="primary", elem_id="ask")
    return controls, file, button


def _make_slider(name: str, label: str, step: int = 1) -> gr.Slider:
    """Return the slider of a field."""
    least, most = BOUNDS[name]
    value, element = getattr(FIRST, name), name.replace("_", "-")
    return gr.Slider(least, most, value=value, step=step, precision=0, label=label, elem_id=element)


def _find_trigger(control: Any) -> Any:
    """Return the event of a control that a visitor changed it, and is done with that."""
    if isinstance(control, gr.Slider):
        return control.release
    return control.blur if isinstance(control, gr.Textbox) else control.input


def _spell_gpu(name: str) -> str:
    """Return the name of a card as one word of a command line."""
    return name.lower().replace(" ", "-")


# --- what is done at a change -----------------------------------------------------------------------------------------


def _take_file(path: str | None) -> tuple[Upload | None, None, Any, str]:
    """Return the training file that was dropped, with no model beside it, or none where it was taken away."""
    if path is None:
        return None, None, gr.skip(), _say("", "")
    file = Path(path)
    try:
        return make_upload(file.name, file.read_bytes()), None, "", _say("", "reading the training file")
    except (InspectorError, OSError) as error:
        return None, None, gr.skip(), _say("refused", str(error))


def _make_handler(service: Service, kind: Kind) -> Callable[..., Iterator[tuple[Any, ...]]]:
    """Return what answers a change of the page."""

    def ask(*values: Any) -> Iterator[tuple[Any, ...]]:
        *of_form, upload, settled = values
        begun = time.monotonic()
        try:
            form = _read_form(dict(zip(_ORDER, of_form, strict=True)))
            question = build_question(kind, form, upload, settled)
        except (InspectorError, TypeError, ValueError) as error:
            yield _show(said=_say("refused", name_options(one_line(error, 1000))))
            return
        for item in service.ask(question):
            if isinstance(item, Stage):
                yield _show(said=_say("working", f"{item.words} … {item.seconds:.1f} s"))
            elif isinstance(item, Refusal):
                yield _show(said=_say("refused", item.message))
            else:
                seconds = time.monotonic() - begun
                is_first = upload is not None and settled is None and bool(item.settings)
                filled = fit_settings(form, item.settings) if is_first else None
                yield _show(
                    said=_say("answered", f"answered in {seconds:.2f} s"),
                    answer=item,
                    question=question,
                    filled=filled,
                )

    return ask


# The fields of a form in the order in which the page has them.
_ORDER = (
    *("model", "gpus", "adapter", "rank", "quantization", "batch_size", "seq_len"),
    *("targets", "gradient_checkpointing", "mixed_precision", "optimizer", "gradient_accumulation", "advice"),
)


def _read_form(values: dict[str, Any]) -> Form:
    """Return the form that the values of the controls are; ValueError or TypeError where they cannot be."""
    numbers = {name: int(values[name]) for name in BOUNDS}
    texts = {name: str(values[name] or "") for name in ("model", "targets")}
    gpus = tuple(str(gpu) for gpu in values["gpus"] or ())
    return Form(**values | numbers | texts | {"gpus": gpus, "advice": bool(values["advice"])})


def _show(
    *, said: str, answer: Answer | None = None, question: Question | None = None, filled: Form | None = None
) -> tuple[Any, ...]:
    """Return the outputs of a handler: what is not given stays as it is."""
    controls = [gr.skip() if filled is None else getattr(filled, name) for name in _ORDER]
    if filled is not None:
        controls[_ORDER.index("gpus")] = list(filled.gpus)
    settled = gr.skip() if filled is None else filled
    if answer is None or question is None:
        return said, gr.skip(), gr.skip(), *controls, settled
    return said, answer.command, _frame(question), *controls, settled


def _frame(question: Question) -> str:
    """Return the answer in a frame, where its scripts run apart from this page."""
    address = f"answers/{question.key}"
    return (
        f'<iframe class="answer" src="{address}" sandbox="allow-scripts allow-popups" title="{question.kind.value}">'
        f'</iframe><div><a href="{address}" target="_blank" rel="noopener">open it alone</a></div>'
    )


def _say(how: str, words: str) -> str:
    """Return a line for the visitor; what it repeats of them is neither markup nor a template."""
    text = html.escape(one_line(words, 1200))
    for sign in "${}`\\":
        text = text.replace(sign, f"&#{ord(sign)};")
    return f'<div class="said {how}" role="status">{text}</div>'

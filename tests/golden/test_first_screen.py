"""The first screen: short at 80 columns whatever a report holds, with the answer, what to do about it, and a way on."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import inspector
from inspector.records.fit import Advice, Cards, Fit, Purpose, Search, Tried, Uncertainty, Verdict
from inspector.records.model import QuantizationFacts
from inspector.records.notice import Notice
from inspector.records.report import Report
from inspector.render.sections import SECTIONS
from inspector.render.sections.report import build_report_document
from inspector.render.writers.layout import wrap
from inspector.render.writers.text import write_text
from tests.golden.render_reports import QWQ_LORA, REPORTS

GIB = 2**30
MOST_LINES = 28
CHANGES = (
    "--optimizer adamw_8bit",
    "--gradient-checkpointing --quantization nf4 --double-quant",
    "--gradient-checkpointing",
    "--lora r=16 --targets all-linear --quantization nf4 --double-quant",
    "--attention flash_attention_2",
)
MESSAGE = "Sequences of 1,024 tokens cannot run on this model, which has learned 512 positions: 512 were traced. " * 2


def print_report(report: Report, *shown: str, width: int = 80) -> str:
    """Return the report as text with the sections that are asked for."""
    stream = io.StringIO()
    write_text(build_report_document(report, shown), width=width, color=False, stream=stream)
    return stream.getvalue()


OUTCOMES = (Fit.NO, Fit.YES, Fit.TIGHT, Fit.UNKNOWN)


def judge(number: int, changes: int | None) -> Verdict:
    """Return a verdict on a card with so many changes, None where none were looked for: each outcome in its turn."""
    outcome = OUTCOMES[number % len(OUTCOMES)]
    purpose = Purpose.TURN_UP if outcome is Fit.YES else Purpose.FIT
    advice = [Advice(purpose=purpose, change=change, total_bytes=20 * GIB) for change in CHANGES[: changes or 0]]
    return Verdict(
        gpu=f"RTX PRO 60{number}0 Ada",
        memory_bytes=24 * GIB,
        overhead_bytes=GIB,
        usable_bytes=23 * GIB,
        outcome=outcome,
        headroom_bytes={Fit.NO: -GIB, Fit.UNKNOWN: None}.get(outcome, GIB),
        uncertainty=(
            Uncertainty(what="CUDA context", bytes=GIB, source="not measured on this card"),
            Uncertainty(what="desktop", bytes=GIB, source="an allowance, where this card shows one"),
        )
        if outcome is Fit.TIGHT
        else (),
        reason="MambaMixer goes through each sequence position by position" if outcome is Fit.UNKNOWN else None,
        advice=None if changes is None else advice,
    )


QUANTIZED = QuantizationFacts(
    method="nf4",
    source="request",
    double_quant=True,
    weight_bytes=GIB,
    scale_bytes=GIB,
    kept_bytes=GIB,
    dequantized_bytes=12 * GIB,
)
SEARCH = Search(
    quantity="seq-len",
    gpu="RTX PRO 6000 Ada",
    value=4096,
    fails=5000,
    most=2**24,
    margin_bytes=GIB,
    traces=9,
    tried=(Tried(value=4096, fits=True, total_bytes=20 * GIB),),
)


def fill(
    base: str, *, changes: int | None, cards: int, notices: int, rare: bool, packed: bool, traced: bool, searched: bool
) -> Report:
    """Return a report with anything that takes room on the first screen."""
    report = REPORTS[base]
    active = report.parameters.base // 3 if rare else None
    adapter = "somebody/adapter-of-a-model-with-a-long-name" if rare else report.model.adapter_id
    return dataclasses.replace(
        report,
        model=dataclasses.replace(report.model, adapter_id=adapter),
        parameters=dataclasses.replace(report.parameters, active=active),
        quantization=QUANTIZED if packed else None,
        memory=(report.memory or QWQ_LORA.memory) if traced else None,
        fit=tuple(judge(number, changes) for number in range(cards)) or None,
        search=SEARCH if searched else None,
        warnings=tuple(Notice(code=f"code-{number}", message=MESSAGE) for number in range(notices)),
    )


CONTENTS = st.fixed_dictionaries(
    {
        "changes": st.none() | st.integers(0, len(CHANGES)),
        "cards": st.integers(0, 9),
        "notices": st.integers(0, 8),
        **dict.fromkeys(("rare", "packed", "traced", "searched"), st.booleans()),
    }
)


@given(base=st.sampled_from(sorted(set(REPORTS) - {"hostile"})), contents=CONTENTS)
@settings(max_examples=200, deadline=None)
def test_any_first_screen_has_28_lines_at_most_with_every_verdict(base: str, contents: dict[str, Any]) -> None:
    """Whatever is left out for want of room, every card has its verdict and notices are counted."""
    report = fill(base, **contents)
    text = print_report(report)
    lines = text.splitlines()
    assert len(lines) <= MOST_LINES
    assert all(len(line) <= 80 for line in lines)
    flat = " ".join(text.split())
    assert all(verdict.gpu in flat for verdict in report.fit or ())
    shown = sum(line.startswith("! ") for line in lines)
    more = re.search(r"and (\d+) more: --show warnings", flat)
    counted = re.search(r"! Warnings: (\d+), see --show warnings", flat)
    assert (int(counted[1]) if counted else shown + (int(more[1]) if more else 0)) == len(report.warnings)
    assert "--details" in lines[-1] or "--details" in lines[-2]


@pytest.mark.parametrize("name", REPORTS)
def test_the_first_screen_of_a_golden_report_has_28_lines_at_most(name: str) -> None:
    assert len(print_report(REPORTS[name]).splitlines()) <= MOST_LINES


# A model without images, with images, an encoder-decoder, experts, one whose step is not traced, a forward pass.
SAMPLE: list[tuple[str, dict[str, Any]]] = [
    ("Qwen/Qwen2.5-0.5B", {"peft": inspector.LoraOptions(r=16, targets="all-linear"), "gpu": ["t4", "4090"]}),
    ("Qwen/Qwen2.5-0.5B", {"gpu": "t4", "fit": "batch-size", "advice": False}),
    ("Qwen/Qwen2.5-0.5B", {"workload": "forward"}),
    ("google/vit-base-patch16-224", {}),
    ("google-t5/t5-small", {}),
    ("state-spaces/mamba-130m-hf", {"recipe": {"seq_len": 8}}),
    ("Qwen/Qwen3-30B-A3B", {"count_only": True}),
]


@pytest.mark.parametrize(("model", "settings_"), SAMPLE)
@pytest.mark.one_of(2)
def test_the_first_screen_of_a_model_of_the_catalogue_is_short(
    model: str, settings_: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    report = inspector.inspect(model, offline=True, **settings_)
    text = print_report(report)
    assert len(text.splitlines()) <= MOST_LINES
    assert f"{report.parameters.base:,}" in text


def test_a_remedy_is_on_the_first_screen_with_what_it_takes() -> None:
    text = print_report(dataclasses.replace(QWQ_LORA, fit=(judge(0, 5),)))
    assert "no, at least 1.00 GiB are missing of 24.00 GiB" in text
    assert "fits with --optimizer adamw_8bit: 20.00 GiB total" in text
    assert "2 more: --show fit" in " ".join(text.split())


def test_a_tight_verdict_says_what_is_not_known_of_the_card() -> None:
    text = " ".join(print_report(dataclasses.replace(QWQ_LORA, fit=(judge(2, 1),))).split())
    assert "tight, 1.00 GiB to spare, 2.00 GiB are uncertain (CUDA context 1.00 GiB, desktop 1.00 GiB)" in text
    assert "fits with --optimizer adamw_8bit: 20.00 GiB total" in text


def test_a_verdict_that_nothing_is_known_of_says_why() -> None:
    assert "not known: MambaMixer goes through" in print_report(dataclasses.replace(QWQ_LORA, fit=(judge(3, None),)))


def test_several_cards_are_said_to_be_judged_alone() -> None:
    cards = Cards(count=2, state_bytes=50 * GIB, least_count=3)
    verdict = dataclasses.replace(judge(0, None), cards=cards)
    text = " ".join(print_report(dataclasses.replace(QWQ_LORA, fit=(verdict,))).split())
    assert "nothing is sharded; --fsdp would shard 50.00 GiB of weights, gradients and optimizer state: at" in text
    verdict = dataclasses.replace(verdict, cards=dataclasses.replace(cards, sharding="fsdp"))
    text = " ".join(print_report(dataclasses.replace(QWQ_LORA, fit=(verdict,))).split())
    assert "optimizer state, all of it sharded: at least 3 cards" in text


def test_a_no_where_what_is_allocated_fits_says_that_memory_is_fragmented() -> None:
    verdict = dataclasses.replace(judge(0, None), lies_in_pieces=True)
    text = " ".join(print_report(dataclasses.replace(QWQ_LORA, fit=(verdict,))).split())
    assert "no, what is allocated fits, but memory is fragmented: at least 1.00 GiB are missing of 24.00 GiB" in text


def test_a_notice_has_its_first_sentence_whole_and_is_never_cut_in_a_number_or_an_option() -> None:
    """What follows is left out sentence by sentence."""
    first = "The sequences of this run have 4,096 tokens, and use --seq-len 512 --lora r=16 where less memory is wanted"
    notices = tuple(Notice(code=f"x-{index}", message=f"{first}. {'More of it follows. ' * 30}") for index in range(4))
    text = " ".join(print_report(dataclasses.replace(QWQ_LORA, warnings=notices)).split())
    assert f"{first}." in text
    for width in range(30, 100):
        kept = wrap(f"{first} and 3.5 GiB", width, 1)[0].removesuffix(" …")
        assert kept
        assert not re.search(r"( --[a-z-]+| [\d.,]+)$", kept)


@pytest.mark.parametrize(
    ("defaults", "said"),
    [
        ((), None),
        (("seq_len", "optimizer", "loop"), "by default sequence length, optimizer"),
        (
            ("batch_size", "seq_len", "optimizer", "gradient_checkpointing", "mixed_precision", "attention"),
            "by default all of it",
        ),
    ],
)
def test_what_nobody_asked_for_is_said_below_the_recipe(defaults: tuple[str, ...], said: str | None) -> None:
    memory: Any = dataclasses.replace(QWQ_LORA.memory, defaults=defaults)  # type: ignore[type-var]
    text = " ".join(print_report(dataclasses.replace(QWQ_LORA, memory=memory)).split())
    assert ("by default" in text) == (said is not None)
    assert (said or "") in text


def test_figures_that_are_an_upper_bound_say_so() -> None:
    bound = "upper bound, dequantized: with its weights left in awq the step takes less"
    memory: Any = dataclasses.replace(QWQ_LORA.memory, upper_bound=bound)  # type: ignore[type-var]
    assert "figures upper bound, dequantized" in " ".join(
        print_report(dataclasses.replace(QWQ_LORA, memory=memory)).split()
    )


def test_figures_that_something_takes_less_and_something_more_than_are_no_bound() -> None:
    bounds = {
        "upper_bound": "upper bound: with a the step takes less",
        "lower_bound": "lower bound: with b it takes more",
    }
    memory: Any = dataclasses.replace(QWQ_LORA.memory, **bounds)  # type: ignore[type-var]
    lines = print_report(dataclasses.replace(QWQ_LORA, memory=memory)).splitlines()
    said = [" ".join(line.split()) for line in lines if line.lstrip().startswith("figures")]
    assert said == ["figures no bound: something takes less, and something more"]


def test_the_parts_on_the_first_screen_add_up_to_the_peak() -> None:
    text = print_report(QWQ_LORA)
    sizes = [int(size.replace(",", "")) for size in re.findall(r"^  .+? +([\d,]+) +[\d.]+ [GM]iB", text, re.MULTILINE)]
    *parts, peak, total = sizes
    assert sum(parts) == peak == QWQ_LORA.memory.peak_allocated_bytes  # type: ignore[union-attr]
    assert total == QWQ_LORA.memory.total_bytes  # type: ignore[union-attr]


def test_what_takes_most_is_named_before_what_could_be_turned_up() -> None:
    """Where there is no room for both: a remainder of more than half of the peak would say nothing of it."""
    text = print_report(dataclasses.replace(QWQ_LORA, quantization=QUANTIZED, fit=tuple(judge(1, 1) for _ in range(4))))
    assert "still fits" not in text
    assert len(re.findall(r"^  .+? +[\d,]+ +[\d.]+ [GM]iB +[\d.]+ %$", text, re.MULTILINE)) >= 4


def test_without_a_traced_step_the_first_screen_has_the_static_bytes() -> None:
    text = print_report(dataclasses.replace(QWQ_LORA, memory=None, fit=None))
    assert re.search(r"static bytes +67,675,236,864", text)
    assert "peak" not in text


def test_the_most_important_notices_come_first() -> None:
    """What makes a figure another one is not pushed out by what one may do without."""
    codes = ("hash-seed", "unverified-version", "renamed", "seq-len-clamped", "not-traced")
    notices = tuple(Notice(code=code, message=f"This is {code}. " * 12) for code in codes)
    shown = re.findall(
        r"^! This is ([\w-]+)", print_report(dataclasses.replace(QWQ_LORA, warnings=notices)), re.MULTILINE
    )
    assert shown[:2] == ["not-traced", "seq-len-clamped"]


def test_sections_that_are_asked_for_follow_the_first_screen() -> None:
    """In the order of all, whatever order they were asked in; what the report does not have is said."""
    text = print_report(QWQ_LORA, "tree", "adapter", "search")
    assert re.findall(r"^[A-Z].*$", text.partition("\n\n")[2], re.MULTILINE) == [
        "Adapter",
        "Modules",
        "More: --details, --show training (names in --help); inference: --generate",
    ]
    assert "There is nothing to show for search in this report." in text


@pytest.mark.parametrize(
    ("kind", "is_named"),
    [
        ("Qwen2ForCausalLM", True),
        ("T5ForConditionalGeneration", True),
        ("GPT2LMHeadModel", True),
        ("BertForMaskedLM", False),
        ("ViTForImageClassification", False),
    ],
)
def test_what_generates_has_a_way_on_to_what_inference_takes(kind: str, is_named: bool) -> None:
    """A line on it would double what the report costs; where no step was asked for, there is no such pointer."""
    model = dataclasses.replace(QWQ_LORA.model, model_class=kind)
    report = dataclasses.replace(QWQ_LORA, model=model)
    assert ("inference: --generate" in print_report(report)) is is_named
    counted = dataclasses.replace(report, memory=None, static=None)
    assert "inference: --generate" not in print_report(counted)


def test_all_sections_end_with_the_versions() -> None:
    text = print_report(QWQ_LORA, *SECTIONS)
    assert "inspector 0.1.0, torch 2.13.0" in text.splitlines()[-1]
    assert "--details" not in text
    assert "nothing to show" not in text

"""How the base weights are quantized: which of them, what they weigh, and whether an adapter can be trained on them."""

from __future__ import annotations

from collections.abc import Iterator

from inspector.errors import one_line
from inspector.records.model import QuantizationFacts
from inspector.render.document import Kind, Row, Section, Table, Tone, column, row
from inspector.render.names import fold_names, shorten_list
from inspector.units import format_bytes, format_count

__all__ = ["build_quantization_section"]

_SOURCES = {"request": "as bitsandbytes does while it loads", "checkpoint": "as the checkpoint is stored"}

# What happens before an adapter trains, by the names of `Preparation`.
_PREPARATIONS = {
    "peft": "PEFT prepares the rest: what is in half precision becomes float32",
    "none": "nothing is upcast",
    "axolotl": "PEFT prepares the rest; norms, embeddings and the head are bfloat16 again",
}


def build_quantization_section(facts: QuantizationFacts) -> Section:
    """Return what is quantized, the sizes that add up to what is loaded, and what else there is to know."""
    columns = (column("", Kind.LABEL), column("", Kind.WORDS))
    blocks = [Table(columns=columns, rows=tuple(_list_facts(facts)))]
    if facts.loaded_bytes is not None:
        blocks.append(_build_sizes(facts))
    return Section(title="Quantized weights", blocks=tuple(blocks))


def _list_facts(facts: QuantizationFacts) -> Iterator[Row]:
    """Yield the facts that are words."""
    scales = {True: ", scales packed too (double quantization)", False: "", None: ""}[facts.double_quant]
    yield row(("method", f"{one_line(facts.method)}, {_SOURCES[facts.source]}{scales}"), tone=Tone.KEY)
    if facts.compute_dtype:
        yield row(("products", f"in {facts.compute_dtype}, of weights that are unpacked for each"))
    if facts.parameters is not None and facts.modules is not None:
        modules = f"{format_count(facts.modules_count or 0)} module{'' if facts.modules_count == 1 else 's'}"
        yield row(("quantized", f"{format_count(facts.parameters)} weights of {modules}"))
        yield from (row(("", name)) for name in shorten_list(fold_names(facts.modules)))
    for index, name in enumerate(shorten_list(fold_names(facts.kept or ()))):
        yield row(("kept in float" if index == 0 else "", name))
    trains = {True: "can be trained on them as they are", False: "cannot be trained on them as they are", None: None}
    answer = trains[facts.trains]
    if answer is not None:
        yield row(("an adapter", answer))
    if facts.preparation:
        yield row(("before", _PREPARATIONS[facts.preparation]))
    if facts.note:
        yield row(("", one_line(facts.note, 300)), tone=Tone.WARN if facts.loaded_bytes is None else Tone.PLAIN)
    if facts.loaded_bytes is None:
        size = f"{format_count(facts.dequantized_bytes)} bytes ({format_bytes(facts.dequantized_bytes)})"
        yield row(("dequantized", size))


def _build_sizes(facts: QuantizationFacts) -> Table:
    """Return the parts of what is loaded, and beside it what the same weights take in float."""
    assert facts.weight_bytes is not None
    assert facts.scale_bytes is not None
    assert facts.kept_bytes is not None
    assert facts.loaded_bytes is not None
    parts = [
        ("packed weights", facts.weight_bytes),
        ("scales and what else unpacks them", facts.scale_bytes),
        ("kept in float", facts.kept_bytes),
        ("loaded as they are", facts.loaded_bytes),
        ("loaded dequantized", facts.dequantized_bytes),
    ]
    if facts.stored_bytes is not None:
        parts.append(("stored in the checkpoint", facts.stored_bytes))
    columns = (column("", Kind.NAME), column("bytes", Kind.NUMBER), column("", Kind.NUMBER, quiet=True))
    rows = [
        row(
            (label, format_count(size), format_bytes(size)),
            tone=Tone.TOTAL if label == "loaded as they are" else Tone.PLAIN,
        )
        for label, size in parts
    ]
    return Table(columns=columns, rows=tuple(rows))

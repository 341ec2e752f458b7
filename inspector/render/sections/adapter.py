"""What the adapter is, what it hit and what it missed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from inspector.errors import one_line
from inspector.records.model import AdapterFacts, MatchedNames
from inspector.render.document import Kind, Row, Section, Table, Tone, column, row
from inspector.render.names import fold_names, format_exact_bytes, label_values, shorten_list
from inspector.units import format_count

__all__ = ["build_adapter_section"]

# Fields of a PEFT config that say nothing about this adapter, or that stand elsewhere in the report.
_OTHER_FIELDS = {
    "peft_type",
    "peft_version",
    "task_type",
    "base_model_name_or_path",
    "auto_mapping",
    "revision",
    "inference_mode",
    "modules_to_save",
}

# What a trainer may cast it to; else it is as PEFT made it.
_DTYPES = ("float32", "bfloat16")


def build_adapter_section(adapter: AdapterFacts) -> Section:
    """Return what the adapter is, what it hit and what it missed."""
    columns = (column("", Kind.LABEL), column("", Kind.WORDS))
    rows = [row(("type", adapter.type), tone=Tone.KEY)]
    options = _format_options(adapter.config)
    if options:
        rows.append(row(("options", options)))
    if adapter.targets:
        count = adapter.targets.matched_count
        rows.append(row(("targets", f"{format_count(count)} {'module' if count == 1 else 'modules'}")))
        rows += _list_matched("", adapter.targets)
    if adapter.modules_to_save:
        rows += _list_matched("trained whole", adapter.modules_to_save)
    if adapter.dtype in _DTYPES:
        rows.append(row(("trains in", f"{adapter.dtype}, as the trainer casts it")))
    size = "not known: it depends on the values of the weights"
    if adapter.file_bytes is not None:
        size = f"{format_exact_bytes(adapter.file_bytes)}: adapter_model.safetensors as PEFT saves it"
    rows.append(row(("file size", size)))
    return Section(title="Adapter", blocks=(Table(columns=columns, rows=tuple(rows)),))


def _format_options(config: Mapping[str, object]) -> str:
    """Return the options that were set, as `name=value`: the record holds those alone that differ from PEFT's defaults.

    What was turned off is among them: `init_lora_weights=False`.
    """
    shown = {name: value for name, value in config.items() if name not in _OTHER_FIELDS}
    return ", ".join(f"{one_line(name, 60)}={one_line(_convert_option(value), 200)}" for name, value in shown.items())


def _convert_option(value: object) -> object:
    """Return a list without Python's brackets, a set in the order of the alphabet, and what holds nothing as none."""
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=str)
    if value is None or value in ("", [], (), {}):
        return "none"
    return "/".join(str(item) for item in value) if isinstance(value, (list, tuple)) else value


def _list_matched(label: str, names: MatchedNames) -> Iterator[Row]:
    """Yield the names that were hit, siblings on one line, and loudly those that hit nothing."""
    matched = shorten_list(fold_names(names.matched))
    if matched or label:
        yield from label_values(label, matched or ["none"])
    for missed in label_values("not found", shorten_list(one_line(name) for name in names.unmatched)):
        yield row(missed.cells, tone=Tone.WARN)

"""What docs/evidence/accuracy.md says of ranks and cards: recorded rows, and figures that others published.

`python -m tests.evidence.truth.rank_page` writes that part of the page anew and leaves the rest as it is.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from inspector.arguments.forms import build_request
from inspector.distributed.run import trace_rank
from inspector.hardware.platform import Platform
from inspector.memory.timeline import Timeline, fold
from inspector.model.build import build_whole
from inspector.records.steps.ranks import Fsdp1
from inspector.source.read import read_files
from inspector.workloads.registry import TRAINING, load_workload
from tests.evidence.truth.card_rows import predict_cards
from tests.evidence.truth.rank_rows import predict_rank

__all__ = [
    "CARDS",
    "CARD_BYTES",
    "HEADING",
    "PAGE",
    "PUBLISHED",
    "RANKS",
    "build_platform",
    "name_row",
    "predict_published",
    "write_card_lines",
    "write_published_line",
    "write_rank_line",
]

_FOLDER = Path(__file__).parent / "stand_in"
PAGE = Path(__file__).parents[3] / "docs" / "evidence" / "accuracy.md"
RANKS: Mapping[str, Any] = json.loads((_FOLDER / "ranks.json").read_text(encoding="utf-8"))
CARDS: Mapping[str, Any] = json.loads((_FOLDER / "cards.json").read_text(encoding="utf-8"))
PUBLISHED: Mapping[str, Any] = json.loads((Path(__file__).parent / "published_ranks.json").read_text(encoding="utf-8"))
# What FAKE_TOTAL says of the memory of a card.
CARD_BYTES = 85_000_000_000
HEADING = "## Ranks and cards of one run"
_FIGURES = ("peak_allocated_bytes", "peak_reserved_bytes", "end_of_step_allocated_bytes")
_HEAD = f"""{HEADING}

A rank of a real `transformers.Trainer`, or a model on two cards, on torch's CUDA build over stand-ins for the CUDA
runtime and for NCCL ([tests/evidence/stand_in](../../tests/evidence/stand_in/README.md)): Accelerator, FSDP, DDP,
tensor parallelism, accelerate's hooks and ProcessGroupNCCL are real, other ranks are not there, and collectives take no
time. {{ranks}} ranks and {{cards}} models on two cards; figures are of the second update, in bytes, and the difference
is predicted minus measured. No machine with several GPUs has confirmed one yet. Made by
`python -m tests.evidence.truth.rank_page`.
"""
_COLUMNS = (
    "\n| run | peak allocated | difference | peak reserved | difference | end of step | difference |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
)
_PUBLISHED = """
### Figures that others published of each rank

On real GPUs, by others, with other releases: a distance is no error of one side alone. GiB; the difference is of the
published figure.

| run | figure | published | predicted | difference | what differs |
| --- | --- | ---: | ---: | ---: | --- |
"""


def build_platform(record: Mapping[str, Any]) -> Platform:
    """Return the platform of a record."""
    major, minor = record["torch"].split(".")[:2]
    return Platform(
        compute_capability=tuple(record["compute_capability"]),
        multiprocessors=record["multiprocessors"],
        threads_per_multiprocessor=record["threads_per_multiprocessor"],
        torch_version=(int(major), int(minor)),
    )


def name_row(row: Mapping[str, Any]) -> str:
    """Name a row by its model, what trains, its launch and what is special in its recipe."""
    options = [f"{key} {value}" for key, value in row["recipe"].items() if key != "seq_len"]
    launch = row.get("launch", {"device_map": row.get("device_map")})
    words = [_describe(key, value) for key, value in launch.items()]
    packing = row.get("quantization")
    packed = [f"{packing['method']} in {packing['storage']}, preparation {packing['preparation']}"] if packing else []
    kind = ["LoRA" if row.get("lora") else "full", row["dtype"], *packed]
    tokens = f"{row['recipe']['seq_len']} tokens"
    return ", ".join([f"{row['model']} ({row['layers']} layers)", *kind, *words, tokens, *options])


def _describe(key: str, value: Any) -> str:
    """Return a setting of a launch in words; of a file of DeepSpeed that of its stage."""
    if key == "device_map" and isinstance(value, Mapping):
        return "a map of its own"
    if isinstance(value, Mapping):
        inner = value.get("zero_optimization", value)
        return " ".join(f"{name} {_name_device(item)}" for name, item in inner.items())
    return str(value) if key == "strategy" else f"{key.replace('_', ' ')} {value}"


def _name_device(item: Any) -> str:
    """Return a setting, of a part that is offloaded where to."""
    return f"{item['device']}{' pinned' * item.get('pin_memory', False)}" if isinstance(item, Mapping) else str(item)


def write_rank_line(row: Mapping[str, Any], predicted: Mapping[str, int]) -> str:
    """Return the line of a rank whose figures are predicted."""
    return _write_line(name_row(row), row["measured"], predicted)


def write_card_lines(row: Mapping[str, Any], predicted: Sequence[Mapping[str, int]]) -> Iterator[str]:
    """Yield a line for each card of a row."""
    for card, (measured, found) in enumerate(zip(row["measured"]["cards"], predicted, strict=True)):
        yield _write_line(f"{name_row(row)}, card {card}", measured, found)


def write_published_line(row: Mapping[str, Any]) -> str:
    """Return the line of a published figure."""
    share = row["predicted_gib"] / row["published_gib"] - 1
    cells = (row["run"], row["figure"], f"{row['published_gib']:.2f}", f"{row['predicted_gib']:.2f}", f"{share:+.1%}")
    return f"| {' | '.join((*cells, row['cause']))} |\n"


def predict_published(row: Mapping[str, Any]) -> float:
    """Return what a published figure is predicted to be, in GiB."""
    found: int = getattr(_trace_published(row["seq_len"]), f"peak_{row['figure']}_bytes")
    return found / 2**30


@functools.lru_cache(maxsize=1)
def _trace_published(seq_len: int) -> Timeline:
    """Return the published run at a sequence length, on an RTX 3090's kernels, without clipping."""
    lora = {"peft_type": "LORA", "r": 64, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": "all-linear"}
    recipe = {"optimizer": "adamw_torch", "mixed_precision": "bf16", "max_grad_norm": 0.0, "seq_len": seq_len}
    request, _ = build_request(
        model="meta-llama/Llama-2-7b-hf",
        peft=lora,
        autocast_adapter_dtype=False,
        recipe={**recipe, "gradient_checkpointing": True},
        dtype="bfloat16",
        offline=True,
    )
    built, workload = build_whole(request, read_files(request, lambda _stage: None)), load_workload(TRAINING)
    platform = Platform(
        compute_capability=(8, 6), multiprocessors=82, threads_per_multiprocessor=1536, torch_version=(2, 13)
    )
    settled = workload.resolve(built.model, request.recipe)
    return fold(trace_rank(workload, built, settled, platform, Fsdp1(world_size=2))).drop_events()


def _write_line(name: str, measured: Mapping[str, int], predicted: Mapping[str, int]) -> str:
    cells = [name]
    for key in _FIGURES:
        difference = predicted[key] - measured[key]
        cells += [f"{measured[key]:,}", f"{difference:+,}" if difference else "0"]
    return f"| {' | '.join(cells)} |\n"


def write_section() -> Iterator[str]:
    """Yield the parts of the section, every row predicted anew but the published ones."""
    yield _HEAD.format(ranks=len(RANKS["rows"]), cards=len(CARDS["rows"])) + _COLUMNS
    for row in RANKS["rows"]:
        yield write_rank_line(row, predict_rank(row, build_platform(RANKS)))
    for row in CARDS["rows"]:
        yield from write_card_lines(row, predict_cards(row, build_platform(CARDS), CARD_BYTES))
    yield _PUBLISHED
    yield from map(write_published_line, PUBLISHED["rows"])
    yield f"\n{PUBLISHED['left_out']}\n"


def main() -> None:
    """Write the section anew at the end of the page."""
    before = PAGE.read_text(encoding="utf-8").partition(HEADING)[0].rstrip("\n")
    PAGE.write_text(f"{before}\n\n{''.join(write_section())}", encoding="utf-8")


if __name__ == "__main__":
    main()

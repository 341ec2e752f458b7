"""The options of serving engines, by the engines' own names, and the record that they make.

Standard library and click only, as `options`.
"""

from __future__ import annotations

import re
from typing import Any

import click

from inspector.errors import UsageError, quoted
from inspector.records.engines.serving import OPTIONS_OF, Engine, ServingOptions

__all__ = ["OF_ENGINES", "read_serving"]

# vLLM reads lengths so (utils/argparse_utils.py, `human_readable_int`): 32k is 32,000 and 32K is 32,768.
_UNITS = {"": 1, **{unit: 1000**power for power, unit in enumerate("kmgt", 1)}} | {
    unit: 1024**power for power, unit in enumerate("KMGT", 1)
}


def _read_number(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """Return the integer that a text is, with a unit where somebody wrote one."""
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]{1,15})(?:\.([0-9]{1,9}))?([kmgtKMGT]?)", value.strip())
    if match is None:
        raise click.BadParameter(f"{quoted(value, 40)} is no integer; give one, as 32768, 32k (32,000) or 32K (32,768)")
    whole, part, unit = match.groups()
    if part and unit not in ("k", "m", "g", "t"):
        raise click.BadParameter(f"{quoted(value, 40)} has decimals, which only k, m, g and t take")
    number: int = int(f"{whole}{part or ''}") * _UNITS[unit] // 10 ** len(part or "")
    return number


_PLAIN: tuple[tuple[str, str, str], ...] = (
    ("--max-model-len", "N", "vLLM: tokens of the longest request (32k is 32,000, 32K 32,768); default: the model's."),
    (
        "--max-num-seqs",
        "N",
        "vLLM: requests that run at once; default: 256, on GPUs of 70 GiB and more but A100 1024.",
    ),
    ("--max-num-batched-tokens", "N", "vLLM: tokens of one step; default: 2048, 8192 or 16384 by the GPU."),
    ("--kv-cache-memory-bytes", "N", "vLLM: size of the KV cache in bytes, instead of --gpu-memory-utilization."),
    ("--tensor-parallel-size", "N", "vLLM, SGLang: number of GPUs that weights and heads are split over."),
    ("--block-size", "N", "vLLM: tokens of a block; default: 16, with latent attention 64."),
    ("--context-length", "N", "SGLang: tokens of the longest request; default: the model's."),
    ("--max-running-requests", "N", "SGLang: requests that run at once."),
    ("--chunked-prefill-size", "N", "SGLang: tokens of a chunk; default: by the GPU."),
    ("--page-size", "N", "SGLang: tokens of a page; default: 1."),
    ("--ctx-size", "N", "llama.cpp: tokens of all sequences together; default: what the file was trained for."),
    ("--parallel", "N", "llama.cpp: sequences; default: 4 on one unified cache."),
    ("--ubatch-size", "N", "llama.cpp: tokens of a micro-batch; default: 512."),
    ("--n-gpu-layers", "N", "llama.cpp: layers on the GPU, the output as one more; default: all."),
)
OF_ENGINES: tuple[click.Parameter, ...] = (
    click.Option(
        ["--engine"],
        type=click.Choice(Engine.values()),
        help="Report on serving with this engine instead of a step: weights, KV cache, how many requests. llama.cpp "
        "takes GGUF files (./model.gguf, org/name:Q4_K_M). Its own options are under Serving engines.",
    ),
    *(click.Option([name], callback=_read_number, metavar=unit, help=words) for name, unit, words in _PLAIN),
    click.Option(
        ["--gpu-memory-utilization"],
        type=float,
        metavar="FRACTION",
        help="vLLM: fraction of the GPU's memory that it takes; default: 0.92.",
    ),
    click.Option(
        ["--mem-fraction-static"],
        type=float,
        metavar="FRACTION",
        help="SGLang: fraction of the GPU's memory for weights and pools; default: by the GPU.",
    ),
    click.Option(
        ["--kv-cache-dtype"], metavar="TYPE", help="vLLM, SGLang: auto, bfloat16, fp8_e4m3 and the like; default: auto."
    ),
    click.Option(["--cache-type-k"], metavar="TYPE", help="llama.cpp: f16, q8_0, q4_0 and the like; default: f16."),
    click.Option(["--cache-type-v"], metavar="TYPE", help="llama.cpp: the same for values."),
    click.Option(["--flash-attn"], metavar="on|off|auto", help="llama.cpp: flash attention; default: auto."),
    click.Option(
        ["--kv-unified/--no-kv-unified"],
        default=None,
        help="llama.cpp: one cache for all sequences; default: by --parallel.",
    ),
    click.Option(["--enforce-eager"], is_flag=True, default=None, help="vLLM: no CUDA graphs."),
)
_NAMES = tuple(dict.fromkeys(name for names in OPTIONS_OF.values() for name in names))


def read_serving(values: dict[str, Any]) -> ServingOptions | None:
    """Return the engine with its options, which leave `values`; None where no engine was asked for.

    Raises UsageError for an option of an engine without one.
    """
    engine = values.pop("engine")
    given = {name: value for name in _NAMES if (value := values.pop(name)) is not None}
    if engine is not None:
        return ServingOptions(engine=engine, **given)
    if given:
        name = next(iter(given))
        owner = next(engine for engine, names in OPTIONS_OF.items() if name in names)
        raise UsageError(f"`{name}` is an option of a serving engine: add `engine={owner}`, or drop it.")
    return None

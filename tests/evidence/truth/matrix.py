"""The rows that a GPU is held to: models, recipes and adapters that take every path of the trace at least once.

`python -m tests.evidence.truth.matrix FOLDER` runs `inspect measure` for each row on the GPU at hand, one process each,
and writes the records into the folder; tests/evidence/truth takes them as they are. Names of rows after the folder, or
patterns of them such as 'generate-*', run these alone. `python -m tests.evidence.truth.matrix pack FOLDER FILE` puts
the records of a folder into one file, a row on a line, without what they share and without the predictions, which are
made anew wherever they are needed. A model is cut to a few layers where its kind matters and its size does not, so that
a row takes seconds.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inspector.records.recipe import Recipe
from tests.evidence.truth.generation_rows import GENERATION_ROWS
from tests.evidence.truth.kind_rows import KIND_ROWS
from tests.evidence.truth.matrix_row import MatrixRow, cut

__all__ = ["OF_EVERY_ROW", "ROWS", "MatrixRow", "cut", "pack", "run_row"]

# What a row does that names nothing else: the first ones were measured so, and records leave it out.
OF_EVERY_ROW: Mapping[str, Any] = {
    "optimizer": "adamw_torch",
    "gradient_checkpointing": False,
    "use_reentrant": False,
    "images": 0,
}

_ALL = "--targets all-linear"
_QV = "--targets q_proj,v_proj"
_TINY = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
_INT8 = "--quantization int8 --lora r=16"
_BF16 = "--mixed-precision bf16 --gradient-checkpointing"
_NF4 = f"--quantization nf4 --double-quant --lora r=16 {_ALL}"

_STORED_NF4 = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
}


def _row(
    name: str, model: str, layers: int | None, options: str = "", stored: Mapping[str, Any] | None = None
) -> MatrixRow:
    named = options.split()
    if "--optimizer" not in named:
        options = f"{options} --optimizer {OF_EVERY_ROW['optimizer']}"
    if "--gradient-checkpointing" not in named:
        options = f"{options} --no-gradient-checkpointing"
    return MatrixRow(name=name, model=model, layers=layers, options=options.strip(), stored=stored)


_SMALL = "Qwen/Qwen2.5-0.5B"
# What the stand-in calls itself; how much memory it has is said to it.
_STAND_IN = "Stand-in GPU"
_DEFAULTS = {**{field.name: field.default for field in dataclasses.fields(Recipe)}, **OF_EVERY_ROW}

ROWS = (
    # Every way to train, on one dense model with grouped queries and biases.
    _row("full", _SMALL, 3),
    _row("full-plain", _SMALL, 3, "--loop plain"),
    _row("full-fused", _SMALL, 3, "--optimizer adamw_torch_fused"),
    _row("full-one-by-one", _SMALL, 3, "--optim-args foreach=False"),
    _row("full-sgd", _SMALL, 3, "--optimizer sgd"),
    _row("full-sgd-momentum", _SMALL, 3, "--optimizer sgd --optim-args momentum=0.9"),
    _row("full-adafactor", _SMALL, 3, "--optimizer adafactor"),
    _row("full-adagrad", _SMALL, 3, "--optimizer adagrad"),
    _row("full-rmsprop", _SMALL, 3, "--optimizer rmsprop"),
    _row("full-no-clipping", _SMALL, 3, "--max-grad-norm 0 --loop plain"),
    _row("full-checkpointing", _SMALL, 3, "--gradient-checkpointing"),
    _row("full-accumulation", _SMALL, 3, "--gradient-accumulation 2"),
    _row("full-float32", _SMALL, 3, "--dtype float32"),
    _row("full-float16", _SMALL, 3, "--dtype float16"),
    _row("full-batch", _SMALL, 3, "--batch-size 4 --seq-len 2048 --no-padding"),
    _row("full-padded", _SMALL, 3, "--batch-size 4 --seq-len 512"),
    _row("lora", _SMALL, 3, f"--lora r=16 {_ALL}"),
    _row("lora-dropout", _SMALL, 3, f"--lora r=16,dropout=0.05 {_ALL}"),
    _row("lora-plain", _SMALL, 3, f"--lora r=16,dropout=0.05 {_ALL} --loop plain"),
    _row("lora-dora", _SMALL, 3, f"--lora r=16,dora {_ALL}"),
    _row("lora-rslora", _SMALL, 3, f"--lora r=16,alpha=32,rslora {_ALL}"),
    _row("lora-saved", _SMALL, 3, f"--lora r=16 {_ALL} --modules-to-save lm_head"),
    _row("lora-bias", _SMALL, 3, f"--lora r=16,bias=all {_ALL}"),
    _row("lora-checkpointing", _SMALL, 3, f"--lora r=16,dropout=0.05 {_ALL} --gradient-checkpointing --loop plain"),
    _row("lora-accumulation", _SMALL, 3, f"--lora r=16 {_ALL} --gradient-accumulation 3"),
    _row("lora-eager", _SMALL, 3, f"--lora r=16 {_ALL} --attention eager"),
    _row("lora-efficient", _SMALL, 3, f"--lora r=16 {_ALL} --sdpa-backend efficient --batch-size 2"),
    _row("lora-math", _SMALL, 3, f"--lora r=16 {_ALL} --sdpa-backend math --seq-len 512"),
    _row("lora-flash", _SMALL, 3, f"--lora r=16 {_ALL} --sdpa-backend flash"),
    _row("lora-padded", _SMALL, 3, f"--lora r=16 {_ALL} --batch-size 4 --seq-len 512"),
    _row("lora-float32", _SMALL, 3, f"--lora r=16 {_ALL} --dtype float32 --batch-size 2 --no-padding"),
    _row("lora-float16", _SMALL, 3, f"--lora r=16 {_ALL} --dtype float16"),
    _row("prompt-tuning", _SMALL, 3, '--peft \'{"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 20}\''),
    _row("ln-tuning", "meta-llama/Llama-3.2-1B", 3, '--peft \'{"peft_type": "LN_TUNING"}\''),
    _row(
        "lora-reentrant",
        _SMALL,
        3,
        f"--lora r=16 {_ALL} --modules-to-save embed_tokens --gradient-checkpointing --use-reentrant",
    ),
    _row("full-cache", _SMALL, 3, "--use-cache"),
    _row("lora-expandable", _SMALL, 3, f"--lora r=16 {_ALL} --alloc-conf expandable_segments:True"),
    _row("lora-max-split", _SMALL, 3, f"--lora r=16 {_ALL} --alloc-conf max_split_size_mb:64"),
    # Losses and kernels of packages.
    _row("loss-fused", _SMALL, 3, f"--loss fused --attention-mask {_BF16} --dtype float32"),
    _row("loss-fused-lora", _SMALL, 3, f"--lora r=16 {_ALL} --loss fused --attention-mask {_BF16}"),
    _row("loss-chunked", _SMALL, 3, "--loss chunked --attention-mask"),
    _row("loss-liger", _SMALL, 3, "--loss liger"),
    _row("liger", _SMALL, 3, "--liger auto"),
    _row("liger-lora", _SMALL, 3, f"--lora r=16 {_ALL} --liger auto --gradient-checkpointing"),
    _row("loss-cce", _SMALL, 3, "--loss cce"),
    # Mixed precision.
    _row("full-bf16", _SMALL, 3, "--dtype float32 --mixed-precision bf16"),
    _row("full-bf16-plain", _SMALL, 3, "--dtype float32 --mixed-precision bf16 --loop plain"),
    _row("full-fp16", _SMALL, 3, "--dtype float32 --mixed-precision fp16"),
    _row("full-bf16-checkpointing", _SMALL, 3, "--dtype float32 --mixed-precision bf16 --gradient-checkpointing"),
    _row("lora-bf16", _SMALL, 3, f"--lora r=16,dropout=0.05 {_ALL} --mixed-precision bf16"),
    _row("lora-fp16", _SMALL, 3, f"--lora r=16,dropout=0.05 {_ALL} --dtype float16 --mixed-precision fp16"),
    _row("lora-bf16-padded", _SMALL, 3, f"--lora r=16 {_ALL} --mixed-precision bf16 --batch-size 4 --seq-len 512"),
    _row("bert-bf16", "google-bert/bert-base-uncased", 3, "--dtype float32 --mixed-precision bf16 --seq-len 512"),
    # Kinds of models.
    _row("gpt2", "openai-community/gpt2", 3),
    _row("gpt2-lora", "openai-community/gpt2", 3, f"--lora r=16,dropout=0.05 {_ALL}"),
    _row("gemma-2-eager", "google/gemma-2-2b", 3, "--attention eager --seq-len 512"),
    _row("gemma-3", "google/gemma-3-1b-it", 7, f"--lora r=16 {_ALL}"),
    _row("opt", "facebook/opt-1.3b", 3),
    _row("pythia", "EleutherAI/pythia-1.4b", 3),
    _row("phi-2", "microsoft/phi-2", 3),
    _row("phi-3", "microsoft/Phi-3-mini-4k-instruct", 3, f"--lora r=8 {_ALL}"),
    _row("falcon", "tiiuae/falcon-7b", 2, f"--lora r=16 {_ALL}"),
    _row("bloom-eager", "bigscience/bloom-7b1", 2, "--attention eager --seq-len 512"),
    _row("mistral", "mistralai/Mistral-7B-v0.1", 2, "--seq-len 512"),
    _row("starcoder2", "bigcode/starcoder2-7b", 2, f"--lora r=16 {_ALL}"),
    _row("qwen3", "Qwen/Qwen3-0.6B", 3),
    _row("olmo-2", "allenai/OLMo-2-1124-7B", 2, f"--lora r=16 {_ALL}"),
    _row("llama-3.1-padded", "meta-llama/Meta-Llama-3.1-8B", 2, f"--lora r=16 {_ALL} --batch-size 2"),
    _row("mixtral", "mistralai/Mixtral-8x7B-v0.1", 1, f"--lora r=8 {_QV} --seq-len 512"),
    _row("qwen3-experts", "Qwen/Qwen3-30B-A3B", 2, f"--lora r=8 {_QV} --seq-len 512"),
    _row("olmoe", "allenai/OLMoE-1B-7B-0924", 2, "--seq-len 512"),
    _row("deepseek-v2-lite", "deepseek-ai/DeepSeek-V2-Lite", 2, "--lora r=8 --targets q_proj --seq-len 512"),
    _row("bert", "google-bert/bert-base-uncased", 3, "--seq-len 512"),
    _row("roberta-padded", "FacebookAI/roberta-large", 3, "--seq-len 256 --batch-size 4"),
    _row("t5-small", "google-t5/t5-small", None, "--seq-len 256"),
    _row(
        "bart",
        "facebook/bart-large",
        None,
        "--model-class BartForConditionalGeneration --seq-len 256 --batch-size 2 --no-padding",
    ),
    _row("whisper-small", "openai/whisper-small", None, "--seq-len 64"),
    _row("vit", "google/vit-base-patch16-224", None, "--batch-size 8"),
    _row("clip", "openai/clip-vit-base-patch32", None, "--batch-size 8 --seq-len 32 --no-padding"),
    _row("llava-text", "llava-hf/llava-1.5-7b-hf", 2, f"--lora r=8 {_QV} --images 0"),
    # Quantized bases.
    _row("nf4", _SMALL, 3, _NF4),
    _row("nf4-checkpointing", _SMALL, 3, f"{_NF4} {_BF16} --seq-len 2048"),
    _row("nf4-plain", _SMALL, 3, f"--quantization nf4 --lora r=16,dropout=0.05 {_ALL} --loop plain"),
    _row("nf4-float16", _SMALL, 3, f"{_NF4} --dtype float16 --mixed-precision fp16"),
    _row("nf4-float32", _SMALL, 3, f"{_NF4} --dtype float32"),
    _row("nf4-padded", _SMALL, 3, f"{_NF4} --mixed-precision bf16 --batch-size 4 --seq-len 512"),
    _row("nf4-few-tokens", _SMALL, 3, f"{_NF4} --seq-len 16"),
    _row("nf4-accumulation", _SMALL, 3, f"{_NF4} --gradient-accumulation 2 --gradient-checkpointing"),
    _row("nf4-saved", _SMALL, 3, f"{_NF4} --modules-to-save lm_head"),
    _row("nf4-8bit", _SMALL, 3, f"{_NF4} --optimizer adamw_8bit"),
    _row("nf4-paged-8bit", _SMALL, 3, f"{_NF4} --optimizer paged_adamw_8bit --gradient-checkpointing"),
    _row("nf4-paged-32bit", _SMALL, 3, f"{_NF4} --optimizer paged_adamw_32bit"),
    _row("fp4", _SMALL, 3, f"--quantization fp4 --lora r=16 {_ALL} --mixed-precision bf16"),
    _row("int8", _SMALL, 3, f"{_INT8} {_ALL} --dtype float16"),
    _row("int8-checkpointing", _SMALL, 3, f"{_INT8},dropout=0.05 {_ALL} --gradient-checkpointing"),
    _row("full-8bit", _SMALL, 3, "--optimizer adamw_8bit"),
    _row("full-paged-32bit", _SMALL, 3, "--optimizer paged_adamw_32bit"),
    _row("full-lion-8bit", _SMALL, 3, "--optimizer lion_8bit"),
    _row("nf4-tinyllama", _TINY, 2, _NF4),
    _row("nf4-llama-3.1", "meta-llama/Meta-Llama-3.1-8B", 2, f"{_NF4} {_BF16}"),
    _row("nf4-mistral", "mistralai/Mistral-7B-v0.1", 2, f"{_NF4} --seq-len 512"),
    _row("nf4-gemma-2", "google/gemma-2-2b", 2, f"{_NF4} --attention eager --seq-len 512"),
    _row("nf4-phi-3", "microsoft/Phi-3-mini-4k-instruct", 2, _NF4),
    _row("nf4-qwen3", "Qwen/Qwen3-0.6B", 3, _NF4),
    _row("nf4-gpt2", "openai-community/gpt2", 3, f"{_NF4} --dtype bfloat16"),
    _row("nf4-opt", "facebook/opt-1.3b", 3, f"{_NF4} --dtype bfloat16"),
    _row("nf4-mixtral", "mistralai/Mixtral-8x7B-v0.1", 1, f"--quantization nf4 --lora r=8 {_QV} --seq-len 512"),
    _row("int8-mistral", "mistralai/Mistral-7B-v0.1", 2, f"{_INT8} {_ALL} --seq-len 512"),
    _row("int8-gpt2", "openai-community/gpt2", 3, f"{_INT8} {_ALL} --dtype bfloat16"),
    _row("nf4-t5", "google-t5/t5-small", None, "--quantization nf4 --lora r=8 --targets q,v --seq-len 256"),
    _row("nf4-whisper", "openai/whisper-small", None, f"--quantization nf4 --lora r=8 {_QV} --seq-len 64"),
    _row("nf4-llava-text", "llava-hf/llava-1.5-7b-hf", 2, f"--quantization nf4 --lora r=8 {_QV} --images 0"),
    _row("stored-nf4", _TINY, 2, f"--lora r=16 {_ALL} {_BF16}", _STORED_NF4),
    _row("stored-nf4-single", _SMALL, 3, f"--lora r=16 {_ALL}", {**_STORED_NF4, "bnb_4bit_use_double_quant": False}),
    _row("stored-fp4", _SMALL, 3, f"--lora r=16 {_ALL}", {**_STORED_NF4, "bnb_4bit_quant_type": "fp4"}),
    _row("stored-int8", _TINY, 2, f"--lora r=16 {_ALL}", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    # Whole models, up to 32 B.
    _row("smollm2-135m", "HuggingFaceTB/SmolLM2-135M", None, "--batch-size 2 --seq-len 512"),
    _row("qwen2.5-0.5b", _SMALL, None),
    _row("llama-3.2-1b", "meta-llama/Llama-3.2-1B", None, f"--lora r=16,dropout=0.05 {_ALL}"),
    _row("deepseek-r1-1.5b", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", None, "--dtype float16 --seq-len 512"),
    _row("llama-3.2-3b", "meta-llama/Llama-3.2-3B", None, f"--lora r=32 {_QV} --batch-size 2"),
    _row("qwen2.5-7b", "Qwen/Qwen2.5-7B", None, f"--lora r=16 {_ALL} --gradient-checkpointing"),
    _row("qwen2.5-14b", "Qwen/Qwen2.5-14B", None, f"--lora r=16 {_ALL} --gradient-checkpointing --seq-len 512"),
    _row("nf4-llama-3.2-1b", "meta-llama/Llama-3.2-1B", None, f"{_NF4} {_BF16}"),
    _row("int8-llama-3.2-1b", "meta-llama/Llama-3.2-1B", None, f"{_INT8} {_ALL}"),
    _row("nf4-qwq-32b", "Qwen/QwQ-32B", None, f"{_NF4} {_BF16} --seq-len 2048"),
    _row("qwq-32b", "Qwen/QwQ-32B", None, f"--lora r=16,dropout=0.05 {_ALL}"),
    _row("qwq-32b-checkpointing", "Qwen/QwQ-32B", None, f"--lora r=16,dropout=0.05 {_ALL} --gradient-checkpointing"),
    *GENERATION_ROWS,
    *KIND_ROWS,
)


def run_row(each: MatrixRow, folder: Path) -> str:
    """Measure one row and write its record; return a line on what came out."""
    output = (folder / f"{each.name}.json").resolve()
    options = shlex.split(each.options)
    root = str(Path(__file__).parents[3])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    # The stand-in for a GPU computes nothing: this says how a mask that asks for its values is answered there.
    padded = "--batch-size" in options and "--no-padding" not in options
    # bitsandbytes asks whether there are any outliers under int8, generation whether an id is negative: there are none.
    has_none = each.generates or "int8" in each.name
    answers = {"FAKE_BOOL": "0" if padded else "1", **({"FAKE_ANY": "0"} if has_none else {})}
    environment = {**os.environ, "PYTHONPATH": path, **answers, **(each.answers or {})}
    with tempfile.TemporaryDirectory() as work:
        model = each.model
        if each.is_changed:
            model = f"./{each.model.rpartition('/')[2]}-{each.layers or 'all'}-layers"
            (Path(work) / model).mkdir()
            config = cut(each.model, each.layers, each.stored, each.fields)
            (Path(work) / model / "config.json").write_text(json.dumps(config), encoding="utf-8")
        program = "inspector" if each.answers is None else "tests.evidence.stand_in.answered"
        command = [sys.executable, "-W", "ignore", "-m", program, "measure", model, "--offline", *options]
        command += ["--json", "--output", str(output)]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"{each.name}: {done.stderr.strip()[-400:]}"
    found = json.loads(output.read_text(encoding="utf-8"))
    found["row"] = each.name
    if each.is_changed:
        found["model"]["id"] = f"{each.model}, {each.layers or 'all'} layers"
    output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    differs = [
        f"{after['step']} {after['name']} {key} {before[key] - after[key]:+,}"
        for before, after in zip(found["predicted"]["phases"], found["measured"]["phases"], strict=True)
        for key in after
        if key.endswith("_bytes") and before[key] != after[key]
    ]
    return f"{each.name}: {'; '.join(differs[:4]) or 'equal'}" + (
        f" ({found.get('differing', [''])[0]})" if differs else ""
    )


def pack(folder: Path, path: Path) -> None:
    """Write the records of a folder into one file."""
    shared: dict[str, Any] = {}
    lines = []
    for each in ROWS:
        if not (folder / f"{each.name}.json").exists():
            continue
        record = json.loads((folder / f"{each.name}.json").read_text(encoding="utf-8"))
        common = {key: record.pop(key) for key in ("schema", "source", "gpu", "versions")}
        for key in ("free_bytes", "memory_bytes") if common["gpu"]["name"] == _STAND_IN else ("free_bytes",):
            common["gpu"].pop(key)
        if (shared or common) != common:
            raise ValueError(f"{each.name} was measured on another machine, or with other versions")
        shared = common
        if each.is_changed:
            if record.pop("config") != cut(each.model, each.layers, each.stored, each.fields):
                raise ValueError(f"{each.name} was measured with another configuration")
            record["model"] = {**record["model"], "id": each.model}
            record |= {"layers": each.layers} if each.layers is not None else {}
            record |= {"stored": dict(each.stored)} if each.stored is not None else {}
            record |= {"fields": dict(each.fields)} if each.fields is not None else {}
        for key in ("predicted", "differing", "differing_count", "notices"):
            record.pop(key, None)
        record["recipe"] = {key: value for key, value in record["recipe"].items() if value != _DEFAULTS.get(key)}
        lines.append(json.dumps({"row": each.name, **record}))
    head = json.dumps(shared, indent=1)[: -len("\n}")]
    rows = ",\n  ".join(lines)
    path.write_text(f'{head},\n "rows": [\n  {rows}\n ]\n}}\n', encoding="utf-8")


def main() -> None:
    """Measure the rows that the command line names, or all; or pack records."""
    folder, *names = sys.argv[1:]
    if folder == "pack":
        pack(Path(names[0]), Path(names[1]))
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    for each in ROWS:
        if not names or any(fnmatch.fnmatch(each.name, name) for name in names):
            print(run_row(each, Path(folder)), flush=True)


if __name__ == "__main__":
    main()

"""Time an answer from a training file against the same options typed: reading should cost under 0.1 s.

Whole processes alternate, so that whatever else the machine does hits both alike. The figures are of processor time,
which other processes lengthen least: medians, their difference and ratio, and the spread of the difference. Run it
with the Python that the inspector is installed in:

    python benchmarks/training_file.py [ROUNDS]

Both stop after the counts, and run without network (HF_HUB_OFFLINE=1): what follows is the same step in both.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["INSPECTOR_CACHE"] = "off"  # each run works its answer out

FILE = """\
model_name_or_path: Qwen/Qwen2.5-0.5B
use_peft: true
lora_r: 16
lora_target_modules: all-linear
per_device_train_batch_size: 4
gradient_accumulation_steps: 2
max_length: 1024
learning_rate: 2.0e-4
gradient_checkpointing: true
bf16: true
optim: adamw_torch_fused
output_dir: out
"""
TYPED = [
    *("Qwen/Qwen2.5-0.5B", "--dtype", "float32", "--lora", "r=16,alpha=32,dropout=0.05", "--targets", "all-linear"),
    *("--batch-size", "4", "--gradient-accumulation", "2", "--seq-len", "1024", "--gradient-checkpointing"),
    *("--mixed-precision", "bf16", "--optimizer", "adamw_torch_fused", "--loss", "fused", "--attention-mask"),
]


def processor_seconds(arguments: list[str]) -> float:
    """Return the processor time of one process of the command, in user and in kernel code."""
    command = [sys.executable, "-m", "inspector", *arguments, "--count-only"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})  # noqa: S603
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the medians, their difference and ratio, and the spread of the difference over the rounds."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.yaml"
        file.write_text(FILE, encoding="utf-8")
        read = [str(file), "--framework", "trl==1.16"]
        for arguments in (TYPED, read):
            processor_seconds(arguments)  # fill the file cache and the bytecode cache
        pairs = [(processor_seconds(TYPED), processor_seconds(read)) for _ in range(rounds)]
    typed, from_file = (statistics.median(times) for times in zip(*pairs, strict=True))
    extra = sorted(later - earlier for earlier, later in pairs)
    print(f"typed       {typed:.2f} s of processor time")
    print(f"from file   {from_file:.2f} s")
    print(f"difference  {statistics.median(extra):+.3f} s   {extra[0]:+.3f} to {extra[-1]:+.3f} over {rounds} rounds")
    print(f"ratio       {from_file / typed:.3f}")


if __name__ == "__main__":
    main()

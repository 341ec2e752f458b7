"""The whole catalogue is counted in one process within the memory that the issue allows for a single model.

The peak is read from the process's own memory map where there is one: `getrusage` of a child starts at what its parent
had, because exec keeps the larger of the two peaks and the child of a `vfork` shares its parent's memory until then
(`setmax_mm_hiwater_rss` in Linux' fs/exec.c). A test run that had grown to 2 GB would read as this child's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

COUNT_ALL = """
import pathlib, resource, sys
import inspector
from inspector.source import catalogue

adapter = {"peft_type": "LORA", "r": 16, "target_modules": "all-linear"}
for name in catalogue.list_ids():
    inspector.inspect(name, offline=True, count_only=True)
    if name in ("moonshotai/Kimi-K2-Instruct", "meta-llama/Meta-Llama-3.1-405B", "deepseek-ai/DeepSeek-V3"):
        inspector.inspect(name, peft=adapter, offline=True)
status = pathlib.Path("/proc/self/status")
if status.exists():
    line = next(each for each in status.read_text().splitlines() if each.startswith("VmHWM:"))
    print(int(line.split()[1]) * 1024)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


def test_every_catalogue_entry_is_counted_within_one_and_a_half_gib(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", COUNT_ALL],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HOME": str(tmp_path)},
    )
    # The peak of the process covers all models one after the other, so it bounds each of them.
    assert int(run.stdout) < 1.5 * 2**30, f"{int(run.stdout):,} bytes"

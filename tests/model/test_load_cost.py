"""What loading takes, beside the anonymous memory of a process that really loads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import transformers

from inspector.pipeline import run
from inspector.records.request import Request
from inspector.runtime.quiet import silence_output
from tests.cli.running import run_process

# Experts of 4 x (8 x 3 x 512 x 2048), 384 MiB in float32; one fused gate and up has 64 MiB.
MIXTRAL: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 1_000,
    "num_local_experts": 8,
}
MIB = 2**20

# Anonymous memory while loading, at most: tensors that are no views of a mapped file.
LOAD = """
import sys, threading, time
import torch, transformers
path, name, dtype = sys.argv[1:]
def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon:"))
getattr(transformers, name)._from_config(transformers.AutoConfig.from_pretrained(path, num_hidden_layers=1))
before, most, done = anonymous(), 0, False
def watch():
    global most
    while not done:
        most = max(most, anonymous() - before)
        time.sleep(0.001)
watcher = threading.Thread(target=watch)
watcher.start()
model = getattr(transformers, name).from_pretrained(path, dtype=getattr(torch, dtype))
done = True
watcher.join()
print(most)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own account")
def test_a_real_load_takes_what_the_report_says(tmp_path: Path) -> None:
    """Cast to float32 as it is read, a model of experts is in memory once, and its largest fused parameter twice.

    glibc is told to give freed tensors back at once (MALLOC_MMAP_THRESHOLD_); by itself it keeps some.
    """
    name = "MixtralForCausalLM"
    with silence_output():
        config = transformers.MixtralConfig(**MIXTRAL, architectures=[name], dtype="bfloat16")
        transformers.MixtralForCausalLM._from_config(config).save_pretrained(tmp_path)
    environment = {"MALLOC_MMAP_THRESHOLD_": "100000", "HF_HUB_OFFLINE": "1"}
    ran = run_process(sys.executable, "-c", LOAD, str(tmp_path), name, "float32", environment=environment)
    assert ran.code == 0, ran.err
    report = run(Request(model=str(tmp_path), count_only=True, dtype="float32"))
    assert report.checkpoint is not None
    assert report.checkpoint.loading is not None
    expected_bytes = report.checkpoint.loading[0].host_bytes
    # The gates and ups of 8 experts, 2048 x 512 each.
    assert expected_bytes - report.parameters.bytes - 4 * report.parameters.buffers == 4 * 8 * 2 * 2048 * 512
    # Interpreter and caches: 3 MiB here.
    assert abs(int(ran.out) - expected_bytes) < 8 * MIB

"""Record what loading threads leave: `python -m tests.evidence.stand_in.record_loading_threads`.

The NF4 step of tests/evidence/truth was measured on a T4 with transformers 5.0, whose loading threads bring float
weights to the GPU while the main thread packs them. Which of these come between decides where blocks end up. Here the
order is that of two threads (a hosted T4 has two cores, and 5.0 takes as many threads as there are) that need a
constant time and one in proportion to the bytes, each up to 5 % more or less at random: a seed makes a run. Figures of
the runs are written into tests/evidence/truth/nf4_loading_t4.json.

For torch 2.10 with transformers 5.0.0, peft 0.19.1 and bitsandbytes 0.49.2 on the stand-in of a T4 (README.md).
"""

from __future__ import annotations

import copy
import gc
import heapq
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import core_model_loading
from transformers.integrations import sdpa_attention

RECORD = Path(__file__).parents[1] / "truth" / "nf4_loading_t4.json"
MODEL = Path(__file__).parents[3] / "fixtures" / "models" / "TinyLlama__TinyLlama-1.1B-Chat-v1.0.json"
RUNS = 20
THREADS = 2
# Time in MiB of reading: what a weight takes beside its bytes, and which share of these it is on the GPU already.
CONSTANT = 3.0
ON_THE_GPU = 0.3
VARIATION = 0.05


class Job:
    """A weight on its way to the GPU."""

    def __init__(self, pool: Pool, number: int, load: Callable[[], Any], size: float) -> None:
        self.load, self.size, self.number = load, size, number
        self.arrives = self.allocated = 0.0
        self._pool = pool
        self._value: Any = None

    def run(self) -> None:
        """Bring the weight to the GPU."""
        self._value = self.load()

    def result(self) -> Any:
        """Return the weight, once everything that comes before it has happened."""
        self._pool.wait_for(self)
        value, self._value = self._value, None
        return value


class Pool:
    """In the place of a ThreadPoolExecutor: the same jobs in the order of their times."""

    generator = random.Random(0)

    def __init__(self, max_workers: int) -> None:
        self._jobs: list[Job] = []
        self._order: list[Job] | None = None

    def submit(self, load: Callable[[], Any]) -> Job:
        """Take a job; what it loads is found in its closure."""
        names = load.__code__.co_freevars
        cells = [cell.cell_contents for cell in load.__closure__ or ()]
        tensor = dict(zip(names, cells, strict=True))["tensor"]
        self._jobs.append(Job(self, len(self._jobs), load, tensor.nbytes / 2**20))
        return self._jobs[-1]

    def wait_for(self, job: Job) -> None:
        """Run every job whose memory is taken by the time that `job` is there."""
        if self._order is None:
            self._order = self._timed()
        while self._order and self._order[0].allocated <= job.arrives:
            self._order.pop(0).run()

    def _timed(self) -> list[Job]:
        """Give each job its times, and return them by when their memory is taken."""
        free = [0.0] * THREADS
        for job in self._jobs:
            variation = 1 + VARIATION * self.generator.uniform(-1, 1)
            job.arrives = heapq.heappop(free) + (CONSTANT + job.size) * variation
            job.allocated = job.arrives - ON_THE_GPU * job.size
            heapq.heappush(free, job.arrives)
        return sorted(self._jobs, key=lambda job: (job.allocated, job.number))

    def shutdown(self, **_: Any) -> None:
        """Do nothing."""


def loaded(config: Any, checkpoint: dict[str, torch.Tensor]) -> Any:
    """Load and prepare the model as the harness of the measurement did."""
    quantization = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float16
    )
    model = transformers.LlamaForCausalLM.from_pretrained(
        None,
        config=copy.deepcopy(config),
        state_dict=checkpoint,
        dtype=torch.float16,
        quantization_config=quantization,
        attn_implementation="sdpa",
    )
    model.config.use_cache = False
    model = peft.prepare_model_for_kbit_training(model, gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    adapter = peft.LoraConfig(r=32, lora_alpha=64, target_modules=targets, task_type="CAUSAL_LM")
    attached = peft.get_peft_model(model, adapter).train()
    gc.collect()
    return attached


def figures(config: Any, checkpoint: dict[str, torch.Tensor]) -> dict[str, int]:
    """Load, run two steps, and return the figures of the measurement."""
    cuda = torch.cuda
    cuda.reset_peak_memory_stats()
    model = loaded(config, checkpoint)
    found = {"loaded_allocated_bytes": cuda.memory_allocated()}
    optimizer = torch.optim.AdamW([item for item in model.parameters() if item.requires_grad], foreach=True)
    ids = torch.zeros((2, 1024), dtype=torch.int64, device="cuda")
    for _ in range(2):
        cuda.reset_peak_memory_stats()
        outputs = model(input_ids=ids, labels=ids)
        found["forward_peak_allocated_bytes"] = cuda.max_memory_allocated()
        cuda.reset_peak_memory_stats()
        outputs.loss.backward()
        found["backward_peak_allocated_bytes"] = cuda.max_memory_allocated()
        cuda.reset_peak_memory_stats()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        found["optimizer_peak_allocated_bytes"] = cuda.max_memory_allocated()
        del outputs
    # Nothing is given back to the driver after loading, so that what is reserved is the most that was.
    return found | {"peak_reserved_bytes": cuda.memory_reserved()}


def main() -> None:
    """Record the runs, the device emptied between them."""
    # The harness repeated K and V for grouped queries.
    sdpa_attention.use_gqa_in_sdpa = lambda *_: False
    vars(core_model_loading).update(ThreadPoolExecutor=Pool, Future=Job)
    config = transformers.LlamaConfig(**json.loads(MODEL.read_text(encoding="utf-8"))["config"])
    with torch.device("meta"):
        shapes = {name: item.shape for name, item in transformers.LlamaForCausalLM(config).named_parameters()}
    block = torch.zeros(max(shape.numel() for shape in shapes.values()), dtype=torch.float16)
    checkpoint = {name: block[: shape.numel()].view(shape) for name, shape in shapes.items()}
    runs = []
    for seed in range(RUNS):
        Pool.generator = random.Random(seed)
        with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
            runs.append(figures(config, checkpoint))
        gc.collect()
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    record["two_threads"] = runs
    RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

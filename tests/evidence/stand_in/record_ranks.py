"""Record a rank of a real Trainer on torch's CUDA build: `python -m tests.evidence.stand_in.record_ranks`.

Each recipe of tests/evidence/truth/stand_in/ranks.json runs in a process of its own, as one rank of a world whose other
ranks are not there: torch's ProcessGroupNCCL, FSDP2, DDP, accelerate's Accelerator and Trainer are real, NCCL is a
stand-in whose collectives do nothing (nccl.c). The figures are written back.
"""

from __future__ import annotations

import functools
import importlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import accelerate
import peft
import torch
import torch.distributed as dist
import torch.nn.parallel.distributed
import transformers
from transformers import masking_utils

from inspector.compat.deepspeed import release_in_order
from inspector.measure.quantized import load_quantized_model
from inspector.source import catalogue
from inspector.workloads.base import base_model
from tests.evidence.stand_in.record_trainer import Reader, describe_platform
from tests.evidence.truth.rank_rows import build_rank
from tests.evidence.truth.trainer_rows import build

RECORD = Path(__file__).parents[1] / "truth" / "stand_in" / "ranks.json"
# The watchdog of ProcessGroupNCCL looks every 100 ms for what is done; a real step takes longer than these.
_PAUSE_SECONDS = 0.3


class PausingReader(Reader):
    """Read the allocator around the second update, and leave the watchdog time between updates."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wait, then start the peaks anew."""
        time.sleep(_PAUSE_SECONDS)
        if state.global_step == 0:
            self.load_peak = torch.cuda.max_memory_allocated()
        super().on_step_begin(args, state, control, **kwargs)


def know_one_sequence_a_row() -> None:
    """Have transformers read that rows hold one sequence each, whatever FAKE_BOOL says: ZeRO asks for another answer.

    Where it reads that they do not, it makes a mask, and attention is another kernel.
    """
    find: Any = masking_utils.find_packed_sequence_indices

    def find_none(*args: Any, **kwargs: Any) -> None:
        find(*args, **kwargs)  # which takes what it takes

    masking_utils.find_packed_sequence_indices = find_none  # for the rest of the process


def know_finite_norms() -> None:
    """Have DeepSpeed read that no gradient overflowed where it asks numbers in host memory, which no kernel wrote.

    It leaves an update out where one did, and with it what gathers small weights again.
    """
    for name in ("stage3", "stage_1_and_2"):
        module: Any = importlib.import_module(f"deepspeed.runtime.zero.{name}")
        module.is_invalid_grad_norm = functools.partial(_ask_in_vain, module.is_invalid_grad_norm)


def _ask_in_vain(find: Callable[..., bool], *args: Any) -> bool:
    """Return no, once it has taken what it takes to ask."""
    find(*args)
    return False


def measured(row: dict[str, Any]) -> dict[str, int]:
    """Run three updates of a rank and return the figures of the second."""
    know_one_sequence_a_row()
    if row["launch"]["strategy"] == "zero":
        know_finite_norms()
        release_in_order()  # for the rest of the process, as that of addresses differs from run to run
    launch, recipe = row["launch"], row["recipe"]
    rank, size = launch.get("rank", 0), launch["world_size"]
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    os.environ["TORCH_NCCL_ENABLE_MONITORING"] = "0"
    torch.cuda.set_device(0)
    # What it asks the other ranks nobody answers.
    setattr(torch.nn.parallel.distributed, "_verify_param_shape_across_processes", lambda *_args: None)  # noqa: B010  # private
    # NCCL's communicators begin with what rank 0 sends; torch's own fake group stands in for another rank's.
    if rank:
        from torch.testing._internal.distributed.fake_pg import FakeStore

        dist.init_process_group("fake", rank=rank, world_size=size, store=FakeStore())
    else:
        backend = "nccl"
        if launch.get("fsdp_config", {}).get("cpu_offload"):  # norms are reduced on the host
            importlib.import_module("torch.testing._internal.distributed.fake_pg")
            backend = "cpu:fake,cuda:nccl"
        dist.init_process_group(backend, rank=rank, world_size=size, store=dist.HashStore())  # type: ignore[attr-defined]  # torch lists it nowhere
    length, rows = recipe["seq_len"], recipe.get("batch_size", 1)
    accumulation = recipe.get("gradient_accumulation", 1)
    reader = PausingReader()
    strategy: dict[str, Any] = {"ddp_find_unused_parameters": launch.get("find_unused_parameters")}
    if launch["strategy"] == "fsdp2":
        strategy = {"fsdp": True, "fsdp_config": {"version": 2, **launch.get("fsdp_config", {})}}
    if "replicas" in launch and launch["strategy"] == "fsdp2":
        copies = launch["replicas"]
        meshes = accelerate.ParallelismConfig(dp_replicate_size=copies, dp_shard_size=size // copies)
        strategy = {**strategy, "parallelism_config": meshes}
    elif "replicas" in launch:  # FSDP1 shards over the cards of a machine
        setattr(torch.cuda, "device_count", lambda: size // launch["replicas"])  # noqa: B010  # this one has fewer
    if "environment" in launch:  # as `accelerate launch` sets it
        os.environ.update({"ACCELERATE_USE_FSDP": "true", **launch["environment"]})
        strategy = {name: value for name, value in strategy.items() if name == "parallelism_config"}
    elif launch["strategy"] == "fsdp1":
        strategy = {"fsdp": True, "fsdp_config": {"version": 1, **launch.get("fsdp_config", {})}}
    if launch["strategy"] == "zero":
        strategy = {"deepspeed": json.loads(json.dumps(launch["config"]))}  # it is filled in
    arguments = transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=accumulation,
        gradient_checkpointing=recipe.get("gradient_checkpointing", False),
        optim=recipe.get("optimizer", "adamw_torch_fused"),
        bf16=recipe.get("mixed_precision") == "bf16",
        max_steps=3,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **strategy,
    )
    tokens = [1] * length
    model = load(row)
    transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=[{"input_ids": tokens, "labels": tokens}] * (rows * 3 * accumulation * size),
        callbacks=[reader],
        data_collator=lambda items: {key: torch.tensor([item[key] for item in items]) for key in items[0]},
    ).train()
    of_load = {"load_peak_allocated_bytes": reader.load_peak} if row.get("quantization") else {}
    return {**of_load, **reader.figures}


def load(row: dict[str, Any]) -> Any:
    """Return the model of a row: in host memory, or on the card where transformers and bitsandbytes pack it there."""
    if row.get("quantization"):
        device = torch.device("cpu") if row["launch"].get("packed_on") == "host" else torch.device("cuda", 0)
        return load_quantized_model(build_rank(row), device)
    if row["launch"]["strategy"] == "tensor_parallel":
        return cut(row)
    if row["launch"].get("config", {}).get("zero_optimization", {}).get("stage") == 3:
        return build_partitioned(row)
    model: Any = build(row).to_empty(device="cpu")
    base_model(model).tie_weights()
    return model


def cut(row: dict[str, Any]) -> Any:
    """Return the model of a row on the card, cut as `from_pretrained` does before weights are loaded."""
    from torch.distributed.device_mesh import init_device_mesh
    from transformers.distributed.configuration_utils import DistributedConfig
    from transformers.distributed.utils import TransformersDeviceMesh
    from transformers.initialization import no_tie_weights

    count, size = row["launch"]["tensor_parallel"], row["launch"]["world_size"]
    experts = row["launch"].get("expert_parallel", 1)
    with no_tie_weights():
        model: Any = build({**row, "lora": None})
    dense = init_device_mesh("cuda", (1, 1, size // count, count), mesh_dim_names=("pp", "dp_replicate", "fsdp", "tp"))
    names = ("pp", "dp_replicate", "efsdp", "ep")
    expert = init_device_mesh("cuda", (1, 1, size // experts, experts), mesh_dim_names=names)
    config = DistributedConfig(tp_size=count, fsdp_size=size // count, ep_size=experts)
    if experts > 1:
        choose_experts_in_turn()
    model = type(model).maybe_distribute_model(model, config, TransformersDeviceMesh(dense, expert))
    model.to_empty(device="cuda")
    model.tie_weights()
    adapter = peft.LoraConfig(task_type="CAUSAL_LM", **row["lora"]) if "lora" in row else None
    return model if adapter is None else peft.get_peft_model(model, adapter)


def choose_experts_in_turn() -> None:
    """Have transformers read how many tokens go to which rank where a router takes experts in turn, for good.

    A stand-in's kernels choose none; the other ranks are taken to route as this one does.
    """
    from transformers.distributed.expert_parallel import AllToAllEP

    dispatch: Any = getattr(AllToAllEP, "_dispatch_tokens")  # noqa: B009  # private
    read: Any = torch.Tensor.tolist

    def dispatch_in_turn(self: Any, states: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> Any:
        ranks, own = self.ep_mesh.size(), self.num_local_experts
        pairs = -(-len(states) // self.tp_mesh.size()) * index.shape[-1]
        counts = [len(range(expert, pairs, ranks * own)) for expert in range(ranks * own)]
        sent = [sum(counts[first : first + own]) for first in range(0, ranks * own, own)]
        received = [sent[self.ep_mesh.get_local_rank()]] * ranks

        def answer(tensor: torch.Tensor) -> Any:
            found = read(tensor)
            return [sent, received] if tensor.shape == (2, ranks) else found

        setattr(torch.Tensor, "tolist", answer)  # noqa: B010  # of a class in C
        try:
            return dispatch(self, states, index, weights)
        finally:
            setattr(torch.Tensor, "tolist", read)  # noqa: B010

    setattr(AllToAllEP, "_dispatch_tokens", dispatch_in_turn)  # noqa: B010  # private


def build_partitioned(row: dict[str, Any]) -> Any:
    """Return the model of a row as transformers builds it under ZeRO-3: each parameter is cut once it is made."""
    files = catalogue.load_model(row["model"])
    assert files is not None
    config = transformers.AutoConfig.for_model(**files.config)
    config.num_hidden_layers = row["layers"]
    config.layer_types = config.layer_types[: row["layers"]]
    head: Any = transformers.AutoModelForCausalLM
    model = head.from_config(config, dtype=getattr(torch, row["dtype"]))
    return peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **row["lora"])) if "lora" in row else model


def answer(connection: Connection, function: Callable[..., Any], *arguments: Any) -> None:
    """Send what a function returns, and end without torch's clean-up: NCCL's threads do not always survive it."""
    connection.send(function(*arguments))
    connection.close()
    sys.stdout.flush()
    os._exit(0)


def run_alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns in a process of its own."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=answer, args=(theirs, function, *arguments))
    process.start()
    theirs.close()
    found = ours.recv()  # EOFError where it died
    process.join()
    return found


def write_record(path: Path, measure: Callable[[dict[str, Any]], Any]) -> None:
    """Run every row and write the record; with numbers on the command line, print the figures of these rows."""
    record = json.loads(path.read_text(encoding="utf-8"))
    if chosen := sys.argv[1:]:
        print(json.dumps([run_alone(measure, record["rows"][int(number)]) for number in chosen]))
        return
    rows = [{**row, "measured": run_alone(measure, row)} for row in record["rows"]]
    platform = run_alone(describe_platform)
    path.write_text(json.dumps({**record, **platform, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_record(RECORD, measured)

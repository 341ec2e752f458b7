"""Small models whose layers have kernels of their own, and what a step of each allocates with stand-ins for them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
import transformers

import inspector
from inspector.hardware.platform import Platform, find_installed_torch
from inspector.records.tape import Category, Event, EventKind
from inspector.trace.rules.any_device import treat_meta_as_device
from inspector.trace.rules.autocast import apply_autocast_rules
from inspector.trace.rules.cuda import apply_cuda_rules
from inspector.trace.scan_kernels import provide_scan_kernels
from inspector.trace.target import trace_for
from inspector.trace.tracer import Tracer
from inspector.workloads.batch import make_batch_inputs
from inspector.workloads.inputs import make_item
from inspector.workloads.training.loops import run_plain_steps
from tests.trace.cpu_truth import adamw, trained
from tests.trace.small_models import COMMON, GROUPED, SMALL

_STATES: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_chunk_size": 8}
_DELTA: dict[str, Any] = {
    **GROUPED,
    "head_dim": 16,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
}
FIELDS: dict[str, dict[str, Any]] = {
    **{name: SMALL[name].fields for name in ("mamba", "falcon_mamba", "jamba", "zamba", "rwkv")},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 2, "state_size": 16, "chunk_size": 8, "expand": 2},
    "bamba": {**GROUPED, **_STATES, "mamba_n_groups": 1, "attn_layer_indices": [1], "mamba_expand": 2},
    "falcon_h1": {**GROUPED, **_STATES, "mamba_n_groups": 2, "mamba_d_ssm": 128, "head_dim": 16},
    "nemotron_h": {
        **GROUPED,
        "mamba_num_heads": 8,
        "mamba_head_dim": 16,
        "n_groups": 2,
        "ssm_state_size": 16,
        "chunk_size": 8,
        "hybrid_override_pattern": "M-*",
    },
    "zamba2": {
        "num_hidden_layers": 5,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid", "mamba"],
        "num_key_value_heads": 4,
        "n_mamba_heads": 8,
        "mamba_ngroups": 2,
        "mamba_d_state": 16,
        "chunk_size": 8,
        "mamba_expand": 2,
        "adapter_rank": 4,
        "num_mem_blocks": 1,
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
    },
    "qwen3_next": {
        **_DELTA,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    },
    "qwen3_5_text": _DELTA,
    "olmo_hybrid": {**_DELTA, "linear_num_key_heads": 4, "linear_value_head_dim": 32},
}
# How each is traced: its dtype, or autocast from float32.
WAYS = {"float32": (torch.float32, "no"), "bfloat16": (torch.bfloat16, "no"), "autocast": (torch.float32, "bf16")}
# Norms of float32 weights make what the kernel refuses.
CASES = [(name, way) for name in FIELDS for way in WAYS if (name, way) not in {("jamba", "autocast")}]


def trace_step(name: str, way: str) -> list[int]:
    """Return the signed sizes of the second step of full fine-tuning on two sequences; frees in a row are sorted.

    In which order a function's locals end when it returns changes no later request.
    """
    dtype, mixed_precision = WAYS[way]
    config = transformers.AutoConfig.for_model(name, **COMMON | FIELDS[name])
    recipe = inspector.Recipe(batch_size=2, seq_len=24, padding=False)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(dtype).train()
        batch = {
            key: make_item(item, lambda part: part.on("meta")) for key, item in make_batch_inputs(model, recipe).items()
        }
    platform = Platform(torch_version=find_installed_torch())
    optimizer, tracer = adamw(trained(model)), Tracer(platform)
    tracer.hold((*model.parameters(), *model.buffers()), Category.WEIGHTS)
    with contextlib.ExitStack() as rules:
        rules.enter_context(trace_for(platform))
        rules.enter_context(apply_cuda_rules(platform))
        if mixed_precision != "no":
            rules.enter_context(apply_autocast_rules())
        for context in (treat_meta_as_device(), provide_scan_kernels(model, "hub"), tracer):
            rules.enter_context(context)
        run_plain_steps(model, batch, optimizer, tracer.enter, steps=2, mixed_precision=mixed_precision)
    return _sort_frees(event for event in tracer.tape() if event.step == 2)


def _sort_frees(events: Iterable[Event]) -> list[int]:
    """Return the signed sizes of events, those of frees in a row sorted."""
    sizes: list[int] = []
    row: list[int] = []
    for event in events:
        if event.kind is EventKind.FREE:
            row.append(-event.bytes)
            continue
        sizes += [*sorted(row), event.bytes]
        row = []
    return [*sizes, *sorted(row)]

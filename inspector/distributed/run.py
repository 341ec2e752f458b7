"""A training step on one rank of several -> its tape."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from typing import Any

from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel

from inspector.compat.distributed import defer_reduction, tell_fsdp1_storages_apart, tell_uses_of_fsdp1
from inspector.distributed.ddp import wrap_with_ddp
from inspector.distributed.fsdp1 import hold_units, list_roles, shard_with_fsdp1
from inspector.distributed.fsdp2 import shard_with_fsdp2
from inspector.distributed.local_optimizer import step_on_local_tensors
from inspector.distributed.parts import explain_parts
from inspector.distributed.tensor_parallel import bring_to_card, cut_by_plan, split_groups_by_mesh
from inspector.distributed.tracer import RankTracer
from inspector.distributed.two_devices import tell_host_from_card
from inspector.distributed.world import begin_world
from inspector.distributed.wrapping import refuse_unknown_layers
from inspector.distributed.zero import begin_engine
from inspector.hardware.platform import Platform
from inspector.model.adapter.butterfly import stand_in_for_extension
from inspector.model.adapter.peft_names import find_owner
from inspector.model.build import BuiltModel
from inspector.records.recipe import Recipe
from inspector.records.steps.ranks import Ddp, Fsdp1, Fsdp2, RankLaunch, TensorParallel, Zero
from inspector.records.tape import Category, Event, Phase
from inspector.runtime.patches import restore_changes
from inspector.trace.meta_cache import Results
from inspector.trace.rules.any_device import treat_meta_as_device
from inspector.trace.rules.assumed import find_byte_patches
from inspector.trace.rules.cuda import apply_cuda_rules
from inspector.trace.rules.flash_attn import provide_flash_attention
from inspector.trace.rules.moe_routing import loops_over_experts
from inspector.trace.rules.sparse import stand_in_for_sparse_matrices
from inspector.trace.rules.token_choice import see_made_tensors
from inspector.trace.scan_kernels import provide_scan_kernels
from inspector.trace.scan_loops import shorten_scans
from inspector.trace.shadow import use_one_thread
from inspector.trace.target import trace_for
from inspector.trace.tracer import Tracer
from inspector.workloads.base import NotTraceableError, OnPhase, Workload, base_model
from inspector.workloads.layer_drop import keep_all_layers
from inspector.workloads.loading import list_in_load_order
from inspector.workloads.packed import leave_packed
from inspector.workloads.quantized_load import apply_quantized_rules, is_quantized, load_quantized
from inspector.workloads.run import (
    build_categories,
    check_run,
    choose_autocast,
    hold_loss_sum,
    make_batch,
    match_predictions,
    prepare_run,
    refuse_what_stops,
)
from inspector.workloads.tasks.adapters import finds_tokens

__all__ = ["reduce_in_last_micro_batch", "trace_rank"]


def trace_rank(
    workload: Workload,
    built: BuiltModel,
    recipe: Recipe,
    platform: Platform,
    launch: RankLaunch,
    rank: int = 0,
    *,
    results: Results | None = None,
    assumed: set[str] | None = None,
    scan_passes: int | None = None,
    scan_lengths: set[int] | None = None,
) -> list[Event]:
    """Return the tape of all steps of a resolved `recipe` on one rank; the model is changed.

    The codes of what was assumed of numbers are added to `assumed`; loops over positions are as for `trace_run`.
    """
    model: Any = built.model
    base = base_model(model)
    check_run(workload, built, recipe)
    if isinstance(launch, (Fsdp1, Fsdp2)):
        refuse_unknown_layers(model, launch)
    on_a_node = launch.world_size // launch.replicas if isinstance(launch, Fsdp1) else None
    with begin_world(launch.world_size, rank, on_a_node) as streams, restore_changes(), contextlib.ExitStack() as rules:
        rules.enter_context(use_one_thread())
        rules.enter_context(provide_flash_attention(platform, recipe.attention))
        if isinstance(launch, TensorParallel):
            rules.enter_context(explain_parts(base, launch))
        rules.enter_context(refuse_what_stops(workload, built, recipe))
        if isinstance(launch, TensorParallel):
            built = cut_by_plan(built, launch)
            model, base = built.model, base_model(built.model)
        built = prepare_run(workload, built, recipe)
        names: dict[nn.Module, str] = {module: name for name, module in base.named_modules()}
        if isinstance(launch, Ddp):
            built = dataclasses.replace(built, roles=rules.enter_context(leave_packed(built, platform, names)))
        media = workload.find_media(model, recipe)
        holds_all = media is not None and media.holds_all
        tracer = RankTracer(
            platform,
            names,
            balances_experts=loops_over_experts(base) or getattr(launch, "expert_parallel", 1) > 1,
            streams=streams,
            results=results,
            holds_all=holds_all,
            patches=find_byte_patches(base),
        )
        keep_all_layers(base)
        is_packed = is_quantized(base)
        if is_packed:
            rules.enter_context(apply_quantized_rules(platform))
            is_on_host = isinstance(launch, Fsdp1) and launch.packed_on_host
            # What is packed in host memory is nothing of the card's.
            load_quantized(Tracer(platform, names) if is_on_host else tracer, built)
            tracer.empty_cache()  # as below: what packing leaves is given back
        if isinstance(launch, Fsdp1):
            if launch.offload:
                tell_host_from_card(tracer)
            tell_fsdp1_storages_apart()
            tell_uses_of_fsdp1(tracer.note_use)
            roles = list_roles(built)
            model = shard_with_fsdp1(model, launch, recipe.mixed_precision, tracer)
        if isinstance(launch, Fsdp2):
            model = shard_with_fsdp2(model, launch, recipe.mixed_precision, tracer)
            _refuse_untied(built)
        if isinstance(launch, TensorParallel):
            bring_to_card(built, tracer)
        tracer.use_categories(build_categories(workload, model), keeps=is_packed or isinstance(launch, Zero))
        state: Any = None
        if isinstance(launch, Fsdp1):
            hold_units(tracer, model, roles)
        elif isinstance(launch, Zero):
            state = workload.make_state(model, recipe, on_gpu=False)
            model = begin_engine(built, recipe, launch, rank, state, tracer, streams)
        else:
            for name, tensor, category in list_in_load_order(built):
                tracer.hold([tensor], category, find_owner(model, name))
        if isinstance(launch, TensorParallel):
            tracer.empty_cache()  # Trainer's first act (trainer.py, `free_memory`); tied weights leave a part behind
        if isinstance(launch, Ddp):
            with tracer:
                model = wrap_with_ddp(model, launch, recipe)
            tracer.mark_buckets()
        loss_sum = hold_loss_sum(tracer, workload, recipe)
        batch = make_batch(tracer, workload, model, recipe)
        if isinstance(launch, (Fsdp2, Zero)):  # which casts by a policy of its own
            recipe = dataclasses.replace(recipe, mixed_precision="no")
        rules.enter_context(trace_for(platform))
        rules.enter_context(apply_cuda_rules(platform, recipe.sdpa_backend))
        rules.enter_context(choose_autocast(recipe))
        rules.enter_context(treat_meta_as_device())
        rules.enter_context(stand_in_for_extension())
        rules.enter_context(stand_in_for_sparse_matrices())
        rules.enter_context(provide_scan_kernels(built.model, recipe.kernels))
        rules.enter_context(shorten_scans(base, scan_passes, set() if scan_lengths is None else scan_lengths))
        is_made = match_predictions(rules, tracer, batch) or media is not None or finds_tokens(model)
        # FSDP1 keeps a zero that it made so.
        if is_made or isinstance(launch, (Fsdp1, Zero)):
            rules.enter_context(see_made_tensors(tracer.see_made))
        rules.enter_context(tracer)
        state = state or workload.make_state(model, recipe, on_gpu=False)
        if isinstance(launch, TensorParallel):
            split_groups_by_mesh(state)  # some gradients are cut otherwise than their parameters, and moved
        else:
            step_on_local_tensors(state)
        tracer.hold(workload.list_state(state), Category.OPTIMIZER)
        on_phase = reduce_in_last_micro_batch(model, recipe.gradient_accumulation, tracer.enter)
        held = workload.run(model, batch, state, on_phase, recipe, loss_sum)
        tape = tracer.tape()
        if assumed is not None:
            assumed.update(tracer.assumptions.used)
        del held
        return tape


def _refuse_untied(built: BuiltModel) -> None:
    """Raise NotTraceableError where modules that shared a weight have one each once it was sharded.

    accelerate 1.15 shards T5's embedding with the head, and leaves what the encoder has of it to the root, which shards
    it again: a real run trains another model then.
    """
    if any(name not in built.roles for name, _ in built.model.named_parameters()):
        raise NotTraceableError(
            "modules that share a weight have one each once accelerate has sharded it, so that a real run trains "
            "another model: drop `sharding`"
        )


def reduce_in_last_micro_batch(model: Any, count: int, on_phase: OnPhase) -> OnPhase:
    """Return what enters a phase, with gradients left whole until the last of an update's `count` micro-batches.

    Trainer enters accelerate's `no_sync` for the others (accelerator.py, 1.15), which sets one of these two.
    """
    passes = itertools.count(1)

    def enter(phase: Phase, step: int) -> None:
        if phase is Phase.FORWARD and count > 1:
            is_last = next(passes) % count == 0
            if isinstance(model, DistributedDataParallel):
                model.require_backward_grad_sync = is_last
            elif isinstance(model, FullyShardedDataParallel):
                defer_reduction(model, is_deferred=not is_last)
            elif hasattr(model, "set_requires_gradient_sync"):  # FSDP2 alone has; others reduce each time
                model.set_requires_gradient_sync(is_last)
        on_phase(phase, step)

    return enter

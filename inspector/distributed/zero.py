"""ZeRO as accelerate, and so Trainer, runs it: DeepSpeed's own engine on meta, where the package is installed.

`set_accelerator` is DeepSpeed's public way in: `_make_accelerator` answers for meta what it asks of a device. Its
collectives are torch.distributed's. What the host reads back (norms, whether gradients overflowed) is answered as a
step that succeeds has it. `"auto"` in a configuration means what accelerate and transformers fill in (accelerator.py,
`_prepare_deepspeed`, 1.15; transformers/integrations/deepspeed.py, 5.23). DeepSpeed 0.19.

The model comes from host memory, with parameters in the dtype of the engine; under ZeRO-3 each is cut as it is made
(`zero.Init`). Flattening happens on the card where it has room for it, which is taken to be so.

With `offload_optimizer` masters, gradients of a rank's share and states are in host memory (two_devices.py), updated by
DeepSpeedCPUAdam, which accelerate puts in the place of AdamW: its compiled kernel makes nothing, and is left out. With
`offload_param` (stage 3) the pieces of the weights wait there, too.
Not covered: an `optimizer` of the configuration (the recipe's runs in its place), what is kept on a disk.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from inspector.compat.deepspeed import release_in_order
from inspector.compat.distributed import flatten_dense_tensors, unflatten_dense_tensors
from inspector.distributed.tracer import RankTracer
from inspector.distributed.two_devices import pin, tell_host_from_card
from inspector.distributed.world import Streams
from inspector.model.adapter.peft_names import find_owner
from inspector.model.build import BuiltModel
from inspector.records.recipe import Recipe
from inspector.records.steps.ranks import Zero
from inspector.records.tape import Category, Phase
from inspector.runtime.patches import replace_attribute, replace_item, restore_items_at_end
from inspector.workloads.base import NotTraceableError, base_model
from inspector.workloads.loading import ADDED, attach_adapter, list_in_load_order

__all__ = ["OFFLOADED", "begin_engine", "fill_config", "is_offloaded"]

_OPTIMIZER = "offload_optimizer"
# The parts of a state that wait in host memory where a configuration says so.
OFFLOADED = (_OPTIMIZER, "offload_param")
# What DeepSpeed flattens its groups on the card for: more than any group has.
_ROOM = 2**50
_OF_SIZE: Mapping[str, Callable[[int], int]] = {
    "reduce_bucket_size": lambda size: size * size,
    "stage3_prefetch_bucket_size": lambda size: int(0.9 * size * size),
    "stage3_param_persistence_threshold": lambda size: 10 * size,
}


def fill_config(model: Any, recipe: Recipe, launch: Zero) -> dict[str, Any]:
    """Return DeepSpeed's configuration with everything that is left open filled in.

    Raises NotTraceableError where nothing says what "auto" is.
    """
    config = copy.deepcopy(dict(launch.config or {}))
    zero = config.setdefault("zero_optimization", {})
    zero["stage"] = launch.stage
    # As transformers' examples have it.
    for name in _OF_SIZE if launch.config is None else ():
        zero[name] = "auto"
    if launch.config is None:
        zero |= {"overlap_comm": True, "contiguous_gradients": True}
    settings = base_model(model).config
    size = getattr(settings, "hidden_size", None) or max(getattr(settings, "hidden_sizes", None) or [0])
    for name in [name for name, value in zero.items() if value == "auto"]:
        if name not in _OF_SIZE or not size:
            raise NotTraceableError(f"`zero_optimization.{name}` is auto, and nothing says what that is: give a number")
        zero[name] = _OF_SIZE[name](size)
    rows, count = recipe.batch_size, recipe.gradient_accumulation
    for name in ("optimizer", "scheduler", "fp16", "bf16"):
        config.pop(name, None)
    if recipe.mixed_precision != "no":
        config[recipe.mixed_precision] = {"enabled": True}
    return {
        **config,
        "train_micro_batch_size_per_gpu": rows,
        "gradient_accumulation_steps": count,
        "train_batch_size": rows * count * launch.world_size,
        "gradient_clipping": recipe.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": float("inf"),
    }


def begin_engine(
    built: BuiltModel,
    recipe: Recipe,
    launch: Zero,
    rank: int,
    optimizer: torch.optim.Optimizer,
    tracer: RankTracer,
    streams: Streams,
) -> nn.Module:
    """Return DeepSpeed's engine around a model that is in host memory, watched by a tracer.

    It has `own_update`, which runs the backward pass of a micro-batch and, behind the last one, the update. What is
    changed for it stays so until the innermost block of changes ends.
    """
    model: Any = built.model
    if not type(optimizer).__module__.startswith("torch.optim"):
        raise NotTraceableError(
            f"how {type(optimizer).__name__} updates shards is not known: use `optimizer=adamw_torch_fused`, or drop "
            "`sharding`"
        )
    config = fill_config(model, recipe, launch)
    on_host = [name for name in OFFLOADED if is_offloaded(config, name)]
    if on_host and not isinstance(optimizer, torch.optim.AdamW):
        raise NotTraceableError(
            "accelerate has DeepSpeed's Adam update what is offloaded, whatever the optimizer: use "
            "`optimizer=adamw_torch`"
        )
    place = {
        "RANK": rank,
        "LOCAL_RANK": 0,
        "WORLD_SIZE": launch.world_size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": 1,
    }
    for name, value in {**place, "MASTER_PORT": 1, "DS_ACCELERATOR": "cpu"}.items():
        replace_item(os.environ, name, str(value))
    replace_attribute(Tensor, "record_stream", lambda tensor, stream: tracer.note_use(tensor, stream))
    _set_accelerator(streams, tracer)
    if on_host:
        tell_host_from_card(tracer)
        replace_attribute(
            torch.distributed, "all_gather_into_tensor", _keep_until_waited(torch.distributed.all_gather_into_tensor)
        )
    if _OPTIMIZER in on_host:
        optimizer = _make_cpu_adam(optimizer, config)
    import deepspeed  # type: ignore[import-not-found]  # only where it is installed

    # Stage 3 puts its own there (zero/partition_parameters.py, `Init`).
    replace_attribute(torch.nn.functional, "linear", torch.nn.functional.linear)
    for module in (deepspeed.comm.comm, deepspeed.utils.groups):  # which keep the groups of a process
        restore_items_at_end(vars(module))
    release_in_order()
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe.mixed_precision)
    added = {name for name, role in built.roles.items() if role in ADDED and launch.stage == 3}
    for name, parameter in model.named_parameters() if half is not None else ():
        if name not in added:
            parameter.data = parameter.data.to(half)
    known = {id(tensor): (name, category) for name, tensor, category in list_in_load_order(built)}
    for tensor in _list_as_moved(model):
        name, category = known.get(id(tensor), ("", Category.WEIGHTS))
        if launch.stage < 3 or category is Category.BUFFERS:
            tracer.hold([tensor], category, find_owner(model, name))
    tracer.answer_reads()
    if launch.stage == 3:
        with tracer:
            # What transformers builds inside `zero.Init`; PEFT makes an adapter beside it on the card.
            deepspeed.init_distributed(dist_backend="nccl", auto_mpi_discovery=False, dist_init_required=False)
            made = nn.ParameterList(item for name, item in model.named_parameters() if name not in added)
            deepspeed.zero.Init(module=made, config_dict_or_path=config)
        attach_adapter(tracer, built)
        tracer.empty_cache()  # Trainer's first act (trainer.py, `free_memory`)
    with tracer:
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config_params=config, dist_init_required=False
        )
    _hold_state(tracer, engine, launch.stage)
    passes = {"done": 0}

    def update(loss: Tensor) -> None:
        passes["done"] += 1
        is_last = passes["done"] % recipe.gradient_accumulation == 0
        engine.set_gradient_accumulation_boundary(is_boundary=is_last)
        engine.backward(loss, scale_wrt_gas=False)
        if is_last:
            tracer.enter(Phase.OPTIMIZER, passes["done"] // recipe.gradient_accumulation)
            engine.step()

    engine.own_update = update
    wrapped: nn.Module = engine
    return wrapped


def is_offloaded(config: Mapping[str, Any], name: str) -> bool:
    """Tell whether a configuration keeps a part of the state (a name of OFFLOADED) off the card."""
    part = (config.get("zero_optimization") or {}).get(name)
    return isinstance(part, Mapping) and part.get("device") not in (None, "none")


def _make_cpu_adam(optimizer: torch.optim.Optimizer, config: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Return the optimizer that accelerate puts in the place of one whose state is offloaded.

    Its kernel updates what it is given (csrc/adam/cpu_adam_impl.cpp), and needs a compiler.
    """
    if not config.get("zero_force_ds_cpu_optimizer", True):
        raise NotTraceableError(
            "torch's optimizer on the host (`zero_force_ds_cpu_optimizer: false`) is not traced: leave that out"
        )
    import cpuinfo  # type: ignore[import-not-found]  # comes with DeepSpeed
    from accelerate.utils.deepspeed import map_pytorch_optim_to_deepspeed
    from deepspeed.ops.adam import cpu_adam  # type: ignore[import-not-found]  # only where it is installed

    kernel = types.SimpleNamespace(**dict.fromkeys(("create_adam", "adam_update", "destroy_adam"), _do_nothing))
    replace_attribute(cpu_adam, "CPUAdamBuilder", lambda: types.SimpleNamespace(load=lambda: kernel))
    replace_attribute(cpuinfo, "get_cpu_info", dict)  # which starts processes
    mapped: torch.optim.Optimizer = map_pytorch_optim_to_deepspeed(optimizer)
    return mapped


class _Work:
    """A collective at work, which keeps its tensors until it is waited for (ProcessGroupNCCL.cpp, `stash`)."""

    def __init__(self, work: Any, tensors: Any) -> None:
        self._work = work
        self._tensors = tensors

    def wait(self, *args: Any) -> Any:
        """Wait, and let go of the tensors."""
        self._tensors = None
        return self._work.wait(*args)


def _keep_until_waited(collective: Callable[..., Any]) -> Callable[..., Any]:
    """Return a collective that keeps its tensors while it is at work, as NCCL's do and those of meta do not."""

    def start(*args: Any, **kwargs: Any) -> Any:
        work = collective(*args, **kwargs)
        return None if work is None else _Work(work, (args, kwargs))

    return start


def _do_nothing(*_: Any) -> None:
    """Update numbers that are not there."""


def _list_as_moved(module: nn.Module) -> Iterator[Tensor]:
    """Yield the parameters and buffers of a module as `to` moves them: those of the modules in it first."""
    for child in module.children():
        yield from _list_as_moved(child)
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def _hold_state(tracer: RankTracer, engine: Any, stage: int) -> None:
    """Say what DeepSpeed's flat tensors are for: weights in half precision, float32 masters, pieces of gradients."""
    state = engine.optimizer
    of_weights, of_masters = (
        ("fp16_partitioned_groups_flat", "fp32_partitioned_groups_flat")
        if stage == 3
        else ("bit16_groups_flat", "single_partition_of_fp32_groups")
    )
    for names, category in (
        ((of_weights,), Category.WEIGHTS),
        ((of_masters,), Category.OPTIMIZER),
        (("grad_partitions_flat_buffer",), Category.GRADIENTS),
    ):
        for name in names:
            found = getattr(state, name, None)
            tensors = found if isinstance(found, (list, tuple)) else [found]
            _hold_on_card(tracer, [tensor for tensor in tensors if isinstance(tensor, Tensor)], category)
    pieces = [parameter.ds_tensor for parameter in engine.module.parameters() if hasattr(parameter, "ds_tensor")]
    _hold_on_card(tracer, pieces, Category.WEIGHTS)


def _hold_on_card(tracer: RankTracer, tensors: Iterable[Tensor], category: Category) -> None:
    """Say what those of some tensors are for that are not in host memory."""
    tracer.hold([tensor for tensor in tensors if not tracer.lies_on_host(tensor)], category)


def _set_accelerator(streams: Streams, tracer: RankTracer) -> None:
    """Have DeepSpeed ask a stand-in for the device."""
    from deepspeed.accelerator import (  # type: ignore[import-not-found]  # see above
        real_accelerator,
        set_accelerator,
    )
    from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator  # type: ignore[import-not-found]  # see above

    replace_attribute(real_accelerator, "ds_accelerator", None)
    set_accelerator(_make_accelerator(CPU_Accelerator, streams, tracer))


def _make_accelerator(parent: Any, streams: Streams, tracer: RankTracer) -> Any:
    """Return what DeepSpeed asks of a device, for meta: one that does its work when it is asked to."""
    device: Any = torch.meta  # type: ignore[attr-defined]  # made by `begin_world`

    class Builder:
        """Compiled ops: there are none but torch's own of this pair."""

        NAME = name = "none"

        def is_compatible(self, *_: Any) -> bool:
            """Tell that nothing is compiled."""
            return False

        def load(self, *_: Any) -> Any:
            """Return the two functions that flatten tensors (csrc/utils/flatten_unflatten.cpp)."""
            return types.SimpleNamespace(flatten=flatten_dense_tensors, unflatten=unflatten_dense_tensors)

    names: dict[str, Any] = {
        "is_synchronized_device": False,
        "use_host_timers": True,
        "resolves_data_dependency": False,
    }
    names |= {"handles_memory_backpressure": False, "device_name": "meta", "current_device": "meta"}
    names |= {"current_device_name": "meta", "device_count": 1, "communication_backend_name": "nccl"}
    names |= {"memory_allocated": 0, "max_memory_allocated": 0, "memory_reserved": 0, "max_memory_reserved": 0}
    names |= {"memory_cached": 0, "max_memory_cached": 0, "total_memory": _ROOM, "available_memory": _ROOM}
    answers: dict[str, Any] = {name: _answer(value) for name, value in names.items()}
    answers |= {
        "device": lambda _self, _index=None: contextlib.nullcontext(),
        "Stream": property(lambda _self: device.Stream),
        "Event": property(lambda _self: device.Event),
        "stream": lambda _self, stream: streams.use(stream),
        "current_stream": lambda _self, _index=None: streams.current,
        "default_stream": lambda _self, _index=None: streams.default,
        "empty_cache": lambda _self: tracer.empty_cache(),
        "on_accelerator": lambda _self, tensor: tensor.is_meta and not tracer.lies_on_host(tensor),
        "pin_memory": lambda _self, tensor, **_others: pin(tracer, tensor) if tracer.lies_on_host(tensor) else tensor,
        "FloatTensor": property(lambda _self: functools.partial(torch.tensor, dtype=torch.float32, device="meta")),
        "ByteTensor": property(lambda _self: functools.partial(torch.tensor, dtype=torch.uint8, device="meta")),
        "create_op_builder": lambda _self, name: Builder() if name == "UtilsBuilder" else None,
        "get_op_builder": lambda _self, name: Builder if name == "UtilsBuilder" else None,
    }
    return type("MetaAccelerator", (parent,), answers)()


def _answer(value: Any) -> Callable[..., Any]:
    """Return a method that returns a value."""
    return lambda _self, *_arguments: value

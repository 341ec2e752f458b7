"""Private names of torch. Methods are taken from their class: `use_count(tensor)` is `tensor._use_count()`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from inspector.compat.names import private, private_attribute
from inspector.runtime.patches import call_at_end, restore_items_at_end

_TRACE = "tracing"
_MEASURE = "inspect measure"

# --- modes and trees --------------------------------------------------------------------------------------------------

if TYPE_CHECKING:
    from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
else:
    TorchDispatchMode = private(
        "torch.utils._python_dispatch.TorchDispatchMode",
        purpose=_TRACE,
        instead="a class that sees every op below autograd; FlopCounterMode of torch.utils is built on it",
    )
dispatch_mode_stack: Callable[[], list[Any]] = private(
    "torch.utils._python_dispatch._get_current_dispatch_mode_stack",
    purpose=_TRACE,
    instead="whatever lists the active modes: an interrupted trace takes its own off",
)
tree_leaves: Callable[[Any], list[Any]] = private(
    "torch.utils._pytree.tree_leaves", purpose=_TRACE, instead="torch.utils.pytree, once public"
)
tree_map: Callable[..., Any] = private(
    "torch.utils._pytree.tree_map", purpose=_TRACE, instead="torch.utils.pytree, once public"
)
OpOverload: Any = private("torch._ops.OpOverload", purpose=_TRACE, instead="type(torch.ops.aten.add.Tensor)")
schema_of: Callable[[Any], Any] = private_attribute(
    "torch._ops.OpOverload._schema",
    purpose=_TRACE,
    instead="torch._C._get_schema",
    example=lambda: torch.ops.aten.add.Tensor,
)

# --- autograd and reference counts ------------------------------------------------------------------------------------

current_autograd_node: Callable[[], Any] = private(
    "torch._C._current_autograd_node",
    purpose=_TRACE,
    instead="what tells which backward formula runs: gradients are added in place by it",
)


def saves_positive_weight(node: Any) -> bool:
    """Tell whether a node of autograd keeps weights of positive labels, as that of binary cross entropy may."""
    return getattr(node, "_saved_pos_weight", None) is not None


next_sequence_number: Callable[[], int] = private(
    "torch._C._autograd._get_sequence_nr",
    purpose=_TRACE,
    instead="what numbers autograd's nodes: those after the head's belong to the logits",
)
_sequence_number_of: Callable[[Any], Callable[[], int]] = private_attribute(
    "torch.autograd.graph.Node._sequence_nr",
    purpose=_TRACE,
    instead="what numbers autograd's nodes: those after the head's belong to the logits",
)


def sequence_number(node: Any) -> int:
    """Return when a node of autograd's graph was made, as `next_sequence_number` counts."""
    return _sequence_number_of(node)()


use_count: Callable[[Any], int] = private(
    "torch.Tensor._use_count",
    purpose=_TRACE,
    instead="the reference count by which autograd adds gradients in place (can_accumulate_inplace)",
)
storage_use_count: Callable[[int], int] = private(
    "torch._C._storage_Use_Count",
    purpose=_TRACE,
    instead="the reference count by which autograd adds gradients in place (can_accumulate_inplace)",
)
storage_address: Callable[[Any], int] = private_attribute(
    "torch.UntypedStorage._cdata",
    purpose=_TRACE,
    instead="what tells storages on meta apart: all of them have data_ptr() 0",
)
current_graph_task: Callable[[], int] = private(
    "torch._C._current_graph_task_id",
    purpose="--offload activations",
    instead="what tells a backward pass from one inside it, as TRL's OffloadActivations asks",
)
_engine: Any = private(
    "torch.autograd.Variable._execution_engine",
    purpose="--offload activations",
    instead="what calls back when a backward pass is over, as TRL's OffloadActivations has it",
)


def call_after_backward(function: Callable[[], None]) -> None:
    """Have a function called when the backward pass at hand is over."""
    _engine.queue_callback(function)


is_view: Callable[[Any], bool] = private(
    "torch.Tensor._is_view", purpose="mixed precision", instead="tensor._base is not None"
)
make_subclass: Callable[..., Any] = private(
    "torch.Tensor._make_subclass",
    purpose="quantization",
    instead="what bitsandbytes' own parameters are made with (nn/modules.py)",
)

# --- modules ----------------------------------------------------------------------------------------------------------

parameters_of: Callable[[nn.Module], dict[str, nn.Parameter | None]] = private_attribute(
    "torch.nn.Module._parameters",
    purpose="counting",
    instead="named_parameters(recurse=False), which lists a shared parameter once",
    example=nn.Module,
)
buffers_of: Callable[[nn.Module], dict[str, torch.Tensor | None]] = private_attribute(
    "torch.nn.Module._buffers",
    purpose="counting",
    instead="named_buffers(recurse=False)",
    example=nn.Module,
)
children_of: Callable[[nn.Module], dict[str, nn.Module | None]] = private_attribute(
    "torch.nn.Module._modules",
    purpose="counting",
    instead="named_children(), which lists a shared module once",
    example=nn.Module,
)
backward_hooks_of: Callable[[Any], Any] = private_attribute(
    "torch.Tensor._backward_hooks",
    purpose="--fit",
    instead="what tells that a gradient goes through a hook, which no copy of a model has",
)
accumulate_hooks_of: Callable[[Any], Any] = private_attribute(
    "torch.Tensor._post_accumulate_grad_hooks",
    purpose="--fit",
    instead="what tells that a gradient goes through a hook, which no copy of a model has",
)

_hook_tables = tuple(
    private(
        f"torch.nn.modules.module._global_{kind}_hooks{suffix}",
        purpose="building and tracing a model",
        instead="where hooks on all modules are kept: an interrupt may come before their handles are",
    )
    for kind, suffix in (
        ("module_registration", ""),
        ("parameter_registration", ""),
        ("forward_pre", ""),
        ("forward", ""),
        ("forward", "_always_called"),
    )
)


def restore_module_hooks_at_end() -> None:
    """Have the hooks on all modules of the process as they are now when the innermost `restore_changes` block ends."""
    for table in _hook_tables:
        restore_items_at_end(table)


# --- the dispatcher ---------------------------------------------------------------------------------------------------

_destroy: Callable[[Any], None] = private(
    "torch.library.Library._destroy",
    purpose=_TRACE,
    instead="what takes implementations out of the dispatcher again; torch.library._scoped_library uses it",
)


def dispatcher_rules(namespace: str) -> torch.library.Library:
    """Return a library whose implementations leave the dispatcher when the innermost `restore_changes` block ends."""
    library = torch.library.Library(namespace, "IMPL")
    call_at_end(_destroy, library)
    return library


def give_kernel(library: torch.library.Library, name: str, kernel: Callable[..., Any]) -> None:
    """Give an op a kernel on meta, as a backend has one, so that it is not run as its parts.

    `Library.impl` refuses that for ops that have parts, which meta is meant to run; CUDA has a kernel of such an op.
    """
    implementations: Any = library.m
    implementations.impl(name, "Meta", kernel, False)


# The key that stands for CUDA's autocast on meta tensors: one that no backend of these builds uses.
_AUTOCAST_KEY = "AutocastIPU"
_autocast_key_of: Callable[[Any], Any] = private_attribute(
    f"torch._C.DispatchKey.{_AUTOCAST_KEY}",
    purpose="mixed precision",
    instead="another key above autograd of a backend that these builds lack: AutocastHPU, AutocastXLA, AutocastMAIA",
)
_key_set: Callable[[Any], Any] = private(
    "torch._C.DispatchKeySet", purpose="mixed precision", instead="what switches a key off"
)
_exclude_keys: Callable[[Any], Any] = private(
    "torch._C._ExcludeDispatchKeyGuard",
    purpose="mixed precision",
    instead="what switches a key off: a kernel calls its op again below itself",
)
has_kernel_for_key: Callable[[str, str], bool] = private(
    "torch._C._dispatch_has_kernel_for_dispatch_key",
    purpose="mixed precision",
    instead="what says which ops the installed torch lists for autocast on CUDA",
)
is_key_included: Callable[[str], bool] = private(
    "torch._C._dispatch_tls_is_dispatch_key_included",
    purpose="mixed precision",
    instead="torch._C._IncludeDispatchKeyGuard",
)
is_key_excluded: Callable[[str], bool] = private(
    "torch._C._dispatch_tls_is_dispatch_key_excluded",
    purpose="mixed precision",
    instead="torch._C._ExcludeDispatchKeyGuard",
)
set_key_included: Callable[[str, bool], None] = private(
    "torch._C._dispatch_tls_set_dispatch_key_included",
    purpose="mixed precision",
    instead="torch._C._IncludeDispatchKeyGuard",
)
set_key_excluded: Callable[[str, bool], None] = private(
    "torch._C._dispatch_tls_set_dispatch_key_excluded",
    purpose="mixed precision",
    instead="torch._C._ExcludeDispatchKeyGuard",
)


@functools.cache
def _autocast_keys() -> Any:
    """Return the set of the autocast key alone."""
    return _key_set(_autocast_key_of(torch._C.DispatchKey))


def autocast_key() -> str:
    """Return the name of the dispatch key that stands for CUDA's autocast."""
    _autocast_keys()
    return _AUTOCAST_KEY


def below_autocast() -> Any:
    """Return a context in which ops go past the autocast key: what a kernel of that key calls its op in."""
    return _exclude_keys(_autocast_keys())


# --- the choice of foreach and fused kernels --------------------------------------------------------------------------

_foreach_devices: Any = private(
    "torch.utils._foreach_utils._get_foreach_kernels_supported_devices",
    purpose=_TRACE,
    instead="what says which devices optimizers and clipping take foreach kernels on",
)
_fused_devices: Any = private(
    "torch.utils._foreach_utils._get_fused_kernels_supported_devices",
    purpose=_TRACE,
    instead="what says which devices optimizers take fused kernels on",
)


def foreach_device_functions() -> Iterator[tuple[Any, str]]:
    """Yield (module, name) of each place where torch looks up which devices have foreach and fused kernels.

    torch/optim/optimizer.py imports both functions by name.
    """
    from torch.optim import optimizer
    from torch.utils import _foreach_utils

    for function in (_foreach_devices, _fused_devices):
        name: str = function.__name__
        for module in (_foreach_utils, optimizer):
            yield module, name


# --- measuring --------------------------------------------------------------------------------------------------------

record_memory_history: Callable[..., None] = private(
    "torch.cuda.memory._record_memory_history",
    purpose=_MEASURE,
    instead="what records the allocator's history",
)
memory_snapshot: Callable[..., Any] = private(
    "torch.cuda.memory._snapshot", purpose=_MEASURE, instead="what returns the allocator's history"
)
clear_cublas_workspaces: Callable[[], None] = private(
    "torch._C._cuda_clearCublasWorkspaces",
    purpose=f"{_MEASURE} on a torch built with CUDA",
    instead="what gives cuBLAS' workspaces back, so that a measurement begins without them",
)

"""Bounds on what a configuration asks for, held while it is built: modules, parameters, memory and time.

Any of a thousand fields of 400 classes may become a loop, a list or a tensor, under any name, so none is judged by what
it is called. Instead the work stops where no real model's work goes on:

- modules and parameters are counted as they are registered (`bound_modules`);
- memory is bounded by what the process may map to write to, where the system has that limit: a list of 10^9 entries
  fails in one step of C, between two of Python (`bound_work`). Addresses alone are not, of which a CUDA driver reserves
  far more than it ever uses;
- processor time is bounded by a timer, in the main thread: a loop of 10^12 rounds may take no memory (`bound_work`).

Not covered: loops in a thread that is not the main one, where Python delivers no signals; memory on systems other than
Linux; and what a forward pass makes of a size.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, ModuleType

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from inspector.compat.torch import restore_module_hooks_at_end
from inspector.errors import UnsupportedModelError
from inspector.runtime.patches import call_at_end, restore_changes
from inspector.units import format_bytes

resource: ModuleType | None
try:
    import resource
except ImportError:  # Windows
    resource = None

__all__ = ["bound_modules", "bound_work"]

# A linear layer on meta costs 2.5 KB and 64 µs here (50,000 of them). Fused experts keep real models far below this.
_MOST_MODULES = 250_000
# Kimi-K2 has 10^12.
_MOST_PARAMETERS = 10**14
# The stack of a thread and what surrounds it: torch starts as many threads as there are processors.
_THREAD_BYTES = 2**24
_STATISTICS = Path("/proc/self/statm")
# The place of the data in it: private memory that can be written, stacks included (proc(5)).
_DATA = 5
# How much later the timer says it again, where code has caught what it said first.
_AGAIN_SECONDS = 1


@contextlib.contextmanager
def bound_modules() -> Iterator[None]:
    """Stop a build that makes more modules or parameters than any real model has.

    Tensors count as modules do: torch's LSTM holds all its layers' in one module.
    """
    count = 0
    elements = 0

    def count_one(_parent: nn.Module, _name: str, child: nn.Module | nn.Parameter | None) -> None:
        nonlocal count, elements
        count += 1
        if count > _MOST_MODULES:
            raise UnsupportedModelError(
                f"the config asks for more than {_MOST_MODULES:,} modules and parameters; correct it, "
                "no real model has so many."
            )
        if isinstance(child, nn.Parameter):
            elements += child.numel()
        if elements > _MOST_PARAMETERS:
            raise UnsupportedModelError(
                f"the config asks for more than {_MOST_PARAMETERS:,} parameters; correct it, no real model has so many."
            )

    with restore_changes():
        # Classes set the default dtype while they are built, and put it back themselves unless interrupted before that.
        call_at_end(torch.set_default_dtype, torch.get_default_dtype())
        restore_module_hooks_at_end()
        register_module_module_registration_hook(count_one)
        register_module_parameter_registration_hook(count_one)
        yield


@contextlib.contextmanager
def bound_work(what: str, *, cpu_seconds: float, memory_bytes: int) -> Iterator[None]:
    """Stop the block, which does `what`, when it takes more processor time or more memory; UnsupportedModelError then.

    `memory_bytes` come on top of what the process has mapped to write to, and of what its threads may still map.
    """

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise UnsupportedModelError(
            f"{what} takes more than {cpu_seconds:g} seconds of processor time; correct the sizes in config.json, no "
            "real model takes so long."
        )

    try:
        with restore_changes():
            _limit_memory(memory_bytes)
            _limit_time(stop, cpu_seconds)
            yield
    except MemoryError as error:
        raise UnsupportedModelError(
            f"{what} takes more than {format_bytes(memory_bytes)} of memory; correct the sizes in config.json, no "
            "real model takes so much."
        ) from error


def _limit_time(stop: Callable[[int, FrameType | None], None], cpu_seconds: float) -> None:
    """Have `stop` called in the main thread after so much processor time, until the `restore_changes` block ends."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        return
    # In this order the timer is off before anybody else answers its signal.
    call_at_end(signal.signal, signal.SIGVTALRM, signal.getsignal(signal.SIGVTALRM))
    call_at_end(signal.setitimer, signal.ITIMER_VIRTUAL, *signal.getitimer(signal.ITIMER_VIRTUAL))
    signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, cpu_seconds, _AGAIN_SECONDS)


def _limit_memory(memory_bytes: int) -> None:
    """Let the process map so much more memory until the innermost `restore_changes` block ends."""
    if resource is None or not _STATISTICS.exists():
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    mapped = int(_STATISTICS.read_text().split()[_DATA]) * resource.getpagesize()
    limit = mapped + memory_bytes + (os.cpu_count() or 1) * _THREAD_BYTES
    if soft != resource.RLIM_INFINITY and soft <= limit:  # bounded closer already; a hard limit is never below it
        return
    call_at_end(resource.setrlimit, resource.RLIMIT_DATA, (soft, hard))
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))

"""Scans of transformers' own torch code with few passes through their loops, on tensors of every position.

A scan goes through a sequence by a loop of Python, `for index in range(seq_len)`, whose every pass does the same with
another slice. Here such a loop ends after its first passes, and all tensors around it have the length that they have:
a list to which each pass adds a tensor gets its last one for the rest, without a block of its own and without a
gradient. What the tape lacks are passes, forward and backward, and what they keep; two tapes that differ by one pass
say what a pass adds (`extrapolate.positions`).

The functions that run are transformers' own, compiled from their source with this one change.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import textwrap
from collections.abc import Iterator, MutableSet
from types import CodeType, FunctionType
from typing import Any

from torch import Tensor, nn

from inspector.runtime.patches import call_at_end, replace_item, restore_changes
from inspector.trace.scan_kernels import list_namespaces

__all__ = ["has_scan_loops", "shorten_scans"]

# The functions of transformers' modules whose loop goes from position to position, and does the same at each.
_LOOPING = ("mamba_selective_scan", "rwkv_linear_attention_cpu", "RecurrentGemmaRglru._rnn_scan")
# The names that a compiled function knows the two changes by.
_SHORTEN, _COMPLETE = "_inspector_shorten", "_inspector_complete"


def has_scan_loops(model: nn.Module) -> bool:
    """Tell whether layers of a model have a loop over positions that can be shortened."""
    return bool(_list_loops(model))


@contextlib.contextmanager
def shorten_scans(model: nn.Module, passes: int | None, lengths: MutableSet[int]) -> Iterator[None]:
    """Let loops over positions make `passes` passes inside the block, all where that is None.

    How many a whole loop makes is added to `lengths`, for each that runs.
    """
    with restore_changes():
        if passes is not None:
            for function, code in _list_loops(model):
                replace_item(function.__globals__, _SHORTEN, functools.partial(_shorten, passes, lengths))
                replace_item(function.__globals__, _COMPLETE, functools.partial(_complete, passes))
                call_at_end(setattr, function, "__code__", function.__code__)
                function.__code__ = code
        yield


def _shorten(passes: int, lengths: MutableSet[int], whole: range) -> range:
    """Return the first passes of a loop."""
    lengths.add(len(whole))
    return whole[:passes]


def _complete(passes: int, whole: range, made: list[Any]) -> None:
    """Add to a list that got one tensor in each pass what the passes left out would have added."""
    if len(made) != min(passes, len(whole)) or not all(isinstance(item, Tensor) for item in made):
        raise RuntimeError("a scan adds other than one tensor to a list in each pass")
    made.extend([made[-1].detach()] * (len(whole) - len(made)))


def _list_loops(model: nn.Module) -> list[tuple[FunctionType, CodeType]]:
    """Return the functions of a model's layers that loop over positions, with what runs where their loop is short."""
    found = []
    for namespace in list_namespaces(model):
        for path in _LOOPING:
            owner, _, name = path.rpartition(".")
            known = vars(namespace[owner]).get(name) if owner in namespace else namespace.get(name)
            function = inspect.unwrap(known) if callable(known) else None
            code = _compile(function) if isinstance(function, FunctionType) else None
            if isinstance(function, FunctionType) and code is not None:
                found.append((function, code))
    return found


@functools.cache
def _compile(function: FunctionType) -> CodeType | None:
    """Return the code of a function with its one loop over a range shortened, None where it has not just one."""
    try:
        source = inspect.getsource(function)
    except OSError:  # installed without its source
        return None
    tree = ast.parse(textwrap.dedent(source))
    definition = tree.body[0]
    loops = [node for node in ast.walk(definition) if isinstance(node, ast.For) and _is_range(node.iter)]
    if not isinstance(definition, ast.FunctionDef) or len(loops) != 1 or not _runs_to_its_end(loops[0]):
        return None
    (loop,) = loops
    whole = ast.unparse(loop.iter)
    loop.orelse = ast.parse("\n".join(f"{_COMPLETE}({whole}, {name})" for name in _list_appended(loop))).body
    loop.iter = ast.parse(f"{_SHORTEN}({whole})", mode="eval").body
    definition.decorator_list = []
    ast.increment_lineno(ast.fix_missing_locations(tree), function.__code__.co_firstlineno - 1)
    module = compile(tree, function.__code__.co_filename, "exec", dont_inherit=True)
    (code,) = (item for item in module.co_consts if isinstance(item, CodeType) and item.co_name == definition.name)
    return code if code.co_freevars == function.__code__.co_freevars else None


def _is_range(node: ast.expr) -> bool:
    """Tell whether an expression is a range from nothing on."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range"


def _runs_to_its_end(loop: ast.For) -> bool:
    """Tell whether nothing leaves a loop before its end or follows it by `else`."""
    return not loop.orelse and not any(isinstance(node, ast.Break | ast.Return) for node in ast.walk(loop))


def _list_appended(loop: ast.For) -> list[str]:
    """Return the names of the lists that the passes of a loop add to."""
    return [
        node.func.value.id
        for node in ast.walk(loop)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "append"
        and isinstance(node.func.value, ast.Name)
    ]

"""Whether a model's step depends on Python's hash seed, so that two processes allocate in two orders.

Strings hash differently in every process unless PYTHONHASHSEED is set, and with their hashes goes the order of a set. A
class that makes one mask or one pair of rotary tables per *kind* of layer often loops over `set(config.layer_types)`
(transformers 5.23: `Gemma3TextModel.forward`, modeling_gemma3.py:549; OLMo 3, ModernBERT, Gemma 3n, EXAONE and others).
The tensors are the same, their order is not, and with it reserved memory by a segment of 2 MiB: in the traced step and
in the measured one alike.

Found by reading: the class definitions of a model's modules are parsed, and a `for` over a set of layer types is looked
for. Nothing runs. Not covered: sets of anything else (transformers 5.23 has none that allocates in a training step),
loops in functions outside a class, and code without source.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
from collections.abc import Iterator

from torch import nn

__all__ = ["find_hash_ordered_layer_types", "loops_over_set_of_layer_types"]

_SETS = frozenset({"set", "frozenset"})
_KEEP_ORDER = frozenset({"list", "tuple", "iter", "enumerate", "reversed"})
# What a source must have at least; parsing a file of 2,000 lines takes 50 ms.
_MENTIONS = re.compile(r"set\([^()]*layer_types\b")


def find_hash_ordered_layer_types(model: nn.Module) -> tuple[str, ...]:
    """Return the layer types of a model, sorted, if its code goes through them in the order of their hashes.

    Empty where the order is that of the configuration, or where there are fewer than two types: a set of one has one
    order. Takes a model of transformers, with or without an adapter on it, on any device.
    """
    classes: dict[type, set[str]] = {}
    for module in model.modules():
        types = getattr(getattr(module, "config", None), "layer_types", None)
        if isinstance(types, (list, tuple)) and len(set(types)) > 1:
            classes.setdefault(type(module), set()).update(map(str, types))
    found = (types for kind, types in classes.items() if _loops_over_set(kind))
    return tuple(sorted(set().union(*found)))


def loops_over_set_of_layer_types(source: str) -> bool:
    """Tell whether Python source has a loop or a comprehension over a set of `layer_types`, named or on the spot."""
    if not _MENTIONS.search(source):
        return False
    tree = ast.parse(source)
    named: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and _is_set(node.value, named):
            named |= {ast.unparse(target) for target in node.targets}
    return any(_is_set(iterated, named) for node in ast.walk(tree) for iterated in _find_iterables(node))


@functools.lru_cache(maxsize=64)
def _loops_over_set(kind: type) -> bool:
    """Tell whether the source of a class, or of one that it inherits from, has such a loop."""
    return any(map(loops_over_set_of_layer_types, _list_sources(kind)))


def _find_iterables(node: ast.AST) -> Iterator[ast.expr]:
    """Yield what a loop or a comprehension goes through; a set made of a set has no order that could matter."""
    if isinstance(node, ast.For):
        yield node.iter
    elif isinstance(node, (ast.ListComp, ast.DictComp)):
        yield from (generator.iter for generator in node.generators)


def _is_set(node: ast.expr, named: set[str]) -> bool:
    """Tell whether an expression is a set of layer types, or a sequence in the order of one."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
        if node.func.id in _SETS:
            return ast.unparse(node.args[0]).endswith("layer_types")
        return node.func.id in _KEEP_ORDER and _is_set(node.args[0], named)
    return ast.unparse(node) in named


def _list_sources(kind: type) -> Iterator[str]:
    """Yield the source of a class and of those that it inherits from, without torch's own."""
    for parent in kind.__mro__:
        module = sys.modules.get(parent.__module__)
        if module is None or parent.__module__.partition(".")[0] in ("builtins", "torch"):
            continue
        try:
            # The whole file, once a class: `getsource(parent)` would parse it to find where the class stands.
            if not _MENTIONS.search(inspect.getsource(module)):
                continue
            yield inspect.getsource(parent)
        except (OSError, TypeError):  # a class made at run time or in a shell has no source
            continue

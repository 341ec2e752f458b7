"""Private names of torch, transformers and PEFT are used in inspector/compat/ alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "inspector"
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "huggingface_hub")
# Underscores that are no private name of another library: named tuples, the end of a process, what IPython looks for.
PUBLIC = {"_fields", "_replace", "_exit", "_repr_html_"}
# Functions that are given the name of an attribute.
BY_NAME = {"getattr", "hasattr", "setattr", "delattr", "operator.attrgetter"}
OPERATORS = ("aten", "torch.ops")


def is_private(name: str) -> bool:
    """Tell whether a name begins with one underscore."""
    return name.startswith("_") and not name.startswith("__") and name.isidentifier() and name != "_"


def own_names(tree: ast.AST) -> set[str]:
    """Return the private names that a file gives to its own classes: methods, fields, and what is set on self."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            found.add(node.attr)
        elif isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    found.add(item.name)
                elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    found.add(item.target.id)
    return found


def private_uses(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of each use of a private name that is not the file's own.

    Operators are no attributes: `aten._softmax` is the operator "aten::_softmax", whose name is public.
    """
    tree = ast.parse(source)
    own = own_names(tree) | PUBLIC
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            if not ast.unparse(node.value).startswith(("self", "cls", *OPERATORS)):
                yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in LIBRARIES:
            for name in (*(node.module or "").split("."), *(item.name for item in node.names)):
                if is_private(name):
                    yield node.lineno, name
        elif isinstance(node, ast.Import):
            for item in node.names:
                if item.name.partition(".")[0] in LIBRARIES and any(map(is_private, item.name.split("."))):
                    yield node.lineno, item.name
        elif isinstance(node, ast.Call):
            yield from ((node.lineno, name) for name in names_given(node) if is_private(name) and name not in own)


def names_given(call: ast.Call) -> Iterator[str]:
    """Yield the texts that a call takes as names of attributes: getattr and its like, and methods of `__dict__`."""
    function = ast.unparse(call.func)
    owner = function.rpartition(".")[0]
    of_a_dict = owner.endswith("__dict__") or owner.startswith("vars(")
    if function not in BY_NAME and not of_a_dict:
        return
    if call.args and ast.unparse(call.args[0]).startswith(OPERATORS):
        return
    for argument in call.args:
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            yield argument.value


@pytest.mark.parametrize(
    "source",
    [
        "torch._C._current_autograd_node()",
        "tensor._use_count()",
        "from torch.utils import _foreach_utils",
        "from torch.utils._pytree import tree_map",
        "import torch._dynamo",
        "getattr(config, '_attn_implementation', None)",
        "holder.__dict__.get('_is_hf_initialized')",
    ],
)
def test_each_form_of_a_private_name_is_found(source: str) -> None:
    """The test below could fail."""
    assert list(private_uses(source))


@pytest.mark.parametrize(
    "source",
    [
        "aten._softmax.default(x)",
        "self._tape",
        "class A:\n    def _b(self): ...\nA()._b()",
        "os._exit(1)",
        "x.__dict__",
    ],
)
def test_own_and_public_names_are_passed_over(source: str) -> None:
    """Nor would it be of use if it always failed."""
    assert not list(private_uses(source))


def test_private_names_of_other_libraries_are_used_in_compat_alone() -> None:
    """A new one is declared in inspector/compat/, with its purpose and what to do without it."""
    found = [
        f"{path.relative_to(PACKAGE)}:{line} {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.parent.name != "compat"
        for line, name in private_uses(path.read_text())
    ]
    assert found == []

"""Scripts and notebooks -> the arguments of the calls that set up training, from the syntax tree: nothing is run.

A value is read where it is a literal, a name that was given one literal, a dtype of torch, or arithmetic on these. Any
other is left unread, and its name kept.
"""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from inspector.errors import UsageError

__all__ = ["OTHER_TRAINERS", "Calls", "read_notebook_calls", "read_script_calls"]

_ARGUMENTS = re.compile(r"(SFT|DPO|ORPO|KTO|GRPO|RLOO|CPO|Reward|PPO)Config$|TrainingArguments$")
# Trainers of TRL with steps of their own (trainer/, experimental/ of 1.16 and releases before): refused by their names.
OTHER_TRAINERS = re.compile(
    r"(OnlineDPO|XPO|NashMD|GKD|GOLD|MiniLLM|(Async|Server)?Distillation|AsyncGRPO|BCO|PRM|SDFT|SDPO|TPO|A2PO|GMPO|"
    r"AlignProp|DDPO)Trainer"
)
_TRAINERS = re.compile(r"(SFT|DPO|ORPO|KTO|GRPO|RLOO|CPO|Reward|PPO|Unsloth|Seq2Seq)?Trainer")
_PARSERS = ("TrlParser", "HfArgumentParser")
_ADAPTERS = ("LoraConfig", "LoHaConfig", "LoKrConfig", "AdaLoraConfig", "IA3Config", "OFTConfig", "BOFTConfig")
_DTYPES = ("float32", "bfloat16", "float16", "half", "float")
# What code asks the GPU: taken for one with bfloat16, as any since 2020 has.
_ASKS_FOR_BFLOAT16 = ("is_bfloat16_supported", "is_bf16_supported", "is_torch_bf16_gpu_available")
_OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}
_LARGEST = 2**40
_MOST_CELLS = 10_000


class _UnreadableError(Exception):
    """A value that only running the code would tell."""


@dataclass(slots=True, kw_only=True)
class Calls:
    """The arguments of the calls of a script, by what they set up.

    load: the model; peft: the adapter; quant: bitsandbytes; args: the trainer's arguments; trainer: the trainer itself.
    `called` are the functions, by the same names, `unread` the arguments whose values are not literals, with `**` for
    those of a dictionary. `parser` is what reads the arguments of the command line, where something does.
    """

    arguments: dict[str, dict[str, Any]] = field(default_factory=dict)
    called: dict[str, str] = field(default_factory=dict)
    unread: list[tuple[str, str]] = field(default_factory=list)
    modules: set[str] = field(default_factory=set)
    parser: str | None = None


def read_script_calls(text: str, what: str) -> Calls:
    """Return the calls of a Python script."""
    tree = _parse(text)
    if tree is None:
        raise UsageError(f"{what} is not valid Python; correct it.")
    return _collect([tree])


def read_notebook_calls(document: Mapping[str, Any], what: str) -> Calls:
    """Return the calls of a notebook's cells; cells that are no Python are left out."""
    cells = document.get("cells")
    if not isinstance(cells, list):
        raise UsageError(f"{what} is no notebook: it has no cells; name another file.")
    trees = []
    for cell in cells[:_MOST_CELLS]:
        if not isinstance(cell, dict) or cell.get("cell_type") != "code":
            continue
        source = cell.get("source")
        text = "".join(map(str, source)) if isinstance(source, list) else str(source or "")
        tree = _parse(_drop_magics(text))
        if tree is not None:
            trees.append(tree)
    return _collect(trees)


def _drop_magics(text: str) -> str:
    """Return the Python of a cell: shell commands and magics are replaced by nothing, never run."""
    lines = text.splitlines()
    if lines and re.match(r"\s*%%(?!capture|time|timeit)", lines[0]):  # %%bash, %%writefile: no Python
        return ""
    kept = []
    continued = False
    for line in lines:
        match = re.match(r"(\s*)(?:[\w.]+\s*=\s*)?[!%?]", line)
        if continued or match:
            indent = "" if match is None else match[1]
            kept.append(f"{indent}pass" if not continued else "")
            continued = line.rstrip().endswith("\\")
        else:
            kept.append(line)
    return "\n".join(kept)


def _parse(text: str) -> ast.Module | None:
    """Return the syntax tree, None for what is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _collect(trees: list[ast.Module]) -> Calls:
    """Return the calls of syntax trees in their order; of two of a kind the later arguments go before."""
    names = _find_constants(trees)
    calls = Calls()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                module = (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
                calls.modules.add(module.partition(".")[0])
            elif isinstance(node, ast.Call):
                kind, called = _classify(node), getattr(node.func, "attr", getattr(node.func, "id", ""))
                calls.parser = called if called in _PARSERS else calls.parser
                if kind is not None:
                    _add_call(calls, kind, node, names)
    return calls


def _find_constants(trees: list[ast.Module]) -> dict[str, ast.expr]:
    """Return the names that are given one value and no other."""
    found: dict[str, list[ast.expr]] = {}
    for tree in trees:
        for node in ast.walk(tree):
            targets = node.targets if isinstance(node, ast.Assign) else ()
            if isinstance(node, ast.AnnAssign) and node.value is not None:
                targets = [node.target]
            for target in targets:
                if isinstance(target, ast.Name) and isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value:
                    found.setdefault(target.id, []).append(node.value)
                elif isinstance(target, (ast.Tuple, ast.List)):
                    for part in target.elts:
                        if isinstance(part, ast.Name):
                            found.setdefault(part.id, []).extend([ast.Name(id="?"), ast.Name(id="??")])
            for other in (getattr(node, "target", None),) if isinstance(node, (ast.For, ast.AugAssign)) else ():
                if isinstance(other, ast.Name):
                    found.setdefault(other.id, []).extend([ast.Name(id="?"), ast.Name(id="??")])
    return {name: values[0] for name, values in found.items() if len({ast.dump(value) for value in values}) == 1}


def _classify(call: ast.Call) -> str | None:
    """Return what a call sets up, None for any other."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    owner = function.value if isinstance(function, ast.Attribute) else None
    owner_name = getattr(owner, "id", getattr(owner, "attr", ""))
    if name == "from_pretrained":
        return "load" if "Model" in owner_name and "Peft" not in owner_name else None
    if name == "BitsAndBytesConfig":
        return "quant"
    if name in _ADAPTERS or (name == "get_peft_model" and call.keywords):
        return "peft"
    if _ARGUMENTS.search(name):
        return "args"
    return "trainer" if _TRAINERS.fullmatch(name) or OTHER_TRAINERS.fullmatch(name) else None


def _add_call(calls: Calls, kind: str, node: ast.Call, names: Mapping[str, ast.expr]) -> None:
    """Read the arguments of a call."""
    arguments = calls.arguments.setdefault(kind, {})
    function = node.func
    called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    owner = function.value if isinstance(function, ast.Attribute) else None
    if kind == "load" or (kind == "peft" and called == "get_peft_model"):
        calls.modules.update({"unsloth"} if str(getattr(owner, "id", "")).startswith("Fast") else ())
    calls.called[kind] = called
    if kind == "load" and node.args:
        arguments["model_name"] = _read(calls, kind, "model_name", node.args[0], names)
    for name, value in _list_keywords(calls, kind, node, names):
        arguments[name] = _read(calls, kind, name, value, names)
        if kind == "trainer" and name == "model" and not isinstance(arguments[name], str):
            del arguments[name]
    calls.arguments[kind] = {name: value for name, value in arguments.items() if value is not _UNREAD}


_UNREAD: Any = object()
# Arguments that are objects by nature, and whose calls are read where they stand.
_OBJECTS = frozenset(
    (
        *(
            "model",
            "tokenizer",
            "processing_class",
            "train_dataset",
            "eval_dataset",
            "args",
            "peft_config",
            "callbacks",
        ),
        *("data_collator", "formatting_func", "reward_funcs", "compute_metrics", "quantization_config", "ref_model"),
        *("token", "hub_token", "logging_steps", "output_dir", "run_name", "report_to", "device_map", "learning_rate"),
        *("max_steps", "num_train_epochs", "seed", "random_state", "warmup_steps", "dataset_text_field"),
    )
)


def _list_keywords(
    calls: Calls, kind: str, node: ast.Call, names: Mapping[str, ast.expr]
) -> Iterator[tuple[str, ast.expr]]:
    """Yield the keyword arguments of a call, those of a literal dictionary written out."""
    for keyword in node.keywords:
        if keyword.arg is not None:
            yield keyword.arg, keyword.value
            continue
        value: ast.expr | None = keyword.value
        if isinstance(value, ast.Name):
            value = names.get(value.id)
        if not isinstance(value, ast.Dict):
            calls.unread.append((kind, "**"))
            continue
        for key, item in zip(value.keys, value.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield key.value, item


def _read(calls: Calls, kind: str, name: str, node: ast.expr, names: Mapping[str, ast.expr]) -> Any:
    """Return the value of an argument, or note that it cannot be read."""
    try:
        return _evaluate(node, names, 0)
    except (_UnreadableError, RecursionError, TypeError, ValueError, OverflowError, ZeroDivisionError):
        if name not in _OBJECTS:
            calls.unread.append((kind, name))
        return _UNREAD


def _evaluate(node: ast.expr, names: Mapping[str, ast.expr], depth: int) -> Any:
    """Return the value of an expression that needs no running."""
    if depth > 20:
        raise _UnreadableError
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id in names:
        return _evaluate(names[node.id], names, depth + 1)
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_evaluate(item, names, depth + 1) for item in node.elts]
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {
            _evaluate(key, names, depth + 1): _evaluate(item, names, depth + 1)
            for key, item in pairs
            if key and not _is_configuration(item, names)
        }
    if isinstance(node, ast.Attribute) and node.attr in _DTYPES and getattr(node.value, "id", "") == "torch":
        return {"half": "float16", "float": "float32"}.get(node.attr, node.attr)
    if isinstance(node, ast.Call):
        function = node.func
        called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if called in _ASKS_FOR_BFLOAT16:
            return True
        if called == "dict" and not node.args and all(item.arg for item in node.keywords):
            return {str(item.arg): _evaluate(item.value, names, depth + 1) for item in node.keywords}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        value = _evaluate(node.operand, names, depth + 1)
        return not value if isinstance(node.op, ast.Not) else -value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = (_evaluate(side, names, depth + 1) for side in (node.left, node.right))
        if all(isinstance(side, int) and abs(side) < _LARGEST for side in (left, right)):
            return _OPERATORS[type(node.op)](left, right)
    raise _UnreadableError


def _is_configuration(node: ast.expr, names: Mapping[str, ast.expr]) -> bool:
    """Tell whether an expression makes a configuration, which is read as the call that it is."""
    node = names.get(node.id, node) if isinstance(node, ast.Name) else node
    function = node.func if isinstance(node, ast.Call) else None
    called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return str(called).endswith("Config")

"""Let transformers and PEFT find `inspector.quantization.bitsandbytes.modules` where they look for bitsandbytes.

Both ask whether the library is there when they are imported, and define their own layers for it only then. For the
time of a block the module answers to its name, and PEFT's files on it (peft/tuners/*/bnb.py) run over it, so that
PEFT's real layers sit on the stand-in. When the block ends everything is as it was.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType

import transformers.integrations.bitsandbytes as integration

from inspector.quantization.bitsandbytes import functional, modules
from inspector.runtime.patches import call_at_end, replace_item, restore_changes

__all__ = ["stand_in_for_bitsandbytes"]

_NAME = "bitsandbytes"
_QUESTIONS = ("is_bnb_available", "is_bnb_4bit_available")
# PEFT's files as they ran over the stand-in: once, so that their classes stay the same from block to block.
_COPIES: dict[str, ModuleType] = {}


@contextlib.contextmanager
def stand_in_for_bitsandbytes() -> Iterator[None]:
    """Let transformers and PEFT import the stand-in as `bitsandbytes` inside the block."""
    with restore_changes():
        stand_in = _build_stand_in()
        replace_item(sys.modules, _NAME, stand_in)
        replace_item(vars(integration), "bnb", stand_in)
        of_peft = [name for name, module in sys.modules.items() if name.startswith("peft.") and module is not None]
        for name in of_peft:
            values = vars(sys.modules[name])
            for question in _QUESTIONS:
                if question in values:
                    replace_item(values, question, _report_available)
        before = _list_layer_modules()
        call_at_end(_put_layers_back, before)
        for name in before:
            del sys.modules[name]
        sys.modules.update(_COPIES)
        yield


def _put_layers_back(before: dict[str, ModuleType]) -> None:
    """Keep what PEFT has defined on the stand-in apart from what it has defined on the library, if that is there."""
    for name, module in _list_layer_modules().items():
        if module is not before.get(name):
            _COPIES[name] = module
    for name in _COPIES.keys() - before.keys():
        sys.modules.pop(name, None)
        vars(sys.modules[name.rpartition(".")[0]]).pop("bnb", None)
    sys.modules.update(before)
    for name, module in before.items():
        vars(sys.modules[name.rpartition(".")[0]])["bnb"] = module


def _list_layer_modules() -> dict[str, ModuleType]:
    """Return PEFT's modules on bitsandbytes that are imported."""
    return {
        name: module
        for name, module in sys.modules.items()
        if name.startswith("peft.tuners.") and name.endswith(".bnb") and module is not None
    }


def _report_available() -> bool:
    """Answer that bitsandbytes is installed."""
    return True


def _build_stand_in() -> ModuleType:
    """Return a module called bitsandbytes, with the names that transformers and PEFT read of it."""
    module = ModuleType(_NAME)
    module.__spec__ = ModuleSpec(_NAME, None)
    functions = ModuleType(f"{_NAME}.functional")
    functions.__dict__.update(
        dequantize_4bit=functional.dequantize_4bit, int8_vectorwise_dequant=functional.int8_vectorwise_dequant
    )
    module.__dict__.update(nn=modules, functional=functions)
    return module

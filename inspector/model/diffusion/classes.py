"""Classes that a pipeline names: those that the installed diffusers and transformers have, and none of a repository."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from inspector.errors import UnsupportedModelError, one_line, quoted

__all__ = ["find_diffusers_class", "import_diffusers"]


def import_diffusers() -> Any:
    """Return the package; raises UnsupportedModelError with what to install where it is not there."""
    try:
        return importlib.import_module("diffusers")
    except Exception as error:  # its own dependencies raise errors of many kinds
        raise UnsupportedModelError(
            "a pipeline of diffusers is built by its own classes, which are not installed "
            f"({one_line(error, 80)}): run `pip install diffusers`."
        ) from error


def find_diffusers_class(name: str) -> Any:
    """Return a class of models of diffusers; raises UnsupportedModelError where it has none of that name."""
    package = import_diffusers()
    try:
        found = getattr(package, name, None) if name.isidentifier() else None
    except Exception as error:  # a class whose own imports fail
        raise UnsupportedModelError(f"diffusers cannot load {quoted(name, 60)} ({one_line(error, 120)}).") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module) and hasattr(found, "from_config")):
        raise UnsupportedModelError(
            f"diffusers {package.__version__} has no model class {quoted(name, 60)}; name a pipeline of its classes."
        )
    return found

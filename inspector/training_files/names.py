"""What a training file is called, and a notice of it: enough to tell one from an id, without loading what reads it."""

from __future__ import annotations

import os

__all__ = ["COMMAND_LINE", "SUFFIXES", "has_suffix", "is_missing_path"]

# The notice of a script whose arguments are typed.
COMMAND_LINE = "command-line"
SUFFIXES = (".yaml", ".yml", ".json", ".toml", ".ipynb", ".py")


def has_suffix(name: str) -> bool:
    """Tell whether a name is one of a kind of file that trainers read."""
    return name.lower().endswith(SUFFIXES)


def is_missing_path(model: object) -> bool:
    """Tell whether a model is named by a path that is not on this machine."""
    if not isinstance(model, str):
        return False
    from inspector.runtime.confinement import takes_local_paths  # with it come sockets

    is_url = "://" in model or "." in model.partition("/")[0].strip(".")  # hf.co/org/name, too
    is_path = model.startswith(("/", "./", "../", "~")) or (model.count("/") > 1 and not is_url)
    if not takes_local_paths():
        return is_path
    try:
        return is_path and not os.path.exists(os.path.expanduser(model))  # noqa: PTH110, PTH111  # any text may come
    except ValueError:  # a NUL
        return True

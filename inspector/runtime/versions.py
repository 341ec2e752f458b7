"""The versions that every figure depends on."""

from __future__ import annotations

import platform
from importlib import metadata

__all__ = ["find_versions"]


def find_versions() -> dict[str, str]:
    """Return the versions of the inspector, of the libraries that it runs and of Python, from package metadata."""
    return {
        "inspector": metadata.version("model-inspector"),
        **{name: metadata.version(name) for name in ("torch", "transformers", "peft")},
        "python": platform.python_version(),
    }

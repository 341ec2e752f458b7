"""Which release of a framework is installed."""

from __future__ import annotations

from importlib import metadata

from inspector.training_files.fields import Framework

__all__ = ["find_version"]


def find_version(framework: Framework) -> tuple[str, str]:
    """Return the installed version of a framework, else the newest that is known, and which of the two it is."""
    try:
        return metadata.version(framework.package), "installed"
    except metadata.PackageNotFoundError:
        return framework.newest, "newest"

"""Fixtures of the command's tests."""

from __future__ import annotations

from tests.source.conftest import hub

__all__ = ["hub"]

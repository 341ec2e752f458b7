"""How what makes the pictures or the sound of a batch is found: by the name of its processor or of its model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

__all__ = ["register_in"]

_Maker = TypeVar("_Maker")


def register_in(makers: dict[str, _Maker], *names: str) -> Callable[[_Maker], _Maker]:
    """Return a decorator that enters a maker under some names; ValueError where there is one already."""

    def register(maker: _Maker) -> _Maker:
        for name in names:
            if name in makers:
                raise ValueError(f"two makers for {name}")
            makers[name] = maker
        return maker

    return register

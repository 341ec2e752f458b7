"""How a private name of another library is declared, looked for, and missed."""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any, NoReturn

from inspector.compat.verified import VERIFIED
from inspector.errors import CompatibilityError

__all__ = ["NAMES", "Missing", "PrivateName", "private", "private_attribute"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateName:
    """A private name: its dotted path, what it is for, and what to do without it.

    `purpose` continues "which ... needs"; `instead` is for whoever supports a release without the name. `find` is the
    probe: it returns the object and raises AttributeError or ImportError where it is gone.
    """

    path: str
    purpose: str
    instead: str
    find: Callable[[], Any]

    @property
    def library(self) -> str:
        """Return the library that has the name."""
        return self.path.partition(".")[0]

    @property
    def seen_in(self) -> str:
        """Return the newest release that was seen to have the name: the newest that the inspector is verified with."""
        return VERIFIED[self.library].highest

    def resolve(self) -> Any:
        """Return the object, or what stands for a missing one: it raises CompatibilityError when it is first used."""
        try:
            return self.find()
        except (AttributeError, ImportError):
            return Missing(self)

    def refuse(self) -> NoReturn:
        """Raise CompatibilityError: the library, its version, the name and the verified versions in one sentence."""
        release = VERIFIED[self.library]
        raise CompatibilityError(
            f"{self.library} {metadata.version(self.library)} has no {self.path}, which {self.purpose} needs; use "
            f"{self.library} {release.lowest} to {release.highest}, with which model-inspector is verified."
        )


class Missing:
    """A private name that is gone: calling it, asking it for anything and deriving from it raise CompatibilityError."""

    def __init__(self, name: PrivateName) -> None:
        self.__name = name

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse to be called."""
        self.__name.refuse()

    def __getattr__(self, _attribute: str) -> NoReturn:
        """Refuse to be asked."""
        self.__name.refuse()

    def __instancecheck__(self, _instance: object) -> NoReturn:
        """Refuse to say what is an instance."""
        self.__name.refuse()

    def __mro_entries__(self, _bases: object) -> NoReturn:
        """Refuse to be a base class."""
        self.__name.refuse()


# Every private name by its path, in the order of declaration.
NAMES: dict[str, PrivateName] = {}


def private(path: str, *, purpose: str, instead: str) -> Any:
    """Declare a module, class, function or method by its dotted path, and return it, or a `Missing`."""
    return _declare(path, purpose, instead, lambda: _look_up(path))


def private_attribute(
    path: str, *, purpose: str, instead: str, example: Callable[[], Any] | None = None
) -> Callable[[Any], Any]:
    """Declare an attribute of instances, and return what reads it from one; `example` makes one to look at.

    Without `example` the class has the attribute too.
    """
    owner, _, name = path.rpartition(".")

    def find() -> Callable[[Any], Any]:
        getattr(_look_up(owner) if example is None else example(), name)
        return operator.attrgetter(name)

    read: Callable[[Any], Any] = _declare(path, purpose, instead, find)
    return read


def _declare(path: str, purpose: str, instead: str, find: Callable[[], Any]) -> Any:
    """Register a name and look for it."""
    if path in NAMES:
        raise ValueError(f"{path} is declared twice")
    NAMES[path] = PrivateName(path=path, purpose=purpose, instead=instead, find=find)
    return NAMES[path].resolve()


def _look_up(path: str) -> Any:
    """Return what a dotted path leads to, importing the modules on the way."""
    first, *rest = path.split(".")
    found: Any = importlib.import_module(first)
    for count, name in enumerate(rest, start=1):
        try:
            found = getattr(found, name)
        except AttributeError:
            if not hasattr(found, "__path__"):  # no package, so there is no module below it
                raise
            found = importlib.import_module(".".join((first, *rest[:count])))
    return found

"""Whether what two shallow models say of a deep one was held against a third, for layers of a structure.

A third shallow model, two periods deeper than the first, is traced and compared with what the first two say of it. That
costs one more short trace, and is done for a structure that is not known: the classes of the modules in a model's
repeated layers, adapter and packed weights included, on the releases of the libraries that are installed. Known ones
stand in structures.json, which `python -m tests.extrapolate.hold_structures` writes; what a user's machine held is kept
in its cache.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from inspector.extrapolate.layers import LayerExtrapolator
from inspector.extrapolate.template import TapeTemplate
from inspector.records.tape import Event, EventKind

__all__ = ["TABLE", "digest_structure", "extrapolate_depth", "load_structures", "sort_frees"]

TABLE = Path(__file__).with_name("structures.json")
# What decides how layers run.
_LIBRARIES = ("torch", "transformers", "peft")


def digest_structure(model: type, modules: Iterable[type]) -> str:
    """Return what is equal for models of a class whose repeated layers have modules of the same classes."""
    names = sorted({_name(kind) for kind in modules})
    return hashlib.sha256("\n".join((_name(model), *names)).encode()).hexdigest()[:16]


def load_structures(versions: Mapping[str, str]) -> frozenset[str]:
    """Return the structures that were held with the installed releases, none with others."""
    held_with, structures = _read_table()
    is_same = all(versions.get(name, "").partition("+")[0] == held_with.get(name) for name in _LIBRARIES)
    return structures if is_same else frozenset()


def extrapolate_depth(
    layers: LayerExtrapolator,
    shallow: Sequence[Event],
    missing: int,
    deepen: Callable[[int], Sequence[Event]],
    is_held: Callable[[Callable[[], bool]], bool],
) -> TapeTemplate | None:
    """Return the run of a model with `missing` periods more than that of a tape, None where shallow ones do not say it.

    `deepen` returns the tape with so many periods more; `is_held` whether that says enough: what is known, or what the
    function finds that it is given. Raises TooManyEventsError where the whole tape would be too long.
    """
    extrapolation = layers.extrapolate(shallow, missing)
    if extrapolation is None and layers.learn(shallow, deepen(1)):
        extrapolation = layers.extrapolate(shallow, missing)
    if extrapolation is None:
        return None

    def hold() -> bool:
        template = TapeTemplate(shallow, layers.extrapolate(shallow, 2))
        return _equals_but_for_frees(template.make_tape(template.sizes), deepen(2))

    return TapeTemplate(shallow, extrapolation) if is_held(hold) else None


def _equals_but_for_frees(tape: Sequence[Event], other: Sequence[Event]) -> bool:
    """Tell whether two tapes have the same events, but for the order of frees that follow each other."""
    return len(tape) == len(other) and all(
        one == two for one, two in zip(sort_frees(tape), sort_frees(other), strict=True)
    )


def sort_frees(tape: Iterable[Event]) -> Iterator[Event]:
    """Yield a tape with frees that follow each other in the order of their blocks: it changes no figure."""
    for are_frees, group in itertools.groupby(tape, key=lambda event: event.kind is EventKind.FREE):
        events = list(group)
        yield from sorted(events, key=lambda free: free.block) if are_frees else events


@functools.cache
def _read_table() -> tuple[Mapping[str, str], frozenset[str]]:
    """Return the releases of the libraries that structures were held with, and the structures."""
    table = json.loads(TABLE.read_text())
    return table["versions"], frozenset(table["structures"])


def _name(kind: type) -> str:
    """Return the name of a class with that of its module."""
    return f"{kind.__module__}.{kind.__qualname__}"

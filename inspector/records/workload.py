"""What is known of a kind of run before any of its code is loaded: its names, and what of a recipe it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from inspector.records.tape import Category, Phase

__all__ = ["WorkloadInfo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadInfo:
    """A kind of run, such as a training step.

    `name` is that of `--workload` and the report's key for what the run takes. `title` heads its section, `label` names
    its peak on the first screen, `summary` is its line in `--help`. `module` is where its code is, imported when it
    runs. `recipe_fields` are the fields of a `Recipe` that change it, `phases` its phases in order with what they are
    called, `note` which steps those are. `kept` says what a block is for that a phase made and left alive.
    `sized_until` is the first phase whose blocks do not depend on the batch size and the sequence length: a trace of
    the phases before it is enough for another size; None where all of them depend on it. `trains` tells whether weights
    are updated, so that an adapter and an optimizer mean something.
    """

    name: str
    title: str
    label: str
    summary: str
    module: str
    recipe_fields: frozenset[str]
    phases: Mapping[Phase, str]
    note: str
    kept: Mapping[Phase, Category]
    sized_until: Phase | None = None
    trains: bool = False

"""The largest value of a long generation that fits: found on a short one, then held against all of its steps.

All steps of a long generation are worked out anew for every size, which takes seconds. A few tokens after the same
prompt take no more than all of them, and are traced in a fraction of that: the value that fits for them is an upper
bound, and mostly the answer, since what peaks is rarely the last token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from inspector.planning.grid import Grid
from inspector.planning.largest import Experience, find_nearly_largest
from inspector.planning.quantities import set_value
from inspector.predict.predictor import Prediction, Predictor
from inspector.records.recipe import find_prompt_len
from inspector.resolve import ResolvedRun

__all__ = ["find_largest_generation"]

# Tokens of the short generation.
_FEW = 4
# How many values are held against all steps, that of the run itself and the upper bound among them.
_MOST_TRIALS = 6
# Values that lie no further apart than this share are the same to whoever reads them.
_NEAR = 0.01


def find_largest_generation(
    run: ResolvedRun,
    quantity: str,
    prediction: Prediction,
    predictor: Predictor,
    experience: Experience,
    *,
    unit: int,
) -> int:
    """Return nearly the largest value of a grid with which all steps of a generation fit, 0 where none does.

    `prediction` is that of the run itself. The value was worked out; that the next one does not fit was, too, or was
    estimated from what is reserved for its neighbours.
    """
    few = dataclasses.replace(run.request.recipe, new_tokens=min(run.recipe.new_tokens, _FEW))
    short = run.with_request(dataclasses.replace(run.request, recipe=few))
    most = find_nearly_largest(short, quantity, predictor, experience, unit=unit)
    if most == 0:
        return 0
    usable, margin = predictor.find_usable_bytes(run), predictor.find_unknown_bytes(run)
    grid = Grid(most, unit)
    present = run.recipe.batch_size if quantity == "batch-size" else find_prompt_len(run.recipe)
    reserved, fits = {}, {}
    value, own = present, prediction
    for _ in range(_MOST_TRIALS):
        if value not in fits:
            reserved[value] = own.replays.unlimited.peak_reserved_bytes
            fits[value] = reserved[value] <= usable - margin or own.replays.run_under(usable, margin)
        low = max((item for item in fits if fits[item]), default=0)
        high = min((item for item in fits if not fits[item]), default=0)
        if low >= most or (high and high - low <= max(_NEAR * low, unit)):
            break
        value = most if most not in fits else grid.value(grid.number(_estimate(reserved, usable - margin, low, high)))
        if value <= low or (high and value >= high):
            value = grid.value(grid.number((low + high) // 2))
        if value <= low:
            break
        own = predictor.copy_models().predict(run.with_request(set_value(run.request, quantity, value)))
    return low


def _estimate(reserved: Mapping[int, int], room: int, low: int, high: int) -> int:
    """Return where a line through what is reserved for two known values reaches what the card has.

    What fits by giving cached blocks back says nothing of that: then the middle.
    """
    first, second = (low, high) if low else tuple(sorted(reserved))[:2]
    growth = reserved[second] - reserved[first]
    if growth <= 0 or (low and reserved[low] > room):
        return (low + high) // 2
    return first + (room - reserved[first]) * (second - first) // growth

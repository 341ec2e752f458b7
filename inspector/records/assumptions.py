"""What a trace assumes of floating-point numbers, of which it has none, where control flow or a shape depends on them.

Each has a code, which is that of the notice in a report whose trace used it.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["ASSUMED", "CHECKS", "CHOICES", "DIFFERENCE", "LAYERS_DIFFER", "MATCHING", "PATCHES", "PLACES"]

CHECKS = "checks-assumed"
PLACES = "places-assumed"
MATCHING = "matching-assumed"
CHOICES = "choices-assumed"
PATCHES = "patches-assumed"

# What a report says of each, in the order in which it does.
ASSUMED: Mapping[str, str] = {
    CHECKS: "The step's code asks its floating-point numbers something, and a trace has none: checks are taken to pass "
    "(numbers are finite, boxes have their corners in order), and a comparison of two numbers to be false.",
    PLACES: "The step's code picks out numbers by comparing them, and a trace has none: all are taken to be within the "
    "bounds that are asked for, and none to be what one comparison alone looks for.",
    MATCHING: "Which prediction learns which object follows from floating-point costs: the trace matches them in turn, "
    "as many as any matching does.",
    PATCHES: "Bytes are put together by the entropy of what follows, which is no number here: the trace takes each "
    "patch to have the `patch_size` of the configuration.",
    CHOICES: "An index is chosen by floating-point numbers: the trace takes the first one each time.",
}

# What was found instead of assumed: shallow models did not say what a deeper one does.
LAYERS_DIFFER = "layers-differ"
DIFFERENCE = (
    "Layers that look alike were found to run in different ways in this model: the whole of it was traced, not a few "
    "of its layers."
)

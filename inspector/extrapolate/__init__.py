"""Fewer traces: the tape of a deep model, or of another size, from tapes of small ones.

A trace runs every operation of a step and takes a second or more; a plan needs hundreds of steps. Three regularities of
models and steps make most traces needless. Each is checked on tapes, and where it does not hold the step is traced.

1. *Layers repeat* (`LayerExtrapolator`). Two shallow models are traced, of which one has one more layer, and their
   tapes are laid beside each other. What the deeper one has more is what a layer adds, and the deep model has it once
   for each layer. The result is the tape of the whole model, event by event: blocks, sizes, categories, module paths.
2. *Updates repeat* (`TapeTemplate.derive_sizes`). At another batch size or sequence length the same operations run on
   tensors of other shapes. Only the first forward and backward passes are traced there; the optimizer's part and the
   second update follow from a step that was traced to its end. The result is exact, too. So it is where other
   operations run, as for a batch of several sequences (`Updates`).
3. *Sizes are polynomials* (`SizeInterpolator`). Two or three tapes that differ in sizes alone give the sizes at any
   other batch size, sequence length or rank. The result is an estimate: it says where the next trace is worth it.

In the same way as layers, positions repeat in layers that scan (`extrapolate.positions`), and steps in a long
generation (`extrapolate.steps`).

Between them stands the `TapeTemplate`: the events of a traced tape without their sizes, with the way in which they
become those of the whole model. `Sizes` are arrays with one number for each traced event. A template and sizes give
what `memory.replay` runs (`make_requests`), a bound of the peak without running it (`bound_peak`), and the whole tape
(`make_tape`).

    extrapolator = LayerExtrapolator()
    extrapolator.learn(tape_of_two_layers, tape_of_three_layers)
    template = TapeTemplate(tape_of_two_layers, extrapolator.extrapolate(tape_of_two_layers, layers=78))
    whole_tape = template.make_tape(template.sizes)

Which models are shallow, and by how many layers, is `inspector.model.truncate`'s to say; when to trace what,
`inspector.planning`'s.
"""

from inspector.extrapolate.interpolation import DEGREE, SizeInterpolator, interpolate
from inspector.extrapolate.layers import LayerExtrapolation, LayerExtrapolator
from inspector.extrapolate.template import Sizes, TapeTemplate
from inspector.extrapolate.updates import Updates

__all__ = [
    "DEGREE",
    "LayerExtrapolation",
    "LayerExtrapolator",
    "SizeInterpolator",
    "Sizes",
    "TapeTemplate",
    "Updates",
    "interpolate",
]

"""The closed choices of a training step, and what they have to be."""

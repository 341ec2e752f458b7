"""Training steps: loops, batches, optimizers, precision, how the model is loaded."""

"""Stored tensors beside the model."""

"""Fewer traces: the tape of a deep model, or of another size, from tapes of small ones."""

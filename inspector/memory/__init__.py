"""Counts -> bytes: pure arithmetic, no torch and no I/O."""

"""Parsers of untrusted bytes under random input: targets, seeds, and the share that every run repeats."""

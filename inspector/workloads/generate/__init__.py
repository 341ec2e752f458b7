"""Generation of text, as `model.generate` of transformers runs it."""

from inspector.workloads.generate.workload import Generate

__all__ = ["WORKLOAD"]

WORKLOAD = Generate()

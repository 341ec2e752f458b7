"""Training steps: loops, optimizers, and how the model is prepared for them."""

from inspector.workloads.training.workload import Training

__all__ = ["WORKLOAD"]

WORKLOAD = Training()

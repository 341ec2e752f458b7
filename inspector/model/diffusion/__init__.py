"""Pipelines of diffusers: the model that trains, as one of transformers, and what the others count.

diffusers is an extra (`model-inspector[diffusers]`), and imported where a pipeline is inspected.
"""

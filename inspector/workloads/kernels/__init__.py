"""Layers that have kernels in packages of their own: what runs them, and what a report says of it."""

"""Layers whose weights stay packed while an adapter trains on them, as the libraries that train there allocate."""

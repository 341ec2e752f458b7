"""Models with few of their repeated layers, and what follows for the whole model from two of them."""

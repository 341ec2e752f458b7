"""GPUs and platforms: the catalogue, memory sizes, which cards a request is about."""

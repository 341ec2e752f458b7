"""Serving engines: what they keep of a model, what they leave of a GPU for its cache, and how many requests that holds.

Nothing runs here: rules read from an engine's own source, each file naming the release, on the facts of a configuration
or of a GGUF header. What only the machine decides is a span.
"""

"""GGUF files: their header alone, from a path on this machine or from the Hub."""

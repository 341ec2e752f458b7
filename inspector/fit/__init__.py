"""The fit stage: bytes and a GPU -> a decision. Pure code, without torch; only the catalogue reads files."""

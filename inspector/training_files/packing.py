"""How many documents share a packed row: files say how long a row is, and their data sets how long documents are."""

from __future__ import annotations

from inspector.training_files.fields import Settings

__all__ = ["assume_documents", "count_documents"]

# What axolotl cuts a document to unless told otherwise (utils/schemas/config.py, `sequence_len`). Each document more
# takes 128 rows more of what flash-attn's backward pass adds up in, and nothing else.
_TOKENS = 512


def count_documents(row: int) -> int:
    """Return how many documents a row of so many tokens is taken to hold."""
    return max(row // _TOKENS, 1)


def assume_documents(settings: Settings, row: int) -> None:
    """Pack a row with documents of a length that no file says."""
    count = count_documents(row)
    settings.fields |= {"packing": count, "padding": False}
    settings.assume("documents of a packed sequence", f"{count} of {row // count} tokens", "packing")

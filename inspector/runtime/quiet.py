"""Keep the libraries' own chatter out of the report, and put everything back afterwards.

transformers, PEFT and accelerate log and warn while a model is built. What matters of it is said by the inspector's own
notices; `quietly` silences the rest for the time of a block: Python warnings, the libraries' loggers, and whatever is
printed (FRoD draws a progress bar).
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

__all__ = ["quietly"]

_LOGGERS = ("transformers", "peft", "accelerate", "huggingface_hub", "torch", "bitsandbytes")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silence warnings, the libraries' loggers and prints for the time of the block."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

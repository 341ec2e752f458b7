"""Keep the libraries' own chatter out of the report, and put everything back afterwards.

transformers, PEFT and accelerate log and warn while a model is built. What matters of it is in the inspector's own
notices; `silence_output` silences the rest for the time of a block: Python warnings, the libraries' loggers, and
whatever is printed (FRoD draws a progress bar).
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from inspector.runtime.patches import call_at_end, replace_attribute, restore_changes

__all__ = ["silence_output"]

_LOGGERS = ("transformers", "peft", "accelerate", "huggingface_hub", "torch", "bitsandbytes")


@contextlib.contextmanager
def silence_output() -> Iterator[None]:
    """Silence warnings, the libraries' loggers and prints for the time of the block."""
    with restore_changes():
        call_at_end(_set_filters, list(warnings.filters))
        call_at_end(setattr, warnings, "showwarning", warnings.showwarning)
        warnings.simplefilter("ignore")
        for name in ("stdout", "stderr"):
            replace_attribute(sys, name, io.StringIO())
        for logger in map(logging.getLogger, _LOGGERS):
            call_at_end(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        yield


def _set_filters(filters: Sequence[Any]) -> None:
    """Put the filters of warnings back; `resetwarnings` makes Python forget which warnings it has passed over."""
    warnings.resetwarnings()
    warnings.filters[:] = filters  # type: ignore[index]  # typed as read-only

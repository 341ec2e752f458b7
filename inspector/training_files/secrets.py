"""What of a training file is never repeated: tokens, keys and passwords, in whatever field they stand.

Fields that a table does not know are named and never shown; this is for the values of those that it knows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["hide_secrets"]

_HIDDEN = "<hidden>"
# The tokens of the services that training files name, credentials of a URL, and any long run that no name looks like.
_SECRET = re.compile(
    r"\b(?:hf|api_org|ghp|gho|github_pat|glpat|sk|pk|xox[abp]|wandb_v1|AKIA|ASIA)[-_A-Za-z0-9]{16,}"
    r"|(?<=://)[^/\s@]+@"
    r"|\b[0-9a-fA-F]{32,}\b"
    r"|\beyJ[-_A-Za-z0-9]{16,}\.[-_.A-Za-z0-9]+"
)
_SECRET_KEY = re.compile(r"token|secret|passw|api_?key|credential|auth", re.IGNORECASE)


def hide_secrets(value: Any) -> Any:
    """Return a value as it may be shown: plain, without what looks like a secret."""
    if isinstance(value, str):
        return _SECRET.sub(_HIDDEN, value)
    if isinstance(value, Mapping):
        return {
            str(key): _HIDDEN if _SECRET_KEY.search(str(key)) else hide_secrets(item) for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [hide_secrets(item) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(type(value).__name__)

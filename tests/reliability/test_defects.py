"""A defect of the inspector shows as one, where foreign values are read too."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest

from inspector.source import header_cache, listing


class DefectError(RuntimeError):
    """What no value of a file or a server raises."""


def fail(*_: Any, **__: Any) -> NoReturn:
    raise DefectError


def test_a_defect_is_not_taken_for_a_damaged_note(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be read anew for ever, without a word."""
    monkeypatch.setattr(header_cache, "read_object", fail)
    with pytest.raises(DefectError):
        header_cache.load_checkpoint("org/model", "0" * 40)


def test_a_defect_is_not_taken_for_a_hint_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint would be missing, without a word."""
    monkeypatch.setattr(listing, "_fetch_object", fail)
    with pytest.raises(DefectError):
        listing.list_near_revisions("org/model", "main")
    with pytest.raises(DefectError):
        listing.find_other_kind("org/model")

"""Why the published count of a model differs from the one here."""

from __future__ import annotations

import dataclasses

from inspector.records.checkpoint import Comparison
from inspector.records.model import Census

__all__ = ["explain_published"]


def explain_published(census: Census, comparison: Comparison, stored_elements: int) -> Census:
    """Say why the published count differs, where it is that of the stored elements and these are all accounted for."""
    published, beyond = census.published, comparison.beyond_parameters
    if published is None or published.explanation is not None or published.parameters != stored_elements:
        return census
    if not sum(beyond.values()) or census.base + sum(beyond.values()) != stored_elements:
        return census
    parts = ", ".join(f"{count:+,} {reason.replace('_', ' ')}" for reason, count in beyond.items() if count)
    explained = dataclasses.replace(published, explanation=f"What is stored beside the parameters: {parts}.")
    return dataclasses.replace(census, published=explained)

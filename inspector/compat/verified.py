"""The releases of other libraries with which the inspector was verified, as data; nothing heavy is imported.

For libraries that a count depends on, the lowest and the highest release with which the tests passed. For those that
are not installed, the release whose code was read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from inspector.records.notice import Notice

__all__ = ["VERIFIED", "VerifiedReleases", "find_unverified_versions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedReleases:
    """The lowest and the highest verified release of a library; both are one where its code was only read."""

    lowest: str
    highest: str
    is_read_only: bool = False

    def __str__(self) -> str:
        """Write the range as `inspect --version` shows it."""
        return f"{self.lowest} (read)" if self.is_read_only else f"{self.lowest} to {self.highest}"


VERIFIED: Mapping[str, VerifiedReleases] = {
    "torch": VerifiedReleases(lowest="2.9.0", highest="2.13.0"),
    "transformers": VerifiedReleases(lowest="5.1.0", highest="5.23.0"),
    "peft": VerifiedReleases(lowest="0.18.0", highest="0.21.2"),
    "accelerate": VerifiedReleases(lowest="1.4.0", highest="1.15.0"),
    "bitsandbytes": VerifiedReleases(lowest="0.50.0", highest="0.50.0", is_read_only=True),
    "flash-attn": VerifiedReleases(lowest="2.8.3", highest="2.8.3", is_read_only=True),
}


def find_unverified_versions(installed: Mapping[str, str]) -> tuple[Notice, ...]:
    """Return a notice for each of the `installed` libraries, name -> version, that is newer than the verified ones.

    Patch releases count: 2.13.1 is newer than 2.13.0. What follows the numbers (a local label such as "+cu128", a
    pre-release) does not. Names and versions that are not understood are passed over.
    """
    notices = []
    for name, version in installed.items():
        release = VERIFIED.get(name)
        if release is not None and _numbers(version) > _numbers(release.highest):
            message = (
                f"{name} {version} is newer than {release.highest}, the newest release that model-inspector was "
                "verified with: figures may differ; `inspect measure` compares a step with its prediction."
            )
            notices.append(Notice(code="unverified-version", message=message))
    return tuple(notices)


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a release without trailing zeros, so that 2.13 equals 2.13.0; none where there are none."""
    found = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in found[0].split(".")] if found else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)

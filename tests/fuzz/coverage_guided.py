"""Coverage-guided fuzzing with atheris: `python -m tests.fuzz.coverage_guided TARGET [libFuzzer options] [FOLDER]`.

    python -m tests.fuzz.coverage_guided header -runs=100000 -max_len=2048 corpus/header

Starts from tests/fuzz/seeds/TARGET and keeps what covers new code in FOLDER. atheris is no dependency of the project:
`pip install atheris` first. Not run by the tests; docs/evidence/reliability.md says when it was and what it found.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]  # for those who fuzz

__all__ = ["main"]


def main() -> None:
    """Fuzz the target that is named first."""
    with atheris.instrument_imports(include=["inspector", "json"]):
        from .targets import SEEDS, TARGETS

    name, *options = sys.argv[1:]
    atheris.Setup([sys.argv[0], *options, str(SEEDS / name)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()

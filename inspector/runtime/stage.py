"""What the work is at: words for whoever shows words, and how far it is where that is known."""

from __future__ import annotations

__all__ = ["Stage"]


class Stage(str):
    """What is being done now, in words, as one of several like it.

    `heading` names what they do together, `done` says how many are done, `total` how many there are at most. A string
    of its words everywhere else, so that whoever is called with a stage may take it for text.
    """

    __slots__ = ("done", "heading", "total")

    heading: str
    done: int
    total: int

    def __new__(cls, words: str, *, heading: str, done: int, total: int) -> Stage:
        """Return a stage; it may be the first (`done` is 0) of `total`."""
        stage = super().__new__(cls, words)
        stage.heading, stage.done, stage.total = heading, done, total
        return stage

    def __reduce__(self) -> tuple[object, ...]:
        """Return how it is made again in another process."""
        return _make_again, (str(self), self.heading, self.done, self.total)

    def put_behind(self, prefix: str) -> Stage:
        """Return the stage with what it belongs to in front."""
        return Stage(f"{prefix}: {self}", heading=f"{prefix}: {self.heading}", done=self.done, total=self.total)


def _make_again(words: str, heading: str, done: int, total: int) -> Stage:
    """Return a stage from its parts."""
    return Stage(words, heading=heading, done=done, total=total)

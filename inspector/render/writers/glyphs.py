"""What a stream can show: characters that its encoding lacks become ASCII, bars included."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["Charset"]

# Stand-ins for the characters that the project's own texts use; anything else that cannot be encoded becomes "?".
_ASCII = {
    "…": "~",
    "·": "*",
    "×": "x",
    "–": "-",
    "—": "-",
    "─": "-",
    "✓": "*",
    "’": "'",
    "“": '"',
    "”": '"',
    "²": "^2",
    "³": "^3",
    "Σ": "sum",
    "≈": "~",
    "≤": "<=",
    "≥": ">=",
    "−": "-",
}
_EIGHTHS = " ▏▎▍▌▋▊▉█"


class Charset:
    """The characters of one encoding; None stands for a stream that takes them all."""

    def __init__(self, encoding: str | None) -> None:
        self._encoding = encoding if encoding and _is_known(encoding) else None
        self.draws_blocks = all(self._can_encode(character) for character in _EIGHTHS)

    def fit(self, text: str) -> str:
        """Return `text` with stand-ins for the characters that the encoding lacks."""
        if self._can_encode(text):
            return text
        return "".join(self._replace_characters(text))

    def bar(self, share: float, width: int) -> str:
        """Return a bar of `share` (0 to 1) of `width` cells; a share above 0 always shows."""
        if not self.draws_blocks:
            cells = round(share * width)
            return "#" * cells if cells or not share else "."
        eighths = min(max(round(8 * share * width), 1 if share else 0), 8 * width)
        whole, rest = divmod(eighths, 8)
        return _EIGHTHS[8] * whole + (_EIGHTHS[rest] if rest else "")

    def _replace_characters(self, text: str) -> Iterator[str]:
        """Yield each character or its stand-in."""
        for character in text:
            yield character if self._can_encode(character) else _ASCII.get(character, "?")

    def _can_encode(self, text: str) -> bool:
        """Tell whether the encoding has every character of `text`."""
        if self._encoding is None:
            return True
        try:
            text.encode(self._encoding)
        except UnicodeEncodeError:
            return False
        return True


def _is_known(encoding: str) -> bool:
    """Tell whether Python has the encoding."""
    try:
        "".encode(encoding)
    except LookupError:
        return False
    return True

"""Text of strangers for a terminal or a page: what would move the cursor or turn the writing shows as an escape."""

import unicodedata

_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
"""Control characters, formatting (right-to-left overrides among it), halves of characters, private ones, line ends."""
_JOINERS = "\u200c\u200d"
"""Formatting that Persian, Hindi and emoji are written with, and that hides nothing."""


def printable(text: object, *, keep: str = "") -> str:
    r"""Text as a terminal shows it safely.

    Args:
        text: Anything that reads as text.
        keep: Characters that stay although they are hidden ones, such as a line's end.

    Returns:
        The text; a hidden character in it is written as Python writes it, such as `\x1b`.
    """
    text = str(text)
    if text.isprintable():
        return text
    kept = keep + _JOINERS
    return "".join(
        ascii(character)[1:-1] if character not in kept and unicodedata.category(character) in _HIDDEN else character
        for character in text
    )

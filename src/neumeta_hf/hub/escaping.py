"""Strings of strangers for a card, made inert for the place where they stand: one function per place.

Names, facts and recipes come from files that anybody may have written. What reads as plain words stands as it is; all
else is shown as code, in which nothing is a heading, a link, HTML or an end of something.
"""

import json
import re
from typing import Any

from neumeta_hf.printable import printable

_WORDS = re.compile(
    # No web address, which pages make a link of by themselves.
    r"(?!.*(?:://|www\.))[^\W_]+(?:(?:_+|=|[ ,.:()/%+-]+)[^\W_]+)*[).%]?",
    flags=re.IGNORECASE,
)
"""Letters and digits with punctuation between them that means nothing to Markdown."""


def plain(value: Any) -> str:
    """Escape a string for front matter, whose writer quotes it: one line, no hidden characters or HTML comments.

    Args:
        value: Anything that reads as text.
    """
    return _visible(printable(value))


def words(value: Any) -> str:
    """Escape a string for running text, list items and headings.

    Args:
        value: Anything that reads as text.
    """
    shown = plain(value)
    return shown if _WORDS.fullmatch(shown) else code(value)


def cell(value: Any) -> str:
    """Escape a string for a cell of a table, which no bar in it splits.

    Args:
        value: Anything that reads as text.
    """
    return words(str(value).replace("|", "\\x7c"))


def code(value: Any) -> str:
    """Escape a string as code within a line.

    Args:
        value: Anything that reads as text.
    """
    shown = plain(value) or " "
    marks = "`" * (_longest_run(shown) + 1)
    pad = " " if shown[0] in "` " or shown[-1] in "` " else ""
    return f"{marks}{pad}{shown}{pad}{marks}"


def block(value: Any, language: str) -> str:
    """Lines as a block of code, which no line in it ends.

    Args:
        value: Anything that reads as text.
        language: Language of the code.
    """
    shown = _visible(printable(value, keep="\n"))
    marks = "`" * max(3, _longest_run(shown) + 1)
    return f"{marks}{language}\n{shown}\n{marks}"


def literal(value: str) -> str:
    """Quote a string as Python and YAML write it, for a block of code.

    Args:
        value: A string.
    """
    return printable(json.dumps(value, ensure_ascii=False))


def _visible(text: str) -> str:
    """Without the start of an HTML comment: two of them mark the section of a card that is rewritten."""
    return text.replace("<!--", "\\x3c!--")


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)

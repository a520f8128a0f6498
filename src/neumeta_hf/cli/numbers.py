"""Numbers of the command line: widths, depths and budgets."""

import sys
from collections.abc import Callable
from decimal import Decimal
from typing import TypeVar

from neumeta_hf.errors import SizeError

_Number = TypeVar("_Number", int, float)

_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9}
"""What may stand after a budget, in either case."""


def parse_width(text: str) -> float | dict[str, float]:
    """Read the width of a morph.

    Args:
        text: "0.5", or "stage3=0.25,stage2=0.5".

    Returns:
        A ratio, or a ratio per width group.

    Raises:
        SizeError: The text is neither.
    """
    try:
        return _one_or_by_name(text, float)
    except ValueError as error:
        raise SizeError(
            f"width {text!r} is no size: give a ratio such as 0.5, or one per width group such as "
            "stage3=0.25,stage2=0.5."
        ) from error


def parse_depth(text: str) -> float | dict[str, int]:
    """Read the depth of a morph.

    Args:
        text: "0.67", or "stage3=2,stage2=1".

    Returns:
        A ratio, or a number of blocks per stack.

    Raises:
        SizeError: The text is neither.
    """
    try:
        return _one_or_by_name(text, int)
    except ValueError as error:
        raise SizeError(
            f"depth {text!r} is no depth: give a ratio such as 0.67, or a number of blocks per stack such as stage3=2."
        ) from error


def _one_or_by_name(text: str, kind: Callable[[str], _Number]) -> float | dict[str, _Number]:
    """One ratio, or a number of a kind by name; a ValueError where it is neither, or names something twice."""
    if "=" not in text:
        return float(text)
    numbers = [(name.strip(), kind(number)) for name, _, number in (part.partition("=") for part in text.split(","))]
    if len(dict(numbers)) < len(numbers):
        raise ValueError("a name is given twice")
    return dict(numbers)


def parse_budget(text: str, flag: str) -> float:
    """Read the most that a network may cost.

    Args:
        text: A number, with "k", "M" or "G" after it for thousands, millions and thousand millions: "200000", "200k".
        flag: Flag of the command, for the error.

    Returns:
        The number.

    Raises:
        SizeError: The text is not a number, or one that is not above 0 or not finite.
    """
    stripped = text.strip()
    factor = _UNITS.get(stripped[-1:].lower(), 1)
    try:
        number = Decimal(stripped[:-1] if factor > 1 else stripped) * factor
    except ArithmeticError:
        number = Decimal("nan")
    if not (number.is_finite() and 0 < number <= Decimal(sys.float_info.max)):
        raise SizeError(f"{flag} {text!r}: give a number above 0, such as 200000, 200k, 1.5M or 2G.")
    return float(number)

"""Widths as text, read and written."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

from neumeta_hf.errors import RecipeError


def parse_widths(text: str, *, what: str = "widths") -> list[float]:
    """Read a range or a list of widths.

    Args:
        text: "first:last:step", both ends included where the step meets them, or "a,b,c".
        what: The ratios are called in errors.

    Returns:
        Ratios, in the order given; decimals come out exact (0.1:0.3:0.1 is 0.1, 0.2, 0.3).

    Raises:
        RecipeError: The text is neither, a number is not finite, or the range has more than 10,000 widths.
    """
    try:
        if ":" not in text:
            return [float(_number(part)) for part in text.split(",")]
        first, last, step = (_number(part) for part in text.split(":"))
        if step <= 0 or last < first or last - first >= 10_000 * step:
            raise ValueError
        return [float(first + step * number) for number in range(int((last - first) / step) + 1)]
    except (InvalidOperation, ValueError) as error:
        raise RecipeError(
            f"{what} {text!r}: write first:last:step with a positive step (10,000 values at most), such as "
            "0.25:1.0:0.125, or a list such as 0.25,0.5,1.0."
        ) from error


def format_width(width: float | Mapping[str, float] | None, *, exact: bool = False) -> str:
    """Write a width as the command takes it.

    Args:
        width: A ratio, or a ratio per width group; None of a network that is of no family.
        exact: Every digit, for files that are read back; six at most otherwise.

    Returns:
        Such as "0.5" or "stage2=0.5,stage3=0.25"; "-" for None.
    """
    if width is None:
        return "-"
    if isinstance(width, Mapping):
        return ",".join(f"{group}={format_width(ratio, exact=exact)}" for group, ratio in width.items())
    return str(width) if exact else f"{width:g}"


def format_size(width: float | Mapping[str, float] | None, depth: float) -> str:
    """Write a width and a depth in as few words as say them.

    Args:
        width: As for `format_width`.
        depth: Ratio of blocks.

    Returns:
        Such as "0.5", or "0.5 depth 0.67" where blocks are left out.
    """
    return format_width(width) if depth == 1 else f"{format_width(width)} depth {depth:g}"


def _number(text: str) -> Decimal:
    number = Decimal(text.strip())
    if not number.is_finite():
        raise ValueError
    return number

"""Reading widths from text."""

from decimal import Decimal, InvalidOperation

from neumeta_hf.errors import RecipeError


def parse_widths(text: str) -> list[float]:
    """Read a range or a list of widths.

    Args:
        text: "first:last:step", both ends included where the step meets them, or "a,b,c".

    Returns:
        Ratios, in the order given; decimals come out exact (0.1:0.3:0.1 is 0.1, 0.2, 0.3).

    Raises:
        RecipeError: The text is neither.
    """
    try:
        if ":" not in text:
            return [float(Decimal(part.strip())) for part in text.split(",")]
        first, last, step = (Decimal(part.strip()) for part in text.split(":"))
        if step <= 0 or last < first:
            raise ValueError
        return [float(first + step * number) for number in range(int((last - first) / step) + 1)]
    except (InvalidOperation, ValueError) as error:
        raise RecipeError(
            f"widths {text!r}: write first:last:step with a positive step, such as 0.25:1.0:0.125, or a list such as "
            "0.25,0.5,1.0."
        ) from error

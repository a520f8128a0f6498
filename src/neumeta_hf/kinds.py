"""What a value of a file or a caller may be, as a rule in words and as a test. Errors are left to who reads it."""

import dataclasses
import numbers
import sys
from collections.abc import Callable
from typing import Any

MAX_RATIO = 4.0
"""Largest width: four times the channels of the reference."""
MAX_NOISE = 4.0
"""Largest coordinate noise, in channels."""
MAX_SEED = 2**63 - 1
"""Largest seed that every generator takes."""
MAX_SAMPLES = 10_000
"""Most generations that are averaged."""
MAX_ROWS = 10_000
"""Most sizes of a sweep."""
_MAX_COUNT = 2**63 - 1
_MAX_NUMBER = sys.float_info.max


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of value.

    Attributes:
        rule: What such a value is, in words that go on after "must be".
        holds: Whether a value is one.
    """

    rule: str
    holds: Callable[[Any], bool]

    def or_none(self) -> "Kind":
        """Make the kind that allows `None` as well."""
        return Kind(f"{self.rule}, or none", lambda value: value is None or self.holds(value))


def whole_number(least: int = 0, most: int = _MAX_COUNT) -> Kind:
    """Whole numbers of a range; True and False are none.

    Args:
        least: The smallest.
        most: The largest.
    """
    rule = f"a whole number from {least}" + (" up" if most == _MAX_COUNT else f" to {most}")
    return Kind(rule, lambda value: _is(value, numbers.Integral) and least <= int(value) <= most)


def number(least: float = -_MAX_NUMBER, most: float = _MAX_NUMBER) -> Kind:
    """Finite numbers of a range; True and False are none.

    Args:
        least: The smallest.
        most: The largest.
    """
    rule = (
        "a number"
        + {
            (True, True): "",
            (False, True): f" from {least:g} up",
            (True, False): f" of at most {most:g}",
            (False, False): f" from {least:g} to {most:g}",
        }[least == -_MAX_NUMBER, most == _MAX_NUMBER]
    )
    # NaN is neither below nor above anything, and infinity is above all that is finite.
    return Kind(rule, lambda value: _is(value, numbers.Real) and least <= _plain(value) <= most)


def text(most: int, least: int = 0) -> Kind:
    """Strings of a bounded length.

    Args:
        most: Characters at most.
        least: Characters at least.
    """
    return Kind(
        f"a text of {least} to {most} characters", lambda value: _is(value, str) and least <= len(value) <= most
    )


def mapping_of(kind: Kind, *, most: int = 64) -> Kind:
    """Mappings of names to values of one kind.

    Args:
        kind: Kind of the values.
        most: Entries at most.
    """
    return Kind(
        f"a mapping of at most {most} names, each to {kind.rule}",
        lambda value: (
            isinstance(value, dict)
            and len(value) <= most
            and all(NAME.holds(name) and kind.holds(inner) for name, inner in value.items())
        ),
    )


def list_of(kind: Kind) -> Kind:
    """Lists of values of one kind.

    Args:
        kind: Kind of the values.
    """
    return Kind(
        f"a list whose entries are each {kind.rule}",
        lambda value: isinstance(value, list) and all(map(kind.holds, value)),
    )


COUNT = whole_number()
SEED = whole_number(most=MAX_SEED)
NUMBER = number()
AMOUNT = number(least=0)
RATIO = number(0, 1)
WIDTH = Kind(
    f"a number above 0, of at most {MAX_RATIO:g}",
    lambda value: _is(value, numbers.Real) and 0 < _plain(value) <= MAX_RATIO,
)
YES_OR_NO = Kind("true or false", lambda value: isinstance(value, bool))
MAPPING = Kind("a mapping", lambda value: isinstance(value, dict))
LIST = Kind("a list", lambda value: isinstance(value, list))
NAME = text(200)
"""What a line of a card can hold."""


def _plain(value: Any) -> int | float:
    """Of numpy's numbers Python's: those of few bits round what they are compared with."""
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)

"""Numbers that networks are compared by, as results and cards describe them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

ROW_KEYS = ("width", "depth", "num_parameters", "macs", "compression_rate", "trained", "in_range")
"""What a row of a sweep says beside its scores, which have other names."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """A number that networks are compared by.

    Attributes:
        name: Its key in results; none of `ROW_KEYS`.
        label: Its name on axes and in tables.
        is_ratio: Whether it is a ratio, which is shown in percent.
        larger_is_better: Whether networks are selected for a large one.
        hub_name: The Hub's identifier of the metric.
    """

    name: str
    label: str
    is_ratio: bool = False
    larger_is_better: bool = True
    hub_name: str | None = None

    def format(self, value: float | None) -> str:
        """Format a value for a table.

        Args:
            value: As in results; None: not finite.

        Returns:
            Such as "91.25%" or "0.01234".
        """
        return "-" if value is None else f"{value:.2%}" if self.is_ratio else f"{value:.4g}"

    def to_dict(self) -> dict[str, Any]:
        """Write the fields as plain values, for a result."""
        return dataclasses.asdict(self)


ACCURACY = Score(name="accuracy", label="accuracy", is_ratio=True, hub_name="accuracy")


def score_of(facts: Mapping[str, Any]) -> Score:
    """Find the score that a result compares networks by.

    Args:
        facts: Facts of the result. Older ones that do not name a score are of classification.

    Returns:
        What their "score" says.
    """
    return Score(**facts["score"]) if "score" in facts else ACCURACY

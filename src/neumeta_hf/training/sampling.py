"""Which sizes a training step draws."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from neumeta_hf.errors import RecipeError

Draw = float | Mapping[str, float]

_MAX_DRAWS = 1000


class SizeSampler:
    """Draws the sizes of each step, as a function of the seed and the step alone.

    No process number enters, so all processes train at the same sizes; no state either, so a resumed run draws what the
    uninterrupted one would have.

    Args:
        widths: Uniform widths to draw from.
        sampler: "uniform" (the paper's: random widths only) or "sandwich" (Yu and Huang 2019, arXiv:1903.05134: the
            largest and the smallest at every step, then random ones).
        smallest_share: How often the smallest of a sandwich is the smallest width there is; else it is a random one
            below twice that. At 1 that width is learned better than those just above it.
        num_random: Random uniform widths per step.
        num_per_group: Random sizes per step in which width groups draw on their own, after the uniform ones.
        groups: The width groups to whether one follows another group unless it is named; such a group draws its own
            width half of the time, so that sizes which differ by stage come up as well as sizes which differ by layer.
        is_possible: Whether the family has a network of a size; those that it has not are drawn again.
        seed: Of the draws.

    Raises:
        RecipeError: There are no widths, no step would draw any, or there are no groups to draw for.
    """

    def __init__(
        self,
        widths: Sequence[float],
        *,
        sampler: str,
        smallest_share: float = 1.0,
        num_random: int,
        num_per_group: int = 0,
        groups: Mapping[str, bool] | None = None,
        is_possible: Callable[[Draw], bool] | None = None,
        seed: int,
    ):
        if not widths or (sampler != "sandwich" and num_random + num_per_group < 1):
            raise RecipeError(
                f"sizes draws nothing from widths={list(widths)} with sampler={sampler!r}, num_random={num_random} and "
                f"num_per_group={num_per_group}: name at least one width, and draw one per step or use the sandwich "
                "sampler."
            )
        if num_per_group and not groups:
            raise RecipeError(f"sizes.num_per_group={num_per_group} draws for width groups, and there are none.")
        self.widths = sorted(widths)
        self.sampler = sampler
        self.smallest_share = smallest_share
        self.num_random = num_random
        self.num_per_group = num_per_group
        self.groups = dict(groups or {})
        self.is_possible = is_possible
        self.seed = seed

    def draw(self, step: int) -> list[Draw]:
        """Sizes of step `step`, the largest first where it is always drawn."""
        rng = np.random.default_rng((self.seed, step))
        fixed: list[Draw] = [self.widths[-1], self._draw_smallest(rng)] if self.sampler == "sandwich" else []
        uniform: list[Draw] = [float(rng.choice(self.widths)) for _ in range(self.num_random)]
        return fixed + uniform + [self._draw_per_group(rng) for _ in range(self.num_per_group)]

    def _draw_smallest(self, rng: np.random.Generator) -> float:
        smallest = self.widths[0]
        if self.smallest_share == 1 or rng.random() < self.smallest_share:
            return smallest
        return float(rng.choice([width for width in self.widths if width < 2 * smallest]))

    def _draw_per_group(self, rng: np.random.Generator) -> Draw:
        for _ in range(_MAX_DRAWS):
            size = {
                group: float(rng.choice(self.widths))
                for group, follows in self.groups.items()
                if not follows or rng.random() < 0.5
            }
            if self.is_possible is None or self.is_possible(size):
                return size
        raise RecipeError(
            f"sizes.num_per_group: none of {_MAX_DRAWS} random sizes is possible for the family. Set it to 0, or "
            "choose a narrower range of widths."
        )

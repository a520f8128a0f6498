"""Which sizes a training step draws."""

from collections.abc import Mapping, Sequence

import numpy as np

from neumeta_hf.errors import RecipeError

Draw = float | Mapping[str, float]


class SizeSampler:
    """Draws the sizes of each step, as a function of the seed and the step alone.

    No process number enters, so all processes train at the same sizes; no state either, so a resumed run draws what the
    uninterrupted one would have.

    Args:
        widths: Uniform widths to draw from.
        sampler: "uniform" (the paper's: random widths only) or "sandwich" (Yu and Huang 2019, arXiv:1903.05134: the
            largest and the smallest at every step, then random ones).
        num_random: Random widths per step.
        groups: Width groups to draw on their own for the random sizes; empty for uniform widths.
        seed: Of the draws.

    Raises:
        RecipeError: There are no widths, or no step would draw any.
    """

    def __init__(
        self, widths: Sequence[float], *, sampler: str, num_random: int, groups: Sequence[str] = (), seed: int
    ):
        if not widths or (sampler != "sandwich" and num_random < 1):
            raise RecipeError(
                f"sizes draws nothing from widths={list(widths)} with sampler={sampler!r} and num_random={num_random}: "
                "name at least one width, and draw one per step or use the sandwich sampler."
            )
        self.widths = sorted(widths)
        self.sampler = sampler
        self.num_random = num_random
        self.groups = list(groups)
        self.seed = seed

    def draw(self, step: int) -> list[Draw]:
        """Sizes of step `step`, the largest first where it is always drawn."""
        rng = np.random.default_rng((self.seed, step))
        fixed: list[Draw] = [self.widths[-1], self.widths[0]] if self.sampler == "sandwich" else []
        drawn: list[Draw] = []
        for _ in range(self.num_random):
            if self.groups:
                drawn.append({group: float(rng.choice(self.widths)) for group in self.groups})
            else:
                drawn.append(float(rng.choice(self.widths)))
        return fixed + drawn

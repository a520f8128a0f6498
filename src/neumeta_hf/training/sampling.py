"""Which sizes a training step draws."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from neumeta_hf.errors import RecipeError
from neumeta_hf.evaluation import parse_widths
from neumeta_hf.modeling_neumeta import NeuMetaModel
from neumeta_hf.training.recipe import Recipe

Draw = float | Mapping[str, float]

_MAX_DRAWS = 1000


class SizeSampler:
    """Draws the sizes of each step, as a function of the seed and the step alone.

    No process number enters, so all processes train at the same sizes; no state either, so a resumed run draws what the
    uninterrupted one would have.

    Args:
        widths: Uniform widths to draw from.
        depths: Ratios of blocks to draw from.
        sampler: "uniform" (the paper's: random widths only) or "sandwich" (Yu and Huang 2019, arXiv:1903.05134: the
            largest and the smallest at every step, then random ones).
        smallest_share: Probability that the sandwich's small width is the minimum; otherwise it is a random one below
            twice that. At 1 the minimum is learned better than the widths just above it.
        turns: Widths that the sandwich's largest cycles through, one per step. Full size starts at the reference and
            costs the most, so it needs fewer steps. Empty: the largest width at every step.
        always: Widths that every step has, after those of the sandwich. They are learned better than widths that a step
            draws now and then.
        num_random: Random uniform widths per step.
        num_per_group: Random sizes per step in which width groups draw on their own, after the uniform ones.
        smallest_per_group: Probability that such a group takes the smallest width.
        alternate: Whether even steps draw the uniform widths and odd steps those per group, instead of both at every
            step.
        strata: Number of intervals, of equal length on a logarithmic scale, that the widths are divided into. Random
            draws take the intervals in turn, in an order that changes, and so does every group. 0: each width is as
            likely as any other, so most draws are large sizes.
        groups: Width group to whether it follows another group unless it is named. Such a group draws its own width
            half of the time, so sizes differ by stage as well as by layer.
        is_possible: Whether the family has a network of a size; other sizes are drawn again.
        seed: Seed of the draws.

    Raises:
        RecipeError: There are no widths, or a step would draw none. Or an option has nothing to act on: no group to
            draw for, no sandwich for `turns`, nothing to alternate, no width in one of the strata. Or `turns` or
            `always` names a width that `widths` lacks.
    """

    def __init__(
        self,
        widths: Sequence[float],
        *,
        depths: Sequence[float] = (1.0,),
        sampler: str,
        smallest_share: float = 1.0,
        turns: Sequence[float] = (),
        always: Sequence[float] = (),
        num_random: int,
        num_per_group: int = 0,
        smallest_per_group: float = 0.0,
        alternate: bool = False,
        strata: int = 0,
        groups: Mapping[str, bool] | None = None,
        is_possible: Callable[[Draw], bool] | None = None,
        seed: int,
    ):
        if not widths or (sampler != "sandwich" and not always and num_random + num_per_group < 1):
            raise RecipeError(
                f"sizes draws nothing from widths={list(widths)} with sampler={sampler!r}, num_random={num_random} and "
                f"num_per_group={num_per_group}: name at least one width, and draw one per step or use the sandwich "
                "sampler."
            )
        for key, named in (("turns", turns), ("always", always)):
            if unknown := sorted(set(named) - set(widths)):
                raise RecipeError(
                    f"sizes.{key}={list(named)}: {unknown[0]:g} is not among sizes.widths, {sorted(widths)}. Add it "
                    "there."
                )
        if turns and sampler != "sandwich":
            raise RecipeError(
                f"sizes.turns={list(turns)} with sampler={sampler!r}: turns take the place of the largest width of a "
                "sandwich. Set the sampler to sandwich, or leave turns out."
            )
        if alternate and not (num_random and num_per_group):
            raise RecipeError(
                f"sizes.alternate with num_random={num_random} and num_per_group={num_per_group}: steps alternate "
                "between the two kinds of size. Give both at least 1, or leave alternate out."
            )
        if smallest_per_group and not num_per_group:
            raise RecipeError(
                f"sizes.smallest_per_group={smallest_per_group:g} with num_per_group=0: no group draws on its own. Set "
                "num_per_group to at least 1, or leave smallest_per_group out."
            )
        if num_per_group and not groups:
            raise RecipeError(
                f"sizes.num_per_group={num_per_group} draws for width groups, but this family has no width groups. "
                "Set it to 0."
            )
        self.widths = sorted(widths)
        self.depths = sorted(depths)
        self.sampler = sampler
        self.smallest_share = smallest_share
        self.turns = list(turns)
        self.always = list(always)
        self.num_random = num_random
        self.num_per_group = num_per_group
        self.smallest_per_group = smallest_per_group
        self.alternate = alternate
        self.strata = _divide(self.widths, strata)
        self.groups = dict(groups or {})
        self.is_possible = is_possible
        self.seed = seed

    def draw(self, step: int) -> list[Draw]:
        """Sizes of step `step`, those of the sandwich first."""
        rng = np.random.default_rng((self.seed, step))
        largest = self.turns[step % len(self.turns)] if self.turns else self.widths[-1]
        fixed: list[Draw] = [largest, self._draw_smallest(rng)] if self.sampler == "sandwich" else []
        num_random, num_per_group, turn = self.num_random, self.num_per_group, step
        if self.alternate:
            num_random, num_per_group = (num_random, 0) if step % 2 == 0 else (0, num_per_group)
            turn = step // 2
        # Of all draws of its kind, which number a draw has says which stratum it is of.
        uniform: list[Draw] = [self._draw_width(rng, 0, turn * num_random + number) for number in range(num_random)]
        per_group = [self._draw_per_group(rng, turn * num_per_group + number) for number in range(num_per_group)]
        return [*fixed, *self.always, *uniform, *per_group]

    def draw_depths(self, step: int, number: int) -> list[float]:
        """Depths of the sizes of step `step`.

        Args:
            step: Number of the step.
            number: How many sizes it has.

        Returns:
            Ratios, in the order of the sizes.
        """
        if len(self.depths) == 1:
            return self.depths * number
        rng = np.random.default_rng((self.seed, step, 1))
        extremes = (
            [self.depths[-1], self.depths[0]][:: 1 if step % 2 == 0 else -1] if self.sampler == "sandwich" else []
        )
        return [*extremes, *(float(rng.choice(self.depths)) for _ in range(number - len(extremes)))]

    def _draw_smallest(self, rng: np.random.Generator) -> float:
        smallest = self.widths[0]
        if self.smallest_share == 1 or rng.random() < self.smallest_share:
            return smallest
        return float(rng.choice([width for width in self.widths if width < 2 * smallest]))

    def _draw_width(self, rng: np.random.Generator, axis: int, number: int | None) -> float:
        """Draw a random width.

        Args:
            rng: Generator of random numbers of the step.
            axis: 0 for uniform widths, then 1 for the first group and so on: each has its own order of strata.
            number: Number of the draw, among all of its kind. None: of any stratum.
        """
        if not self.strata or number is None:
            return float(rng.choice(self.widths))
        cycle, position = divmod(number, len(self.strata))
        order = np.random.default_rng((self.seed, cycle, axis, 2)).permutation(len(self.strata))
        return float(rng.choice(self.strata[order[position]]))

    def _draw_of_group(self, rng: np.random.Generator, axis: int, number: int | None) -> float:
        if self.smallest_per_group and rng.random() < self.smallest_per_group:
            return self.widths[0]
        return self._draw_width(rng, axis, number)

    def _draw_per_group(self, rng: np.random.Generator, number: int) -> Draw:
        for attempt in range(_MAX_DRAWS):
            size = {
                # The strata of an impossible size may have no possible one.
                group: self._draw_of_group(rng, axis, number if attempt == 0 else None)
                for axis, (group, follows) in enumerate(self.groups.items(), start=1)
                if not follows or rng.random() < 0.5
            }
            if self.is_possible is None or self.is_possible(size):
                return size
        raise RecipeError(
            f"sizes.num_per_group: none of {_MAX_DRAWS} random sizes is possible for the family. Set it to 0, or "
            "choose a narrower range of widths."
        )


def _divide(widths: Sequence[float], number: int) -> list[list[float]]:
    """Divide ascending widths into stretches of equal length on a logarithmic scale; none for 0 or 1."""
    if number < 2:
        return []
    strata: list[list[float]] = [[] for _ in range(number)]
    if widths[0] > 0:
        span = math.log(widths[-1] / widths[0]) or 1.0
        for width in widths:
            # A width on a border belongs to the upper stretch, whatever its logarithm was rounded to.
            strata[min(int(number * math.log(width / widths[0]) / span + 1e-9), number - 1)].append(width)
    if not all(strata):
        raise RecipeError(
            f"sizes.strata={number}: no width of {[float(w) for w in widths]} lies in stretch {strata.index([]) + 1} "
            f"of the {number} that divide {widths[0]:g} to {widths[-1]:g} evenly on a logarithmic scale. Name more "
            "widths, or take fewer strata."
        )
    return strata


def training_widths(recipe: Recipe) -> list[float]:
    """List the uniform widths that a recipe trains at.

    Args:
        recipe: The run.

    Returns:
        Ratios in ascending order.
    """
    return _ascending(recipe.sizes.widths, "sizes.widths")


def training_depths(recipe: Recipe) -> list[float]:
    """List the depths that a recipe trains at.

    Args:
        recipe: The run.

    Returns:
        Ratios in ascending order.
    """
    return _ascending(recipe.sizes.depths, "sizes.depths")


def _ascending(ratios: list[float] | str, key: str) -> list[float]:
    return sorted(parse_widths(ratios, what=key) if isinstance(ratios, str) else ratios)


def validation_widths(recipe: Recipe) -> list[float]:
    """List the uniform widths that selection evaluates.

    Args:
        recipe: The run.

    Returns:
        Ratios; the smallest, the middle and the largest trained where the recipe names none.
    """
    widths = training_widths(recipe)
    return recipe.validation_widths or sorted({widths[0], widths[len(widths) // 2], widths[-1]})


def make_sampler(recipe: Recipe, model: NeuMetaModel, **options: Any) -> SizeSampler:
    """Make the sampler that draws the sizes of a recipe's training steps.

    Args:
        recipe: The run.
        model: Its family.
        **options: Options of `SizeSampler`, instead of all that the recipe's `sizes` says but the widths.

    Returns:
        A sampler of the recipe's seed.

    Raises:
        RecipeError: The recipe names no widths, or a step would draw nothing.
    """
    options = options or {name: value for name, value in vars(recipe.sizes).items() if name not in ("widths", "depths")}
    groups = {group: model.space.axes[group].parent is not None for group in model.width_groups}
    depths = training_depths(recipe)
    return SizeSampler(
        training_widths(recipe), depths=depths, groups=groups, is_possible=model.has_size, seed=recipe.seed, **options
    )

"""The largest network of a family that a budget allows."""

import bisect
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from torch import nn

from neumeta_hf.errors import SizeError, one_line
from neumeta_hf.evaluation.cost import count_macs, count_parameters
from neumeta_hf.kinds import NUMBER, whole_number
from neumeta_hf.modeling_neumeta import NeuMetaModel

Cost = Literal["parameters", "macs"]


def find_width(
    model: NeuMetaModel,
    budget: float,
    *,
    cost: Cost | Callable[[nn.Module], float] = "macs",
    multiple_of: int = 1,
    depth: float | Mapping[str, int] = 1.0,
) -> float:
    """Find the largest uniform width, within the trained range, whose network costs no more than a budget.

    Args:
        model: The family.
        budget: The most that the network may cost, above 0.
        cost: "macs" (multiply-accumulates of one image) or "parameters", both of the whole network; or a function of a
            network in evaluation mode, such as its measured seconds on a device. It gets networks with random weights,
            return a number from 0 up that grows with the width: some ten widths are tried, by bisection.
        multiple_of: Only widths at which the number of channels of every group in `model.width_groups` is a multiple of
            it, such as 8: GPUs are no faster with a few channels fewer.
        depth: Depth of all networks that are tried, as for `morph`.

    Returns:
        A ratio for all width groups, for `morph` with the same depth.

    Raises:
        SizeError: The budget is not a number above 0, or is below the cost of the smallest width. `cost` is unknown or
            returns no number. No network has the depth, or no width has such channels.
    """
    if not (NUMBER.holds(budget) and budget > 0):
        raise SizeError(f"budget={budget!r}: give a finite number above 0, such as 300_000.")
    family = model.target_family
    known = {
        "parameters": count_parameters,
        "macs": functools.partial(
            count_macs, example_inputs=family.example_batch(model.reference_config, 1), family=family
        ),
    }
    if isinstance(cost, str) and cost not in known:
        raise SizeError(f"cost={cost!r}: give one of {', '.join(get_args(Cost))}, or a function of a network.")

    def cost_at(width: float) -> float:
        size = model.size_at(width, depth=depth)
        if isinstance(cost, str):
            return known[cost](model.skeleton_at(size))  # counting needs shapes alone
        return _as_cost(cost(family.build(family.config_at(model.reference_config, size)).eval()), width)

    widths = _widths_of_multiples(model, multiple_of, depth)
    number = bisect.bisect_right(widths, budget, key=cost_at)
    if number == 0:
        rule = f" with multiples of {multiple_of} channels" if multiple_of > 1 else ""
        raise SizeError(
            f"a budget of {budget:,g} is less than the {cost_at(widths[0]):,g} of the smallest width{rule}, "
            f"{widths[0]:g}: give more, or train the family at smaller widths."
        )
    return widths[number - 1]


def nearest_width(
    model: NeuMetaModel, width: float, *, multiple_of: int, depth: float | Mapping[str, int] = 1.0
) -> float:
    """Find the uniform width nearest to another whose channels are all multiples of a number.

    Args:
        model: The family.
        width: The ratio asked for.
        multiple_of: What the number of channels of every group in `model.width_groups` has to be a multiple of.
        depth: Depth of the network, as for `morph`.

    Returns:
        The ratio itself where it has such channels; else the nearest in the trained range, of two the smaller.

    Raises:
        SizeError: `multiple_of` is no such number, no network has the width asked for, or no width is near: where one
            is, no group changes by `multiple_of` channels or more.
    """

    def channels_at(width: float) -> list[int]:
        size = model.size_at(width, depth=depth)
        return [size[group] for group in model.width_groups]

    asked = channels_at(width)
    if whole_number(1).holds(multiple_of) and not any(count % multiple_of for count in asked):
        return width
    nearest = min(_widths_of_multiples(model, multiple_of, depth), key=lambda found: (abs(found - width), found))
    if any(abs(now - before) >= multiple_of for now, before in zip(channels_at(nearest), asked, strict=True)):
        raise SizeError(
            f"multiple_of={multiple_of}: no width near {width:g} has a multiple of {multiple_of} channels in every "
            f"group, the nearest is {nearest:g}. Ask for that one, or for a smaller multiple."
        )
    return nearest


def uniform_widths(model: NeuMetaModel) -> list[float]:
    """List the uniform widths of a family: at least one for every network that a uniform width gives.

    Args:
        model: The family.

    Returns:
        Ratios in ascending order, from the smallest to the largest that training drew; of a family that was not trained
        yet, all up to 1.
    """
    trained = model.config.trained_widths or (0.0, 1.0)
    ratios = {float(width) for width in model.config.trained_widths}
    for group in model.width_groups:
        axis = model.space.axes[group]
        units = axis.full // axis.step
        # Where a count begins, halves being rounded upwards, and where it is exact, which reads better.
        ratios |= {half / (2 * units) for half in range(1, int(2 * max(trained) * units) + 1)}
    in_range = (ratio for ratio in sorted(ratios) if min(trained) <= ratio <= max(trained))
    return [ratio for ratio in in_range if model.has_size(ratio)]


def _as_cost(value: Any, width: float) -> float:
    """What a function of the caller's has returned, which may be a number of numpy or torch."""
    try:
        cost = math.nan if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        cost = math.nan
    if not cost >= 0:
        raise SizeError(
            f"cost returned {one_line(value)} for the network of width {width:g}: a cost is a number from 0 up, which "
            "grows with the width."
        )
    return cost


def _widths_of_multiples(model: NeuMetaModel, multiple_of: int, depth: float | Mapping[str, int]) -> list[float]:
    if not whole_number(1).holds(multiple_of):
        rule = "give a number of channels from 1 up, or 1 for any."
        raise SizeError(f"multiple_of={multiple_of!r}: {rule}", command=f"--multiple-of {multiple_of}: {rule}")
    widths = uniform_widths(model)
    if multiple_of == 1:
        return widths

    def divisor_at(width: float) -> int:
        size = model.size_at(width, depth=depth)  # groups of blocks that are left out have 0, a multiple of all
        return math.gcd(*(size[group] for group in model.width_groups))

    divisors = {width: divisor_at(width) for width in widths}
    if found := [width for width, divisor in divisors.items() if divisor % multiple_of == 0]:
        return found
    problem = (
        f"no width tried from {widths[0]:g} to {widths[-1]:g} has a multiple of {multiple_of} channels in every width "
        f"group. Give {max(divisors.values())}, the largest multiple that one of them has, or 1 for any width."
    )
    raise SizeError(f"multiple_of={multiple_of}: {problem}", command=f"--multiple-of {multiple_of}: {problem}")

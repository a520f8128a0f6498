"""The largest network of a family that a budget allows."""

import bisect
import functools
from collections.abc import Callable
from typing import Literal, get_args

from torch import nn

from neumeta_hf.errors import SizeError
from neumeta_hf.evaluation.cost import count_macs, count_parameters
from neumeta_hf.modeling_neumeta import NeuMetaModel

Cost = Literal["parameters", "macs"]


def find_width(model: NeuMetaModel, budget: float, *, cost: Cost | Callable[[nn.Module], float] = "macs") -> float:
    """The largest uniform width, within the trained range, whose network costs no more than a budget.

    Args:
        model: The family.
        budget: The most that the network may cost.
        cost: "macs" (multiply-accumulates of one image) or "parameters", both of the whole network; or a function of a
            network in evaluation mode, such as its measured seconds on a device. It gets networks with random weights,
            and must grow with the width: some ten widths are tried, by bisection.

    Returns:
        A ratio for all width groups, for `morph`.

    Raises:
        SizeError: The budget is below the cost of the smallest width, or `cost` is no cost.
    """
    family = model.family
    known = {
        "parameters": count_parameters,
        "macs": functools.partial(
            count_macs, example_inputs=family.example_inputs(model.reference_config, 1), family=family
        ),
    }
    if isinstance(cost, str) and cost not in known:
        raise SizeError(f"cost={cost!r}: give one of {', '.join(get_args(Cost))}, or a function of a network.")

    def cost_at(width: float) -> float:
        config = model.target_config_at(width)
        # Counting needs shapes alone.
        return known[cost](model.skeleton_at(config)) if isinstance(cost, str) else cost(family.build(config).eval())

    widths = uniform_widths(model)
    number = bisect.bisect_right(widths, budget, key=cost_at)
    if number == 0:
        raise SizeError(
            f"a budget of {budget:,g} is less than the {cost_at(widths[0]):,g} of the smallest width, {widths[0]:g}: "
            "give more, or train the family at smaller widths."
        )
    return widths[number - 1]


def uniform_widths(model: NeuMetaModel) -> list[float]:
    """The uniform widths of a family, one for every number of channels that a width group can have.

    Args:
        model: The family.

    Returns:
        Ratios in ascending order, from the smallest to the largest that training drew; of a family that was not trained
        yet, all up to 1.
    """
    trained = model.config.trained_widths or (0.0, 1.0)
    full, multiples = model.family.num_channels(model.reference_config), model.family.multiples(model.reference_config)
    ratios = {float(width) for width in model.config.trained_widths}
    for group in model.width_groups:
        units = full[group] // multiples.get(group, 1)
        ratios |= {number / units for number in range(1, int(max(trained) * units) + 1)}
    in_range = (ratio for ratio in sorted(ratios) if min(trained) <= ratio <= max(trained))
    return [ratio for ratio in in_range if model.has_size(ratio)]

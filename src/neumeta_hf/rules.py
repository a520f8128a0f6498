"""From a table of rules to the sizes of a network."""

from collections.abc import Mapping, Sequence
from typing import Any

from neumeta_hf.axes import Axis, Constraint, Depth, Segment
from neumeta_hf.errors import TargetError
from neumeta_hf.space import SizeSpace

Rule = Sequence[Any]
"""Dimensions of a module's tensors, outer to inner: the name of an axis, None for a constant, a pair of an axis and a
number of equal parts, a triple with the number of positions that each channel owns as well (an attention head's
`head_dim`), or a list of these for concatenated features. Vectors have the first alone."""


def make_space(
    axes: Sequence[Axis],
    rules: Mapping[str, Rule],
    shapes: Mapping[str, tuple[int, ...]],
    constraints: Sequence[Constraint] = (),
    depths: Sequence[Depth] = (),
    *,
    name: str,
) -> SizeSpace:
    """Make the space of a network from a table of rules.

    Args:
        axes: In data-flow order.
        rules: Module, or tensor, to the dimensions of its tensors. What is not named has constant ones; what a network
            of the target family lacks, such as BatchNorm that was fused, may be named all the same.
        shapes: Name to shape of all tensors of the reference.
        constraints: Between axes.
        depths: Stacks of blocks.
        name: Name of the target family, for errors.

    Returns:
        The space.

    Raises:
        TargetError: A rule names an unknown axis, or its counts are not the reference's shape; an axis has no tensor.
    """
    by_name = {axis.name: axis for axis in axes}
    tensors = {}
    for tensor, shape in shapes.items():
        rule = rules.get(tensor, rules.get(tensor.rpartition(".")[0], ()))
        dims = []
        for position, count in enumerate(shape):
            entry = rule[position] if position < len(rule) else None
            entries = entry if isinstance(entry, list) else [entry]
            dim = tuple(_segment(one, count, by_name, tensor) for one in entries)
            if sum(segment.count for segment in dim) != count:
                raise TargetError(
                    f"{tensor} has {count} channels on axis {position}, but its rule in target family {name!r} gives "
                    f"{' + '.join(f'{segment.axis or 1} ({segment.count})' for segment in dim)}: mend the rule."
                )
            dims.append(dim)
        tensors[tensor] = tuple(dims)
    used = {segment.axis for dims in tensors.values() for dim in dims for segment in dim}
    if idle := [axis for axis in by_name if axis not in used]:
        raise TargetError(f"no tensor of target family {name!r} depends on its axis {idle[0]!r}: mend its rules.")
    return SizeSpace(axes, tensors, constraints, depths, name=name)


def _segment(entry: Any, count: int, axes: Mapping[str, Axis], tensor: str) -> Segment:
    if entry is None:
        return Segment(None, count)
    axis, *counts = entry if isinstance(entry, tuple) else (entry,)
    parts, inner = (*counts, 1, 1)[:2]
    if axis not in axes:
        raise TargetError(
            f"the rule of {tensor} names the axis {axis!r}, which is unknown: there is {', '.join(axes)}."
        )
    return Segment(axis, axes[axis].full * inner, parts, inner)

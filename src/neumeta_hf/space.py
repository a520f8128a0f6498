"""Sizes of a network as values: which axes it has, how many channels each has at a size, and what shape that gives.

A network's *axes* are what a size may change: sets of tensor dimensions that can only grow and shrink together. A
`Size` is an integer per axis. A `SizeSpace` knows which axes the dimensions of every tensor are made of, so that sizes
and shapes are arithmetic, and no module is built for them.
"""

import dataclasses
import fnmatch
import functools
import math
import numbers
import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

from neumeta_hf.errors import SizeError, TargetError
from neumeta_hf.kinds import MAX_RATIO


def scale_channels(num_channels: int, ratio: float) -> int:
    """Round `num_channels * ratio` to an integer, halves upwards: the one rounding rule of the library.

    Args:
        num_channels: Channels of the reference.
        ratio: Width, where 1.0 is the reference.

    Returns:
        The number of channels, which is 0 where the ratio is below `0.5 / num_channels`.
    """
    # A decimal half can fall short of itself in binary (1.005 * 100 is 100.49999999999999); the slack is far above such
    # errors and far below any difference between widths that is meant.
    return math.floor(num_channels * ratio + 0.5 + 1e-9)


def shortest_ratio(num_channels: int, wanted: int) -> float:
    """The ratio with the fewest decimals that scales `num_channels` to `wanted` channels, for use in advice."""
    candidates = (round(wanted / num_channels, digits) for digits in range(1, 17))
    return next((ratio for ratio in candidates if scale_channels(num_channels, ratio) == wanted), wanted / num_channels)


@dataclasses.dataclass(frozen=True)
class Axis:
    """What a size may change.

    Attributes:
        name: Such as "stage3" or "stage3.block2".
        full: Channels in the reference.
        step: What its count is a multiple of.
        parent: The axis whose ratio it follows unless it is named itself.
    """

    name: str
    full: int
    step: int = 1
    parent: str | None = None


class Size(Mapping[str, int]):
    """An integer per axis of a space; hashable, and equal to another of the same axes and numbers.

    Args:
        counts: Axis to count, in the order of the space.
    """

    __slots__ = ("_counts", "_hash")

    def __init__(self, counts: Mapping[str, int]):
        self._counts = dict(counts)
        self._hash = hash(tuple(self._counts.items()))

    def __getitem__(self, axis: str) -> int:
        return self._counts[axis]

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Size) and self._counts == other._counts

    def __repr__(self) -> str:
        return f"Size({', '.join(f'{axis}={count}' for axis, count in self._counts.items())})"


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch of one dimension of a tensor: `parts` equal parts, one behind the other.

    Attributes:
        axis: Whose count it has; None: a constant.
        count: Of the reference; where there is an axis, what the axis has there.
        parts: A size shortens each part by itself, as where a GroupNorm normalises channels in groups.
    """

    axis: str | None
    count: int
    parts: int = 1


Dim = tuple[Segment, ...]
"""One dimension of a tensor; several segments are concatenated features."""


@dataclasses.dataclass(frozen=True)
class Constraint:
    """What the counts of two axes must be to each other.

    Attributes:
        axis: The one that an error advises on.
        other: The other.
        rule: "differs": a layer between the two would vanish. "not below": the first only adds channels.
        reason: For the error: why.
        way_out: For the error: what else can be done; "" for nothing.
    """

    axis: str
    other: str
    rule: Literal["differs", "not below"]
    reason: str
    way_out: str = ""


class SizeSpace:
    """The sizes of one network.

    Args:
        axes: In data-flow order.
        tensors: Name to dimensions, of all tensors.
        constraints: Between axes.
        name: Of the target family, for errors.
    """

    def __init__(
        self,
        axes: Sequence[Axis],
        tensors: Mapping[str, tuple[Dim, ...]],
        constraints: Sequence[Constraint] = (),
        *,
        name: str,
    ):
        self.axes: dict[str, Axis] = {axis.name: axis for axis in axes}
        self.tensors = dict(tensors)
        self.constraints = tuple(constraints)
        self.name = name
        self.full = Size({axis.name: axis.full for axis in axes})
        self._shapes = functools.lru_cache(maxsize=64)(self._find_shapes)

    def __deepcopy__(self, memo: dict) -> "SizeSpace":
        return self  # nothing changes it

    # ------------------------------------------------------------------------------------------------ sizes

    def size(self, width: float | Mapping[str, float] = 1.0, *, free: Collection[str] | None = None) -> Size:
        """Round ratios to the size nearest to them.

        Args:
            width: One ratio for every free axis, or ratios by axis or by pattern, such as `{"stage*.block*": 0.5}`; of
                several patterns that an axis fits the last counts, and its own name before all. An axis that is not
                named follows its parent where that is named, and stays as it is otherwise.
            free: Axes that may change. None: all.

        Returns:
            The size. Counts are whole channels, and whole multiples of an axis' step.

        Raises:
            SizeError: A ratio is not a number in (0, 4], or leaves an axis without channels; an axis is unknown or not
                free; the architecture cannot have these counts.
        """
        allowed = [axis for axis in self.axes if free is None or axis in free]
        if isinstance(width, Mapping):
            named = self._named(width, allowed, "width", lambda ratio, axis, name: self._check_ratio(ratio, axis, name))
            by_axis = self._follow_parents({axis: float(ratio) for axis, ratio in named.items()}, allowed)
        else:
            largest = max((self.axes[axis] for axis in allowed or self.axes), key=lambda axis: axis.full)
            _check_ratio(width, largest.full, "width", "width=%s")
            by_axis = dict.fromkeys(allowed, float(width))
        units = {axis.name: axis.full // axis.step for axis in self.axes.values()}
        counts = {
            name: scale_channels(units[name], by_axis.get(name, 1.0)) * axis.step for name, axis in self.axes.items()
        }
        if empty := [name for name, count in counts.items() if count == 0]:
            name = min(empty, key=units.__getitem__)
            step = f" in steps of {self.axes[name].step}" if self.axes[name].step > 1 else ""
            given = width if not isinstance(width, Mapping) else by_axis[name]
            raise SizeError(
                f"width={given} leaves no channel of the {self.axes[name].full} in {name!r}{step}: "
                f"the smallest possible ratio is {0.5 / units[name]!r}."
            )
        return self._checked(Size(counts))

    def size_of(self, counts: Mapping[str, int], *, free: Collection[str] | None = None) -> Size:
        """Make a size of counts.

        Args:
            counts: By axis or by pattern. An axis that is not named follows its parent's ratio where that is named, and
                stays as it is otherwise.
            free: As for `size`.

        Returns:
            The size.

        Raises:
            SizeError: As for `size`; or a count is no integer from 1 up, or no multiple of the axis' step.
        """
        allowed = [axis for axis in self.axes if free is None or axis in free]
        named = self._named(counts, allowed, "size", lambda count, axis, _: self._check_count(count, axis))
        named = {axis: operator.index(count) for axis, count in named.items()}
        ratios = self._follow_parents({axis: count / self.axes[axis].full for axis, count in named.items()}, allowed)
        return self._checked(Size({**self.size(ratios, free=free), **named} if ratios else self.full))

    def exactly(self, counts: Mapping[str, int]) -> Size:
        """Make a size of a count for every axis.

        Args:
            counts: Axis to count; any integer type.

        Returns:
            The size.

        Raises:
            SizeError: An axis lacks a count or is unknown; otherwise as for `size_of`.
        """
        if set(counts) != set(self.axes):
            raise SizeError(
                f"channels are given for {', '.join(map(str, counts)) or 'nothing'}, but {self.name!r} needs a "
                f"count for each of its width groups: {', '.join(self.axes)}."
            )
        for axis, count in counts.items():
            self._check_count(count, axis)
        return self._checked(Size({axis: operator.index(counts[axis]) for axis in self.axes}))

    def ratios(self, size: Size) -> dict[str, float]:
        """The width of every axis at a size, relative to the reference.

        Args:
            size: Of this space.

        Returns:
            Axis to ratio, in data-flow order.
        """
        return {name: size[name] / axis.full for name, axis in self.axes.items()}

    # ------------------------------------------------------------------------------------------------ tensors

    def shapes(self, size: Size) -> Mapping[str, tuple[int, ...]]:
        """The shapes of all tensors at a size; not to be changed.

        Args:
            size: Of this space.

        Returns:
            Name to shape.
        """
        return self._shapes(size)

    def parts(self, name: str, size: Size) -> tuple[list[int], list[int]]:
        """The parts of the output and of the input axis of a tensor at a size, each shortened by itself.

        Args:
            name: Of a tensor with at least one dimension.
            size: Of this space.

        Returns:
            Channels of each part of the output axis, and of the input axis; `[1]` for that of vectors.
        """
        dims = self.tensors[name]
        return _parts(dims[0], size), _parts(dims[1], size) if len(dims) > 1 else [1]

    def axes_of(self, name: str) -> tuple[set[str], ...]:
        """The axes that each dimension of a tensor depends on.

        Args:
            name: Of a tensor.

        Returns:
            A set for each dimension.
        """
        return tuple({segment.axis for segment in dim if segment.axis is not None} for dim in self.tensors[name])

    def _find_shapes(self, size: Size) -> dict[str, tuple[int, ...]]:
        return {name: tuple(sum(_parts(dim, size)) for dim in dims) for name, dims in self.tensors.items()}

    # ------------------------------------------------------------------------------------------------ checks

    def _named(self, given: Mapping[str, Any], allowed: Sequence[str], what: str, check: Any) -> dict[str, Any]:
        """What a mapping gives each axis that it names, by name or by pattern."""
        found: dict[str, Any] = {}
        exact: dict[str, Any] = {}
        for key, value in given.items():
            axes = [key] if key in allowed else fnmatch.filter(allowed, key) if isinstance(key, str) else []
            if not axes:
                raise SizeError(f"{what} names {key!r}, which cannot change here: choose among {', '.join(allowed)}.")
            for axis in axes:
                check(value, axis, key)
            (exact if key in allowed else found).update(dict.fromkeys(axes, value))
        return {**found, **exact}

    def _follow_parents(self, width: Mapping[str, float], allowed: Sequence[str]) -> dict[str, float]:
        by_axis = {}
        for axis in allowed:
            source = axis
            while source not in width and (parent := self.axes[source].parent) is not None:
                source = parent
            by_axis[axis] = width.get(source, 1.0)
        return by_axis

    def _check_ratio(self, ratio: object, axis: str, key: str) -> None:
        _check_ratio(ratio, self.axes[axis].full, f"width[{key!r}]", f"width={{{key!r}: %s}}")

    def _check_count(self, count: Any, axis: str) -> None:
        if isinstance(count, bool) or not hasattr(count, "__index__") or operator.index(count) < 1:
            raise SizeError(f"{axis!r} cannot have {count!r} channels: a count is an integer from 1 up.")
        if operator.index(count) % self.axes[axis].step:
            raise SizeError(
                f"{axis!r} cannot have {count} channels: they are normalised in groups or otherwise tied, so a "
                f"count is a multiple of {self.axes[axis].step}."
            )

    def _checked(self, size: Size) -> Size:
        for constraint in self.constraints:
            count, other = size[constraint.axis], size[constraint.other]
            axis = self.axes[constraint.axis]
            if constraint.rule == "not below" and count < other:
                raise SizeError(
                    f"{axis.name!r} cannot have {count} channels while {constraint.other!r} has {other}: "
                    f"{constraint.reason}. Take at least {other} for it (a ratio of {shortest_ratio(axis.full, other)})"
                    f"{constraint.way_out}."
                )
            if constraint.rule == "differs" and count == other:
                choices = " or ".join(
                    f"{n} (a ratio of {shortest_ratio(axis.full // axis.step, n // axis.step)})"
                    for n in self._choices(size, axis)
                )
                raise SizeError(
                    f"{axis.name!r} cannot have {count} channels while {constraint.other!r} has as many: "
                    f"{constraint.reason}. Take {choices} for {axis.name!r}."
                )
        return size

    def _choices(self, size: Size, axis: Axis) -> list[int]:
        """The nearest counts below and above that no axis beside it has."""
        pairs = [{entry.axis, entry.other} for entry in self.constraints if entry.rule == "differs"]
        taken = {size[name] for pair in pairs if axis.name in pair for name in pair}
        count = size[axis.name]
        below = [n for n in range(count, 0, -axis.step) if n not in taken][:1]
        above = [n for n in range(count, count + 4 * axis.step, axis.step) if n not in taken][:1]
        return below + above


Rule = Sequence[Any]
"""Dimensions of a module's tensors, outer to inner: the name of an axis, None for a constant, a pair of an axis and a
number of equal parts, or a list of these for concatenated features. Vectors have the first alone."""


def make_space(
    axes: Sequence[Axis],
    rules: Mapping[str, Rule],
    shapes: Mapping[str, tuple[int, ...]],
    constraints: Sequence[Constraint] = (),
    *,
    name: str,
) -> SizeSpace:
    """Make the space of a network from a table of rules.

    Args:
        axes: In data-flow order.
        rules: Module to the dimensions of its tensors. Modules that are not named have constant ones; those that a
            network of the family lacks, such as BatchNorm that was fused, may be named all the same.
        shapes: Name to shape of all tensors of the reference.
        constraints: Between axes.
        name: Of the target family, for errors.

    Returns:
        The space.

    Raises:
        TargetError: A rule names an unknown axis, or its counts are not the reference's shape; an axis has no tensor.
    """
    by_name = {axis.name: axis for axis in axes}
    tensors = {}
    for tensor, shape in shapes.items():
        module = tensor.rpartition(".")[0]
        rule = rules.get(module, ())
        dims = []
        for position, count in enumerate(shape):
            entry = rule[position] if position < len(rule) else None
            entries = entry if isinstance(entry, list) else [entry]
            dim = tuple(_segment(one, count, by_name, tensor) for one in entries)
            if sum(segment.count for segment in dim) != count:
                raise TargetError(
                    f"{tensor} has {count} channels on axis {position}, and its rule in target family {name!r} gives "
                    f"{' + '.join(f'{segment.axis or 1} ({segment.count})' for segment in dim)}: mend the rule."
                )
            dims.append(dim)
        tensors[tensor] = tuple(dims)
    used = {segment.axis for dims in tensors.values() for dim in dims for segment in dim}
    if idle := [axis for axis in by_name if axis not in used]:
        raise TargetError(f"no tensor of target family {name!r} depends on its axis {idle[0]!r}: mend its rules.")
    return SizeSpace(axes, tensors, constraints, name=name)


def _segment(entry: Any, count: int, axes: Mapping[str, Axis], tensor: str) -> Segment:
    if entry is None:
        return Segment(None, count)
    axis, parts = entry if isinstance(entry, tuple) else (entry, 1)
    if axis not in axes:
        raise TargetError(f"the rule of {tensor} names the axis {axis!r}: there is {', '.join(axes)}.")
    return Segment(axis, axes[axis].full, parts)


def _parts(dim: Dim, size: Size) -> list[int]:
    found = []
    for segment in dim:
        count = segment.count if segment.axis is None else size[segment.axis]
        found += [count // segment.parts] * segment.parts
    return found


def _check_ratio(ratio: object, num_channels: int, name: str, advice: str) -> None:
    rule = f"in (0, {MAX_RATIO:g}], where 1.0 is the reference ({num_channels} channels)."
    if isinstance(ratio, bool) or not isinstance(ratio, numbers.Real):
        raise SizeError(f"{name}={ratio!r} is no ratio: it must be a number {rule}")
    value = float(ratio)
    if 0 < value <= MAX_RATIO:
        return
    message = f"{name}={ratio} is no ratio: it must lie {rule}"
    if value.is_integer() and 0 < value / num_channels <= MAX_RATIO:
        message += f" For {int(value)} channels pass {advice % shortest_ratio(num_channels, int(value))}."
    raise SizeError(message)

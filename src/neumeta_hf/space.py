"""Sizes of a network as values: which axes it has, how many channels each has at a size, and what shape that gives.

A network's *axes* are what a size may change: sets of tensor dimensions that can only grow and shrink together. A
`Size` is an integer per axis. A `SizeSpace` knows which axes the dimensions of every tensor are made of. Sizes and
shapes are then arithmetic, and no module is built for them.
"""

import dataclasses
import fnmatch
import functools
import math
import numbers
import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from neumeta_hf.axes import Axis, Constraint, Depth, Dim, Layout, Size, parts_of, scale_channels, shortest_ratio
from neumeta_hf.errors import SizeError, TargetError
from neumeta_hf.kinds import MAX_RATIO


class SizeSpace:
    """The sizes of one network.

    Args:
        axes: In data-flow order.
        tensors: Name to dimensions, of all tensors.
        constraints: Between axes.
        depths: Stacks of blocks.
        name: Name of the target family, for errors.
    """

    def __init__(
        self,
        axes: Sequence[Axis],
        tensors: Mapping[str, tuple[Dim, ...]],
        constraints: Sequence[Constraint] = (),
        depths: Sequence[Depth] = (),
        *,
        name: str,
    ):
        self.axes: dict[str, Axis] = {axis.name: axis for axis in axes}
        self.depths: dict[str, Depth] = {depth.name: depth for depth in depths}
        self.tensors = dict(tensors)
        self.constraints = tuple(constraints)
        self.name = name
        self.full = Size({axis.name: axis.full for axis in axes} | {depth.key: depth.full for depth in depths})
        self._blocks = {
            name: (depth, int(name.removeprefix(f"{depth.stack}.").partition(".")[0]))
            for name in self.tensors
            for depth in depths
            if name.startswith(f"{depth.stack}.")
        }
        self._shapes = functools.lru_cache(maxsize=64)(self._find_shapes)
        self._names = functools.lru_cache(maxsize=64)(self._find_names)
        self._layouts: dict[str, Layout] = {}

    def __deepcopy__(self, memo: dict) -> "SizeSpace":
        return self  # nothing changes it

    # ------------------------------------------------------------------------------------------------ sizes

    def size(
        self,
        width: float | Mapping[str, float] = 1.0,
        *,
        depth: float | Mapping[str, int] = 1.0,
        free: Collection[str] | None = None,
    ) -> Size:
        """Round ratios to the size nearest to them.

        Args:
            width: One ratio for every free axis, or ratios by axis or by pattern, such as `{"stage*.block*": 0.5}`; of
                several patterns that an axis fits the last counts, and its own name before all. An axis that is not
                named follows its parent where that is named, and stays as it is otherwise.
            depth: One ratio in (0, 1] for every stack of blocks, or numbers of blocks by stack or pattern, such as
                `{"stage3": 2}`; a stack that is not named stays as it is.
            free: Axes that may change. None: all.

        Returns:
            The size. Counts are whole channels, and whole multiples of an axis' step.

        Raises:
            SizeError: A ratio is not a number in (0, 4], or leaves an axis without channels; an axis is unknown or not
                free; there is no such depth; the architecture cannot have these counts.
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
                f"the smallest possible ratio is {_rounded_up(0.5 / units[name])}."
            )
        return self._checked(self._with_depth(counts, depth))

    def size_of(
        self,
        counts: Mapping[str, int],
        *,
        depth: float | Mapping[str, int] = 1.0,
        free: Collection[str] | None = None,
    ) -> Size:
        """Make a size of counts.

        Args:
            counts: By axis or by pattern. An axis that is not named follows its parent's ratio where that is named, and
                stays as it is otherwise.
            depth: As for `size`.
            free: As for `size`.

        Returns:
            The size.

        Raises:
            SizeError: As for `size`; or a count is not an integer from 1 up, or not a multiple of the axis' step.
        """
        allowed = [axis for axis in self.axes if free is None or axis in free]
        named = self._named(counts, allowed, "size", lambda count, axis, _: self._check_count(count, axis))
        named = {axis: operator.index(count) for axis, count in named.items()}
        ratios = self._follow_parents({axis: count / self.axes[axis].full for axis, count in named.items()}, allowed)
        whole = {**self.size(ratios, free=free), **named}
        return self._checked(self._with_depth({axis: whole[axis] for axis in self.axes}, depth))

    def exactly(self, counts: Mapping[str, int]) -> Size:
        """Make a size of a count for every axis.

        Args:
            counts: Axis to count; any integer type. Stacks of blocks that are not named are whole.

        Returns:
            The size.

        Raises:
            SizeError: An axis lacks a count or is unknown; otherwise as for `size_of`.
        """
        blocks = {depth.name: counts[depth.key] for depth in self.depths.values() if depth.key in counts}
        channels = {axis: count for axis, count in counts.items() if axis not in self._depth_keys}
        if set(channels) != set(self.axes):
            raise SizeError(
                f"channels are given for {', '.join(map(str, channels)) or 'nothing'}, but {self.name!r} needs a "
                f"count for each of its width groups: {', '.join(self.axes)}."
            )
        absent = self._absent(blocks)
        for axis, count in channels.items():
            if axis not in absent:
                self._check_count(count, axis)
        return self._checked(self._with_depth({axis: operator.index(channels[axis]) for axis in self.axes}, blocks))

    def ratios(self, size: Size) -> dict[str, float]:
        """Compute the width of every axis at a size, relative to the reference.

        Args:
            size: A size of this space.

        Returns:
            Axis to ratio, in data-flow order.
        """
        return {name: size[name] / axis.full for name, axis in self.axes.items()}

    # ------------------------------------------------------------------------------------------------ tensors

    def shapes(self, size: Size) -> Mapping[str, tuple[int, ...]]:
        """Compute the shapes of all tensors of the network of a size; the mapping must not be changed.

        Args:
            size: A size of this space.

        Returns:
            Name, in that network, to shape.
        """
        return self._shapes(size)

    def names(self, size: Size) -> Mapping[str, str]:
        """Map the reference's tensor names to those of the network of a size; the mapping must not be changed.

        Args:
            size: A size of this space.

        Returns:
            Name in the reference to name in that network, of the tensors that it has: blocks that are left out make the
            numbers of those behind them smaller.
        """
        return self._names(size)

    def is_whole(self, size: Size) -> bool:
        """Tell whether a size leaves no block out."""
        return all(size[depth.key] == depth.full for depth in self.depths.values())

    def parts(self, name: str, size: Size) -> tuple[list[int], list[int]]:
        """Find the parts of a tensor's output and input axis in canonical form; each is shortened by itself.

        Args:
            name: Name of a tensor with at least one dimension.
            size: A size of this space.

        Returns:
            Channels of each part of the output axis, and of the input axis; `[1]` for that of vectors.
        """
        dims = self.layout(name).dims
        return parts_of(dims[0], size), parts_of(dims[1], size) if len(dims) > 1 else [1]

    def layout(self, name: str) -> Layout:
        """Find how a tensor comes to be `[output channels, input channels, ...]` in canonical order.

        Args:
            name: Name of a tensor of the reference.

        Returns:
            The layout.

        Raises:
            TargetError: Sizes change more than two dimensions of the tensor.
        """
        if name not in self._layouts:  # every generation asks for all of them
            self._layouts[name] = self._find_layout(name)
        return self._layouts[name]

    def canonical_shape(self, name: str, size: Size) -> tuple[int, ...]:
        """Compute the shape of a tensor at a size, output channels first."""
        return tuple(sum(parts_of(dim, size)) for dim in self.layout(name).dims)

    def axes_of(self, name: str) -> tuple[set[str], ...]:
        """List the axes that each dimension of a tensor depends on.

        Args:
            name: Name of a tensor.

        Returns:
            A set for each dimension, in the order of the canonical form.
        """
        dims = self.layout(name).dims
        return tuple({segment.axis for segment in dim if segment.axis is not None} for dim in dims)

    def _find_layout(self, name: str) -> Layout:
        dims = self.tensors[name]
        varying = [place for place, dim in enumerate(dims) if any(segment.axis is not None for segment in dim)]
        if len(varying) > 2:
            raise TargetError(
                f"sizes change {len(varying)} dimensions of {name}, but a generated tensor can have at most two that "
                "change."
            )
        order = list(range(len(dims)))
        if any(place > 1 for place in varying):
            order = [*varying, *(place for place in order if place not in varying)]
        return Layout(tuple(order), tuple(dims[place] for place in order))

    def _find_shapes(self, size: Size) -> dict[str, tuple[int, ...]]:
        return {
            named: tuple(sum(parts_of(dim, size)) for dim in self.tensors[name])
            for name, named in self.names(size).items()
        }

    def _find_names(self, size: Size) -> dict[str, str]:
        kept = {depth.name: depth.kept(size[depth.key]) for depth in self.depths.values()}
        found = {}
        for name in self.tensors:
            if name not in self._blocks:
                found[name] = name
                continue
            depth, number = self._blocks[name]
            if number in kept[depth.name]:
                rest = name.removeprefix(f"{depth.stack}.{number}")
                found[name] = f"{depth.stack}.{kept[depth.name].index(number)}{rest}"
        return found

    # ------------------------------------------------------------------------------------------------ depth

    @property
    def _depth_keys(self) -> set[str]:
        return {depth.key for depth in self.depths.values()}

    def with_ranking(self, ranking: Mapping[str, Sequence[int]]) -> "SizeSpace":
        """Copy the space with another order in which more depth takes blocks.

        Args:
            ranking: Stack to the numbers of its blocks but the fixed ones; stacks that are not named keep theirs.

        Returns:
            A new space.

        Raises:
            TargetError: A stack is unknown, or the numbers are not those of its blocks.
        """
        depths = []
        for name, depth in self.depths.items():
            order = tuple(ranking.get(name, depth.ranking))
            if sorted(order) != sorted(depth.ranking):
                raise TargetError(f"block_ranking[{name!r}]={list(order)}: rank the blocks {sorted(depth.ranking)}.")
            depths.append(dataclasses.replace(depth, ranking=order))
        if unknown := [name for name in ranking if name not in self.depths]:
            raise TargetError(
                f"block_ranking names {unknown[0]!r}: {self.name} has {', '.join(self.depths) or 'none'}."
            )
        return SizeSpace(list(self.axes.values()), self.tensors, self.constraints, depths, name=self.name)

    def _with_depth(self, counts: Mapping[str, int], depth: float | Mapping[str, int]) -> Size:
        blocks = self._blocks_of(depth)
        absent = self._absent(blocks)
        channels = {axis: 0 if axis in absent else count for axis, count in counts.items()}
        return Size(channels | {stack.key: blocks.get(name, stack.full) for name, stack in self.depths.items()})

    def _absent(self, blocks: Mapping[str, int]) -> set[str]:
        """Axes inside of blocks that are left out."""
        return {
            axis
            for name, depth in self.depths.items()
            for number in set(depth.ranking) - set(depth.kept(blocks.get(name, depth.full)))
            for axis in depth.inner.get(number, ())
        }

    def _blocks_of(self, depth: float | Mapping[str, int]) -> dict[str, int]:
        """How many blocks each stack has."""
        if isinstance(depth, Mapping):
            named = self._named(depth, list(self.depths), "depth", self._check_blocks)
            return {name: operator.index(count) for name, count in named.items()}
        if isinstance(depth, bool) or not isinstance(depth, numbers.Real) or not 0 < float(depth) <= 1:
            raise SizeError(
                f"depth={depth!r}: give a ratio in (0, 1], where 1.0 is the reference, or numbers of blocks by stack, "
                f"such as {{'stage3': 2}}."
            )
        if depth != 1 and not self.depths:
            raise SizeError(
                f"depth={depth!r}: no network of {self.name!r} here has blocks that can be left out. Drop it."
            )
        found = {name: scale_channels(stack.full, float(depth)) for name, stack in self.depths.items()}
        for name, count in found.items():
            if count < (least := self.depths[name].least):
                raise SizeError(
                    f"depth={depth} leaves {count} of the {self.depths[name].full} blocks of {name!r}, but at least "
                    f"{least} are needed: the smallest possible ratio is "
                    f"{_rounded_up((least - 0.5) / self.depths[name].full)}."
                )
        return found

    def _check_blocks(self, count: Any, name: str, _: str) -> None:
        stack = self.depths[name]
        least = stack.least
        if (
            isinstance(count, bool)
            or not hasattr(count, "__index__")
            or not least <= operator.index(count) <= stack.full
        ):
            raise SizeError(
                f"depth[{name!r}]={count!r}: give a number of blocks, {least} to {stack.full} as in the reference."
            )

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


def _rounded_up(ratio: float) -> str:
    """Write a ratio in four digits that are no less."""
    digits = 3 - math.floor(math.log10(ratio))
    return f"{math.ceil(round(ratio * 10**digits, 6)) / 10**digits:.6g}"


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

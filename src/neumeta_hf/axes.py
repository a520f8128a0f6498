"""What a size may change of a network, as values: axes, stacks of blocks, and what tensors are made of."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Literal


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
    """Find the ratio with the fewest decimals that scales `num_channels` to `wanted` channels, for advice."""
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


@dataclasses.dataclass(frozen=True)
class Depth:
    """A stack of blocks of which a size may leave some out.

    Attributes:
        name: Such as "stage3".
        stack: Path of the module that numbers its blocks from 0.
        fixed: Numbers of the blocks that every size has.
        ranking: Numbers of the others, in the order in which more depth takes them.
        inner: Number of such a block to the axes inside of it.
    """

    name: str
    stack: str
    fixed: tuple[int, ...]
    ranking: tuple[int, ...]
    inner: Mapping[int, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    @property
    def key(self) -> str:
        """What a size calls its number of blocks."""
        return f"{self.name}.depth"

    @property
    def least(self) -> int:
        """Blocks of the smallest size: a stack is never empty."""
        return max(len(self.fixed), 1)

    @property
    def full(self) -> int:
        """Blocks of the reference."""
        return len(self.fixed) + len(self.ranking)

    def kept(self, num_blocks: int) -> list[int]:
        """List the numbers of the blocks that a size has, in the order of the network."""
        return sorted((*self.fixed, *self.ranking[: num_blocks - len(self.fixed)]))


class Size(Mapping[str, int]):
    """An integer per axis of a space; hashable, and equal to another of the same axes and numbers.

    Axes inside of a block that the size leaves out have 0.

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
    """A stretch of one dimension of a tensor: `parts` equal parts of channels, each of `inner` positions.

    Attributes:
        axis: Whose channels it has; None: a constant.
        count: Positions in the reference; where there is an axis, `inner` times what the axis has there.
        parts: A size shortens each part by itself, as where a GroupNorm normalises channels in groups.
        inner: Positions that each channel owns, one behind the other, and that no size changes: an attention head has
            as many as its `head_dim`.
    """

    axis: str | None
    count: int
    parts: int = 1
    inner: int = 1


Dim = tuple[Segment, ...]
"""One dimension of a tensor; several segments are concatenated features."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a tensor lies beside its canonical form, `[output channels, input channels, ...]`.

    Attributes:
        order: Which dimension of the tensor each of the canonical form is: those that sizes change come first.
        dims: Dimensions of the canonical form; each in the canonical order of `parts_of`.
    """

    order: tuple[int, ...]
    dims: tuple[Dim, ...]

    @functools.cached_property
    def is_plain(self) -> bool:
        """Whether the two are the same."""
        return self.order == tuple(range(len(self.order))) and not self.reordered

    @functools.cached_property
    def reordered(self) -> list[int]:
        """Dimensions whose canonical order is another."""
        return [place for place, dim in enumerate(self.dims) if any(segment.inner > 1 for segment in dim)]


@dataclasses.dataclass(frozen=True)
class Constraint:
    """List what the counts of two axes must be to each other.

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


def parts_of(dim: Dim, size: Size) -> list[int]:
    """Channels of each part of a dimension at a size, in its canonical order.

    That order takes the first position of all channels of a segment's part, then the second, and so on: each of the
    `inner` positions is a part of its own, so that whatever merges or leaves out channels keeps whole ones.
    """
    found = []
    for segment in dim:
        count = segment.count // segment.inner if segment.axis is None else size[segment.axis]
        found += [count // segment.parts] * (segment.parts * segment.inner)
    return found

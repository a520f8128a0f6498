"""BatchNorm statistics of the sizes that a checkpoint stores, and of those that lie between two of them."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from neumeta_hf.axes import Size
from neumeta_hf.calibration import interpolate_statistics
from neumeta_hf.space import SizeSpace
from neumeta_hf.tensor_tree import TensorTree

NEAR = 1.07
"""Stored widths that are at most this factor apart have statistics near enough to read those of sizes between them."""


class StoredStatistics(TensorTree):
    """BatchNorm statistics by stored size, under the number of each.

    Args:
        space: Of the sizes.
        widths: Ratio to its statistics, by tensor name; empty ones of the right shape before a checkpoint is loaded.
        free: Axes that the ratios change.
        are_nested: Whether smaller networks have the first channels of larger ones.
    """

    def __init__(
        self, space: SizeSpace, widths: Mapping[float, Mapping[str, Tensor]], *, free: Sequence[str], are_nested: bool
    ):
        buffers = {
            f"{index}.{name}": statistic
            for index, statistics in enumerate(widths.values())
            for name, statistic in statistics.items()
        }
        super().__init__({}, buffers)
        # Inside __dict__: nothing of it is a module's.
        self._space, self._widths, self._are_nested = space, list(widths), are_nested
        self._sizes = [space.size(width, free=free) for width in widths]

    def covers(self, size: Size) -> bool:
        """Whether there are statistics for a size, its own or of two near sizes that it lies between."""
        return self._find(size) is not None

    def at(self, size: Size) -> dict[str, Tensor] | None:
        """The statistics of a size.

        Args:
            size: Of the space.

        Returns:
            Name to tensor: those stored for the size, or read between two stored sizes; None where there are neither.
        """
        found = self._find(size)
        if found is None:
            return None
        if len(found) == 1:
            return self._stored(found[0])
        low, high, count = (sum(counts.values()) for counts in (*(self._sizes[index] for index in found), size))
        smaller, larger = (self._stored(index) for index in found)
        shapes = self._space.shapes(size)
        return interpolate_statistics(
            smaller,
            larger,
            {name: shapes[name][0] for name in smaller if shapes[name]},
            amount=(count - low) / (high - low),
            are_nested=self._are_nested,
        )

    def _find(self, size: Size) -> list[int] | None:
        """The number of the stored size, or of the smaller and the larger of the two nearest around it."""
        sizes, widths = self._sizes, self._widths
        if size in sizes:
            return [sizes.index(size)]
        by_width = sorted(range(len(widths)), key=widths.__getitem__)
        below = [index for index in by_width if all(sizes[index][axis] <= size[axis] for axis in size)]
        above = [index for index in by_width if all(sizes[index][axis] >= size[axis] for axis in size)]
        if not below or not above or widths[above[0]] > NEAR * widths[below[-1]]:
            return None
        names = self._stored(below[-1])
        if any(len(self._space.parts(name, size)[0]) > 1 for name in names if self._space.tensors[name]):
            return None  # channels of several parts would correspond part by part
        return [below[-1], above[0]]

    def _stored(self, index: int) -> dict[str, Tensor]:
        # The tensors of one size alone: with many sizes a walk through all of them takes longer than a morph.
        size = self._modules.get(str(index))
        return size.tensors() if isinstance(size, TensorTree) else {}

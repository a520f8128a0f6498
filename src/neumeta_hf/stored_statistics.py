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
        space: Space of the sizes.
        sizes: Width and depth, as ratios, to the statistics of that size by the names of its tensors; empty ones of the
            right shape before a checkpoint is loaded.
        free: Axes that widths change.
        are_nested: Whether smaller networks have the first channels of larger ones.
    """

    def __init__(
        self,
        space: SizeSpace,
        sizes: Mapping[tuple[float, float], Mapping[str, Tensor]],
        *,
        free: Sequence[str],
        are_nested: bool,
    ):
        buffers = {
            f"{index}.{name}": statistic
            for index, statistics in enumerate(sizes.values())
            for name, statistic in statistics.items()
        }
        super().__init__({}, buffers)
        # Inside __dict__: nothing of it is a module's.
        self._space, self._widths, self._are_nested = space, [width for width, _ in sizes], are_nested
        self._sizes = [space.size(width, depth=depth, free=free) for width, depth in sizes]

    def covers(self, size: Size) -> bool:
        """Tell whether there are statistics for a size: its own, or those of two near sizes around it."""
        return self._find(size) is not None

    def at(self, size: Size) -> dict[str, Tensor] | None:
        """Read the statistics of a size.

        Args:
            size: A size of the space.

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
        """Find the index of the stored size, or of the two nearest ones around it."""
        sizes, widths = self._sizes, self._widths
        if size in sizes:
            return [sizes.index(size)]
        alike = [index for index, stored in enumerate(sizes) if self._has_blocks_of(stored, size)]
        by_width = sorted(alike, key=widths.__getitem__)
        below = [index for index in by_width if all(sizes[index][axis] <= size[axis] for axis in size)]
        above = [index for index in by_width if all(sizes[index][axis] >= size[axis] for axis in size)]
        if not below or not above or widths[above[0]] > NEAR * widths[below[-1]]:
            return None
        held, names = self._stored(below[-1]), self._space.names(size)
        if any(
            len(self._space.parts(name, size)[0]) > 1
            for name, tensors in self._space.tensors.items()
            if tensors and names.get(name) in held
        ):
            return None  # channels of several parts would correspond part by part
        return [below[-1], above[0]]

    def _has_blocks_of(self, size: Size, other: Size) -> bool:
        return all(size[stack.key] == other[stack.key] for stack in self._space.depths.values())

    def _stored(self, index: int) -> dict[str, Tensor]:
        # The tensors of one size alone: with many sizes a walk through all of them takes longer than a morph.
        size = self._modules.get(str(index))
        return size.tensors() if isinstance(size, TensorTree) else {}

"""From what a person asks for to a size of a family, and what may be said of it."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping

from transformers import PreTrainedConfig

from neumeta_hf.axes import Size
from neumeta_hf.configuration_neumeta import NeuMetaConfig
from neumeta_hf.errors import SizeError
from neumeta_hf.space import SizeSpace
from neumeta_hf.targets import TargetFamily, size_of

Width = float | Mapping[str, float] | Size | PreTrainedConfig
"""A ratio for all width groups, a ratio per group or pattern, or a `Size` of the family's space; deprecated: the config
of a network of the family."""


class SizeWarning(UserWarning):
    """A morph outside the range of sizes that training drew."""


@contextlib.contextmanager
def ignore_size_warnings() -> Iterator[None]:
    """Silence `SizeWarning`: for sizes that this library asks for itself, or reports on in another way."""
    with warnings.catch_warnings(action="ignore", category=SizeWarning):
        yield


class FamilySizes:
    """The sizes of a family: a part of `NeuMetaModel`, and all of it that knows ratios."""

    config: NeuMetaConfig
    target_family: TargetFamily
    space: SizeSpace
    width_groups: list[str]
    reference_config: PreTrainedConfig

    def size_at(
        self,
        width: Width = 1.0,
        *,
        counts: Mapping[str, int] | None = None,
        depth: float | Mapping[str, int] = 1.0,
    ) -> Size:
        """Find the size that a width or counts of channels, and a depth, ask for.

        Args:
            width: A ratio for all width groups, a ratio per group or pattern, or a size of the family's space.
            counts: Channels by group or pattern, instead of ratios.
            depth: A ratio for all stacks of blocks, or numbers of blocks by stack or pattern.

        Returns:
            The size.

        Raises:
            SizeError: No network of the family has that size, it changes what this checkpoint holds fixed, or both
                `width` and `counts` are given.
        """
        if counts is not None:
            if width != 1.0:
                raise SizeError(f"width={width!r} and size={dict(counts)!r} were both given: give one of them.")
            return self.space.size_of(counts, depth=depth, free=self.width_groups)
        if not isinstance(width, Size | PreTrainedConfig):
            return self.space.size(width, depth=depth, free=self.width_groups)
        if depth != 1.0:
            raise SizeError(f"depth={depth!r} was given beside a whole size: give one of them.")
        if isinstance(width, PreTrainedConfig):
            warnings.warn(
                "a config as a width is deprecated: give the config's counts, as in morph(size={'stage3': 40}).",
                FutureWarning,
                stacklevel=3,
            )
            size = size_of(width, self.reference_config)
        else:
            size = self.space.exactly(width)
        fixed = [
            name
            for name, axis in self.space.axes.items()
            if size[name] not in (0, axis.full) and name not in self.width_groups  # 0: of a block that is left out
        ]
        if fixed:
            raise SizeError(
                f"the size changes {', '.join(fixed)}, which this checkpoint holds fixed: only "
                f"{', '.join(self.width_groups)} may differ from the reference."
            )
        return size

    def target_config_at(self, width: Width = 1.0) -> PreTrainedConfig:
        """Config of the target at a size.

        Args:
            width: As for `size_at`.

        Returns:
            A new config.

        Raises:
            SizeError: As for `size_at`.
        """
        return self.target_family.config_at(self.reference_config, self.size_at(width))

    def has_size(self, width: Width) -> bool:
        """Tell whether the family has a network of a size.

        Args:
            width: As for `size_at`.

        Returns:
            False where `size_at` would raise a `SizeError`.
        """
        try:
            self.size_at(width)
        except SizeError:
            return False
        return True

    def is_in_trained_range(self, size: Size) -> bool:
        """Tell whether widths and depths lie between the smallest and the largest size that training drew."""
        if not self.config.trained_widths:
            return False
        low, high = self._trained_extremes()
        widths = [group for group in self.width_groups if size[group]]  # those of blocks that are left out have none
        least = self.space.size(depth=min(self.config.trained_depths))
        return all(low[group] <= size[group] <= high[group] for group in widths) and all(
            size[stack.key] >= least[stack.key] for stack in self.space.depths.values()
        )

    def _trained_extremes(self) -> tuple[Size, Size]:
        widths = self.config.trained_widths
        return self.size_at(min(widths)), self.size_at(max(widths))

    def _warn_outside(self, size: Size) -> None:
        if not self.is_in_trained_range(size):
            widths = self.config.trained_widths
            trained = f"widths {min(widths):g} to {max(widths):g}" if widths else "no size yet"
            if min(self.config.trained_depths) < 1 and widths:
                trained += f" and depths {min(self.config.trained_depths):g} to 1"
            asked = ", ".join(f"{group}={size[group]}" for group in self.width_groups if size[group]) + " channels"
            if not self.space.is_whole(size):
                blocks = (f"{stack.name}={size[stack.key]}" for stack in self.space.depths.values())
                asked += f", {', '.join(blocks)} blocks"
            warnings.warn(
                f"the size asked for ({asked}) lies outside the trained range: training drew {trained}. "
                "Expect lower accuracy, and measure it.",
                SizeWarning,
                stacklevel=3,
            )

"""BatchNorm statistics of a family: measuring them, storing them, and saying where there are none."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from neumeta_hf.axes import Size
from neumeta_hf.configuration_neumeta import MAX_STATISTICS, MorphConfig
from neumeta_hf.errors import CheckpointError, SizeError
from neumeta_hf.family_sizes import FamilySizes, ignore_size_warnings
from neumeta_hf.image_batches import ImageBatches, NormalizedImages, images_of
from neumeta_hf.stored_statistics import StoredStatistics
from neumeta_hf.tensor_tree import TensorTree

_Uniform = tuple[float, float]
"""A width and a depth, as ratios for all width groups and all stacks of blocks."""

_PIXEL_STEPS = 32
"""Calibration images are stored as bytes, in steps of 1/32 of a standard deviation: from -4 to just below 4."""


class FamilyStatistics(FamilySizes):
    """The BatchNorm statistics of a family: a part of `NeuMetaModel`, which families without BatchNorm never touch."""

    statistic_names: list[str]
    statistics: StoredStatistics
    calibration: TensorTree
    hypernetwork: Any
    morph: Any
    device: Any
    dtype: Any

    def _empty_statistics(self) -> StoredStatistics:
        """One set of BatchNorm statistics per stored size, empty and of the right shape."""
        found: dict[_Uniform, dict[str, Tensor]] = {}
        for width, depth in itertools.product(self.config.statistics_widths, self.config.statistics_depths):
            size = self.size_at(width, depth=depth)
            shapes = self.space.shapes(size)
            dtypes = {True: torch.int64, False: torch.get_default_dtype()}
            found[width, depth] = {
                name: torch.zeros(shapes[name], dtype=dtypes[name.endswith("num_batches_tracked")])
                for name in self._statistics_of(size)
            }
        return self._store_statistics(found)

    def _store_statistics(self, sizes: Mapping[_Uniform, Mapping[str, Tensor]]) -> StoredStatistics:
        nested = self.hypernetwork.positions == "absolute"
        return StoredStatistics(self.space, sizes, free=self.width_groups, are_nested=nested)

    def hold_statistics(self, measured: Mapping[_Uniform, Mapping[str, Tensor]]) -> None:
        """Keep statistics in the checkpoint, in the place of those that were stored.

        Args:
            measured: Width and depth, as ratios, to the statistics of that size by tensor name: of every width at every
                depth, the depths of a width one after the other.
        """
        self.statistics = self._store_statistics(measured)
        self.config.statistics_widths = list(dict.fromkeys(width for width, _ in measured))
        # Without a width there is nothing that they are the depths of.
        self.config.statistics_depths = list(dict.fromkeys(depth for _, depth in measured)) or [1.0]

    def calibrate(
        self, batches: Iterable[Any], widths: Iterable[float] | None = None, depths: Iterable[float] | None = None
    ) -> None:
        """Measure the BatchNorm statistics of uniform widths on images, and keep them in the checkpoint.

        Training has measured them on its own images; on images of yours, statistics follow what the networks will see.

        Args:
            batches: Normalised images as training saw them, in any form that loaders give them (`neumeta_hf.calibrate`
                lists them); a few thousand. Gone through once.
            widths: Ratios, such as a list or a progress bar around it; they replace what was stored before. None: those
                that are stored.
            depths: Ratios of blocks, such as `[0.67, 1.0]`; every width is measured at each. None: those that are
                stored, 1.0 alone where none are.

        Raises:
            CheckpointError: This checkpoint has no generated BatchNorm; there is no batch or no size, or there are too
                many sizes; a batch is not of normalised images, or a network does not take it.
            SizeError: No network of the family has one of these sizes.

        Whatever is raised, what was stored is as it was.
        """
        if not self.statistic_names:
            raise CheckpointError("this checkpoint generates no BatchNorm: it needs no statistics at any size.")
        widths = self.config.statistics_widths if widths is None else widths
        depths = self.config.statistics_depths if depths is None else list(depths)
        measured = self.measure_statistics(batches, ((width, depth) for width in widths for depth in depths))
        if not measured:
            raise CheckpointError(
                "calibrate() got no width or no depth, and this checkpoint stores none: pass widths=[0.5, 1.0]."
            )
        self.hold_statistics(measured)

    def measure_statistics(
        self, batches: Iterable[Any], sizes: Iterable[tuple[Any, float]]
    ) -> dict[_Uniform, dict[str, Tensor]]:
        """Measure the BatchNorm statistics of sizes on images, and keep nothing.

        Args:
            batches: As for `calibrate`.
            sizes: Widths and depths, as ratios.

        Returns:
            Width and depth to the statistics of that size, by tensor name.

        Raises:
            CheckpointError: As for `calibrate`.
            SizeError: As for `calibrate`.
        """
        images = self._image_batches(batches)
        # Read once, for all sizes; what has been checked need not be again.
        held = NormalizedImages(images)
        measured: dict[_Uniform, dict[str, Tensor]] = {}
        for width, depth in sizes:
            if isinstance(width, Mapping | PreTrainedConfig | MorphConfig):
                raise SizeError(f"calibrate() got a {type(width).__name__}: give uniform widths, such as 0.5.")
            if len(measured) == MAX_STATISTICS:
                raise CheckpointError(
                    f"calibrate() got more than {MAX_STATISTICS} sizes, and no more can be stored: give fewer."
                )
            with ignore_size_warnings():
                state = self.morph(width, depth=depth, calibration=held).state_dict()
            names = self._statistics_of(self.size_at(width, depth=depth))
            measured[float(width), float(depth)] = {name: state[name] for name in names}
        return measured

    def _image_batches(self, batches: Iterable[Any]) -> ImageBatches:
        return ImageBatches(batches, self.target_family.image_shape(self.reference_config))

    def _statistics_of(self, size: Size) -> list[str]:
        """What the statistics are called in the network of a size."""
        names = self.space.names(size)
        return [names[name] for name in self.statistic_names if name in names]

    def _measured_modules(self, size: Size) -> set[str]:
        """Names of the BatchNorm modules of a network whose statistics belong to its size."""
        return {name.rpartition(".")[0] for name in self._statistics_of(size)}

    def store_calibration_images(self, images: Any) -> None:
        """Keep images in the checkpoint, which statistics of sizes without stored ones are measured on.

        Args:
            images: A batch of normalised ones, `[images, channels, height, width]` of the size that the reference is
                made for, in any form that loaders give it; they replace what was stored before, and are rounded to
                1/32. None at all (`images[:0]`) drops them.

        Raises:
            CheckpointError: This checkpoint has no generated BatchNorm, or the images are no normalised floats, of
                another shape or outside of [-4, 4); what was stored is as it was.
        """
        if not self.statistic_names:
            raise CheckpointError("this checkpoint generates no BatchNorm: it needs no images to calibrate on.")
        shape = self.target_family.image_shape(self.reference_config)
        images = images_of(images, "images", any_range=True, may_be_empty=True)
        if images.shape[1:] != shape:
            raise CheckpointError(f"images of shape {list(images.shape)}: give [images, {', '.join(map(str, shape))}].")
        bytes_ = (images.detach().float() * _PIXEL_STEPS).round() + 128
        if not ((bytes_ >= 0) & (bytes_ <= 255)).all():
            raise CheckpointError(
                f"the images reach from {images.min():g} to {images.max():g}: normalised ones lie in [-4, 4)."
            )
        self._hold_calibration_images(bytes_.to(self.device, torch.uint8))
        self.config.calibration_images = len(images)

    def _hold_calibration_images(self, pixels: Tensor) -> None:
        self.calibration = TensorTree({}, {"pixels": pixels} if len(pixels) else {})

    def _own_calibration(self, size: Size) -> ImageBatches | None:
        """What to measure the statistics of a size on, or None where none are to be measured."""
        if not self.statistic_names or self.statistics.covers(size):
            return None
        pixels = self.calibration.tensors().get("pixels")
        if pixels is None:
            self._require_statistics(size)
            return None
        images = (pixels.to(self.dtype) - 128) / _PIXEL_STEPS
        return self._image_batches(NormalizedImages([images]))  # one batch: the variance over all of them

    def _require_statistics(self, size: Size) -> None:
        if self.statistic_names and not self.statistics.covers(size):
            stored = ", ".join(f"{width:g}" for width in self.config.statistics_widths) or "none"
            depths = ", ".join(f"{depth:g}" for depth in self.config.statistics_depths)
            at_depths = "" if self.space.is_whole(size) and depths == "1" else f", at depths: {depths}"
            problem = (
                "this checkpoint keeps BatchNorm and stores no statistics for the size asked for (stored widths: "
                f"{stored}{at_depths})."
            )
            advice = (
                "Call morph() with that size, which measures them."
                if self.config.calibration_images
                else "Pass morph(..., calibration=batches of images as training saw them), or calibrate() the family."
            )
            raise CheckpointError(
                f"{problem} {advice}",
                command=f"{problem} Measure them with --calibrate N on N training images of the recipe, such as 1024; "
                "a recipe with calibration.images makes families that need none.",
            )

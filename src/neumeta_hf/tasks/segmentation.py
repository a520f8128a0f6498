"""Semantic segmentation: cross-entropy (and Dice) per pixel, and the mean intersection over union of a data set."""

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from transformers.image_processing_utils import BaseImageProcessor

from neumeta_hf.errors import DataError, RecipeError
from neumeta_hf.images import IGNORED, Interpolation
from neumeta_hf.pixels import pixel_cross_entropy
from neumeta_hf.scores import Score
from neumeta_hf.targets import TargetFamily, build_segmentation_processor
from neumeta_hf.tasks.base import Task, register_task
from neumeta_hf.tasks.losses import class_divergence, dice_loss
from neumeta_hf.tasks.pictures import check_label_names, image_grid, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)


@register_task
@dataclasses.dataclass(kw_only=True)
class SemanticSegmentation(Task):
    """One class a pixel.

    Attributes:
        dice: Weight of the soft Dice loss beside the cross-entropy.
    """

    name = "semantic-segmentation"
    labels = ("mask",)
    scores = (
        Score(name="mean_iou", label="mean IoU", is_ratio=True, hub_name="mean_iou"),
        Score(name="pixel_accuracy", label="pixel accuracy", is_ratio=True),
        Score(name="loss", label="loss", larger_is_better=False),
    )

    dice: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    def loss(self, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        loss = pixel_cross_entropy(outputs.logits, batch["labels"])
        if self.dice:
            loss = loss + self.dice * dice_loss(outputs.logits, batch["labels"], ignore_index=IGNORED)
        return loss

    def distillation(self, outputs: Any, teacher_outputs: Any, *, temperature: float) -> Tensor:
        student, teacher = (found.logits.movedim(1, -1).flatten(end_dim=-2) for found in (outputs, teacher_outputs))
        return class_divergence(student, teacher, temperature=temperature)

    def make_meter(self, family: TargetFamily, network: nn.Module, split_name: str) -> "SegmentationMeter":
        return SegmentationMeter(split_name)

    def draw(
        self,
        family: TargetFamily,
        networks: Mapping[str, nn.Module],
        batch: Mapping[str, Tensor],
        images: Tensor,
        label_names: Sequence[str],
    ) -> "Figure":
        from matplotlib.patches import Patch

        counted = batch["labels"][batch["labels"] != IGNORED]
        check_label_names(label_names, int(counted.max()) + 1 if len(counted) else 0)
        figure, axes = image_grid(len(images), 2 + len(networks), images.shape[-2:])
        palette = _palette(len(label_names))
        for row, (image, mask) in enumerate(zip(images, batch["labels"], strict=True)):
            show(axes[row][0], image, title="image" if row == 0 else "")
            show(axes[row][1], _colours(mask, palette), title="ground truth" if row == 0 else "")
        for column, (heading, network) in enumerate(networks.items(), start=2):
            with torch.inference_mode():
                logits = family.forward(network, batch).logits
            check_label_names(label_names, logits.shape[1])
            masks = logits.argmax(1)
            for row, mask in enumerate(masks):
                show(axes[row][column], _colours(mask, palette), title=heading if row == 0 else "")
        handles = [Patch(color=palette[index], label=name) for index, name in enumerate(label_names)]
        figure.legend(handles=handles, loc="outside lower center", ncols=8, frameon=False, fontsize=7)
        return figure

    def make_image_processor(
        self,
        *,
        num_channels: int,
        image_size: int | Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        center_crop: bool | int,
        interpolation: Interpolation,
    ) -> BaseImageProcessor:
        if center_crop:
            raise RecipeError(
                "data.center_crop=true: a network would learn on the centres of images, but be measured on whole "
                "masks. Set it to false to resize images whole."
            )
        return build_segmentation_processor(image_size=image_size, mean=mean, std=std, interpolation=interpolation)


class SegmentationMeter:
    """Mean IoU and pixel accuracy of the whole split, and the mean cross-entropy of a pixel in nats.

    Args:
        split_name: For messages.
    """

    def __init__(self, split_name: str):
        from neumeta_hf.tasks.mean_iou import MeanIoU

        self.split_name = split_name
        self.metric = MeanIoU(keep_in_memory=True)
        self.loss = 0.0
        self.num_labels = 0
        self.num_pixels = torch.zeros(IGNORED, dtype=torch.int64)  # of each class

    def add(self, outputs: Any, batch: Mapping[str, Tensor]) -> None:
        logits, labels = outputs.logits.float(), batch["labels"]
        counted = labels != IGNORED
        self.num_labels = logits.shape[1]
        if counted.any() and (largest := int(labels[counted].max())) >= self.num_labels:
            raise DataError(
                f"the {self.split_name} split holds class {largest}, and the model tells {self.num_labels} classes "
                "apart (0 is the first): measure it on the data set that it was trained on, or name the class of "
                "unlabelled pixels with data.ignore_index."
            )
        self.loss += F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum").item()
        self.num_pixels += torch.bincount(labels[counted].cpu(), minlength=IGNORED)
        self.metric.add_batch(predictions=logits.argmax(1).cpu().numpy(), references=labels.cpu().numpy())

    def compute(self) -> dict[str, float]:
        """Compute the scores of the batches so far.

        Raises:
            DataError: No pixel of them has a class.
        """
        classes = self.num_pixels.nonzero().flatten().tolist()
        if not classes:
            raise DataError(
                f"no pixel of the {self.split_name} split has a class, so there is nothing to measure: its masks are "
                "255 or data.ignore_index everywhere. Name another split, or what 255 stands for in data.mask_values."
            )
        if len(classes) == 1:
            _say_that_one_class_is_measured(self.split_name, classes[0])
        scores = self.metric.compute(num_labels=self.num_labels, ignore_index=IGNORED)
        assert scores is not None
        return {
            "mean_iou": scores["mean_iou"],
            "pixel_accuracy": scores["pixel_accuracy"],
            "loss": self.loss / int(self.num_pixels.sum()),
        }


@functools.cache  # once, however many networks are measured
def _say_that_one_class_is_measured(split_name: str, label: int) -> None:
    logger.warning(
        "all pixels of the %s split that count have class %s: a mean IoU of one class says little", split_name, label
    )


def _palette(num_labels: int) -> np.ndarray:
    """A colour a class, `[classes, 3]`; black, which is none of them, stands for pixels of no class."""
    from matplotlib import colormaps

    return np.array([colormaps["tab20"](index % 20)[:3] for index in range(max(num_labels, 1))])


def _colours(mask: Tensor, palette: np.ndarray) -> Tensor:
    """A mask as an image, `[3, height, width]`."""
    classes = mask.cpu().numpy()
    painted = np.where((classes < len(palette))[..., None], palette[np.minimum(classes, len(palette) - 1)], 0.0)
    return torch.from_numpy(painted).movedim(-1, 0)

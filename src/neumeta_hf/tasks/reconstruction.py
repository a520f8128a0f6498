"""Image reconstruction by autoencoders whose latents are no distribution: how near the images are that come out."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from neumeta_hf.errors import RecipeError
from neumeta_hf.images import Interpolation
from neumeta_hf.scores import Score
from neumeta_hf.targets import TargetFamily
from neumeta_hf.tasks.base import Meter, Task, register_task
from neumeta_hf.tasks.pictures import image_grid, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIXEL_RANGE = 2.0
"""Of images from -1 to 1, as diffusers' `VaeImageProcessor` makes them."""

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@register_task
@dataclasses.dataclass(kw_only=True)
class ImageReconstruction(Task):
    """Autoencoders of images in [-1, 1], by the mean squared error of an image value.

    Attributes:
        perceptual: Weight of `1 - SSIM` (Wang et al. 2004), which needs no weights of another network.
    """

    name = "image-reconstruction"
    labels = ("none", "class")
    scores = (
        Score(name="psnr", label="PSNR (dB)"),
        Score(name="mse", label="reconstruction MSE", larger_is_better=False, hub_name="mse"),
        Score(name="ssim", label="SSIM", hub_name="ssim"),
    )

    perceptual: Amount = 0.0

    def loss(self, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        images, sample = batch["pixel_values"].float(), outputs.sample.float()
        loss = F.mse_loss(sample, images)
        return loss + self.perceptual * (1 - similarity(sample, images).mean()) if self.perceptual else loss

    def distillation(self, outputs: Any, teacher_outputs: Any, *, temperature: float) -> Tensor:
        return F.mse_loss(outputs.sample.float(), teacher_outputs.sample.float())

    def make_meter(self, family: TargetFamily, network: nn.Module, split_name: str) -> Meter:
        return ReconstructionMeter()

    def draw(
        self,
        family: TargetFamily,
        networks: Mapping[str, nn.Module],
        batch: Mapping[str, Tensor],
        images: Tensor,
        label_names: Sequence[str],
    ) -> "Figure":
        """Draw a row for each image and a column for each network."""
        figure, axes = image_grid(len(images), 1 + len(networks), images.shape[-2:])
        for row, image in enumerate(images):
            show(axes[row][0], image, title="image" if row == 0 else "")
        for column, (heading, network) in enumerate(networks.items(), start=1):
            with torch.inference_mode():
                made = family.forward(network, batch).sample.float()
            for row, values in enumerate(made):
                show(axes[row][column], (values + 1) / PIXEL_RANGE, title=heading if row == 0 else "")
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
    ) -> None:
        """None: diffusers has it in code, `VaeImageProcessor`, and that knows no other range than [-1, 1].

        Raises:
            RecipeError: Images would have another range.
        """
        if {*mean, *std} != {0.5}:
            raise RecipeError(
                f"data.mean={list(mean)}, data.std={list(std)}: autoencoders of diffusers take images in [-1, 1]. Give "
                "0.5 for each channel in both."
            )


class ReconstructionMeter:
    """Quality of reconstructions.

    "mse" is the mean squared error of an image value; images reach from -1 to 1. "psnr" is the same in decibels, and
    "ssim" the mean structural similarity.
    """

    def __init__(self):
        self.sums = {"mse": 0.0, "ssim": 0.0}
        self.num_images = 0

    def add(self, outputs: Any, batch: Mapping[str, Tensor]) -> None:
        images, sample = batch["pixel_values"].float(), outputs.sample.float()
        self.num_images += len(images)
        self.sums["mse"] += (sample - images).square().mean(dim=(1, 2, 3)).sum().item()
        self.sums["ssim"] += similarity(sample, images).sum().item()

    def compute(self) -> dict[str, float]:
        scores = {name: value / self.num_images for name, value in self.sums.items()}
        return {**scores, "psnr": decibels(scores["mse"])}


def decibels(mse: float) -> float:
    """Compute the peak signal-to-noise ratio from the mean squared error of images from -1 to 1."""
    return 10 * math.log10(PIXEL_RANGE**2 / max(mse, 1e-12))


def similarity(sample: Tensor, images: Tensor) -> Tensor:
    """Structural similarity of each image, `[batch]`; of values from 0 up, since it compares ratios of means."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    sample, images = ((values + 1) / PIXEL_RANGE for values in (sample, images))
    found = structural_similarity_index_measure(sample, images, data_range=1.0, reduction="none")
    assert isinstance(found, Tensor)
    return found

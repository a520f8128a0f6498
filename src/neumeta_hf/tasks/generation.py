"""Image generation by autoencoders: reconstruction, divergence from the prior, and how near samples are to images."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from transformers import AutoModelForImageClassification

from neumeta_hf.errors import DataError, RecipeError
from neumeta_hf.scores import Score
from neumeta_hf.targets import TargetFamily, load_image_processor
from neumeta_hf.targets.autoencoding import AutoencoderFamily
from neumeta_hf.targets.loading import load_complete
from neumeta_hf.tasks.base import register_task
from neumeta_hf.tasks.pictures import image_grid, show
from neumeta_hf.tasks.reconstruction import PIXEL_RANGE, Amount, ImageReconstruction, decibels, similarity

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torchmetrics.image.fid import FrechetInceptionDistance


@register_task
@dataclasses.dataclass(kw_only=True)
class ImageGeneration(ImageReconstruction):
    """Variational autoencoders (Kingma and Welling 2014, arXiv:1312.6114) of images in [-1, 1].

    Attributes:
        kl: Weight of the divergence from the prior, in nats per image value, beside the mean squared error of an image
            value. With a Gaussian decoder of standard deviation s the evidence lower bound has 2 s^2.
        perceptual: Weight of `1 - SSIM` (Wang et al. 2004), which needs no weights of another network.
        features: Folder or Hub id of an image classifier, whose features images and samples are compared in. None:
            they are not compared.
        num_samples: Samples that are compared.
    """

    name = "image-generation"
    labels = ("none", "class")
    scores = (
        Score(name="mse", label="reconstruction MSE", larger_is_better=False, hub_name="mse"),
        Score(name="ssim", label="SSIM", hub_name="ssim"),
        Score(name="psnr", label="PSNR (dB)"),
        Score(name="elbo", label="ELBO (nats per image)"),
    )

    kl: Amount = 0.02
    features: str | None = None
    num_samples: Annotated[int, Field(ge=2)] = 2048

    def loss(self, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        images, sample = batch["pixel_values"].float(), outputs.sample.float()
        loss = F.mse_loss(sample, images)
        if self.kl:
            loss = loss + self.kl * divergence(outputs).mean() / images[0].numel()
        if self.perceptual:
            loss = loss + self.perceptual * (1 - similarity(sample, images).mean())
        return loss

    def make_meter(self, family: TargetFamily, network: nn.Module, split_name: str) -> "GenerationMeter":
        assert isinstance(family, AutoencoderFamily)
        return GenerationMeter(family, network, self._classifier, num_samples=self.num_samples)

    @functools.cached_property
    def _classifier(self) -> "ClassifierFeatures | None":
        """Read once, for all networks of a sweep."""
        return None if self.features is None else ClassifierFeatures(self.features)

    def draw(
        self,
        family: TargetFamily,
        networks: Mapping[str, nn.Module],
        batch: Mapping[str, Tensor],
        images: Tensor,
        label_names: Sequence[str],
    ) -> "Figure":
        """Reconstructions above, a row an image; samples below, a row a latent; a column a network."""
        assert isinstance(family, AutoencoderFamily)
        figure, axes = image_grid(2 * len(images), 1 + len(networks), images.shape[-2:])
        for row, image in enumerate(images):
            show(axes[row][0], image, title="image" if row == 0 else "")
            axes[row + len(images)][0].text(0.5, 0.5, f"latent {row + 1}", ha="center", va="center", fontsize=7)
        latents = None
        for column, (heading, network) in enumerate(networks.items(), start=1):
            with torch.inference_mode():
                outputs: Any = family.forward(network, batch)
                if latents is None:
                    generator = torch.Generator().manual_seed(0)
                    latents = torch.randn(outputs.mean.shape, generator=generator).to(outputs.mean)
                made = torch.cat((outputs.sample, family.decode(network, latents)))
            for row, values in enumerate(made):
                title = {0: heading, len(images): f"{heading}, samples"}.get(row, "")
                show(axes[row][column], (values + 1) / PIXEL_RANGE, title=title)
        return figure


class GenerationMeter:
    """Quality of reconstructions, and of samples from the prior.

    "mse" is the mean squared error of reconstructions from the posterior mean; images reach from -1 to 1. "psnr" is the
    same in decibels, and "ssim" the mean structural similarity. "elbo" is the evidence lower bound of an image in nats,
    estimated with one latent per image. Its decoder is Gaussian, with the mean squared error of these draws as variance
    (Rybkin et al. 2021, arXiv:2006.13202). "kl" is its divergence term. "sample_distance" is the Frechet distance
    between the split's images and samples from the prior, in the features of the given classifier. It is no FID, and
    comparable only within one classifier.

    Args:
        family: Decodes latents.
        network: The autoencoder.
        features: Extractor of features of images. None: samples are not looked at.
        num_samples: How many are drawn.
    """

    def __init__(
        self, family: AutoencoderFamily, network: nn.Module, features: "ClassifierFeatures | None", *, num_samples: int
    ):
        self.family = family
        self.network = network
        self.num_samples = num_samples
        self.distance = None
        if features is not None:
            from torchmetrics.image.fid import FrechetInceptionDistance

            self.distance = FrechetInceptionDistance(feature=features, input_img_size=features.image_shape)
        self.sums = {"mse": 0.0, "ssim": 0.0, "kl": 0.0, "drawn": 0.0}
        self.num_images = 0
        self.num_values = 0
        self.generator = torch.Generator().manual_seed(0)
        self.latents: Tensor | None = None

    def add(self, outputs: Any, batch: Mapping[str, Tensor]) -> None:
        images, sample = batch["pixel_values"].float(), outputs.sample.float()
        self.num_values = images[0].numel()
        self.num_images += len(images)
        self.sums["mse"] += (sample - images).square().mean(dim=(1, 2, 3)).sum().item()
        self.sums["ssim"] += similarity(sample, images).sum().item()
        self.sums["kl"] += divergence(outputs).sum().item()
        noise = torch.randn(outputs.mean.shape, generator=self.generator).to(outputs.mean)
        drawn = self.family.decode(self.network, outputs.mean + (0.5 * outputs.logvar).exp() * noise).float()
        self.sums["drawn"] += (drawn - images).square().mean(dim=(1, 2, 3)).sum().item()
        self.latents = outputs.mean[:1]
        if self.distance is not None:
            self.distance.to(images.device).update(images, real=True)

    def compute(self) -> dict[str, float]:
        scores = {name: value / self.num_images for name, value in self.sums.items()}
        variance = max(scores.pop("drawn"), 1e-12)
        surprise = 0.5 * self.num_values * (math.log(2 * math.pi * variance) + 1)
        scores["psnr"] = decibels(scores["mse"])
        scores["elbo"] = -surprise - scores["kl"]
        if self.distance is not None:
            scores["sample_distance"] = self._sample_distance(self.distance)
        return scores

    def _sample_distance(self, distance: "FrechetInceptionDistance") -> float:
        assert self.latents is not None
        generator = torch.Generator().manual_seed(0)
        with torch.inference_mode():
            for start in range(0, self.num_samples, 256):
                number = min(256, self.num_samples - start)
                noise = torch.randn((number, *self.latents.shape[1:]), generator=generator)
                samples = self.family.decode(self.network, noise.to(self.latents))
                distance.update(samples.float().clamp(-1, 1), real=False)
        return float(distance.compute())


class ClassifierFeatures(nn.Module):
    """What an image classifier gives its last linear layer.

    Args:
        name: Folder or Hub id of the classifier and of its image processor.

    Raises:
        RecipeError: It has no image processor that normalises, or no linear layer.
        CheckpointError: It cannot be read.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str):
        super().__init__()
        self.name = name
        self.classifier = load_complete(AutoModelForImageClassification, name).requires_grad_(False)
        processor = load_image_processor(name)
        size = getattr(processor, "size", None)
        if (
            not any(isinstance(module, nn.Linear) for module in self.classifier.modules())
            or size is None
            or size.get("height") is None
        ):
            raise RecipeError(
                f"task.features={name!r}: needs an image classifier with a linear head and an image processor of one "
                "size. Give the `reference` folder of a classification run."
            )
        mean, std = (torch.tensor(getattr(processor, key)).view(1, -1, 1, 1) for key in ("image_mean", "image_std"))
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.image_shape = (mean.shape[1], size["height"], size["width"])

    def forward(self, images: Tensor) -> Tensor:
        """Features of images.

        Args:
            images: `[batch, channels, height, width]` in [-1, 1].

        Returns:
            `[batch, features]`.

        Raises:
            DataError: The images are not of the size that the classifier takes.
        """
        if images.shape[1:] != self.image_shape:
            raise DataError(
                f"task.features={self.name!r} takes images of {list(self.image_shape)}, but these are "
                f"{list(images.shape[1:])}: give a classifier that was trained on the same images."
            )
        found: list[Tensor] = []
        *_, head = (module for module in self.classifier.modules() if isinstance(module, nn.Linear))
        hook = head.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
        try:
            self.classifier(pixel_values=((images.float() + 1) / PIXEL_RANGE - self.mean) / self.std)
        finally:
            hook.remove()
        return found[0]


def divergence(outputs: Any) -> Tensor:
    """Kullback-Leibler divergence of each image's posterior from the standard normal prior, in nats.

    Args:
        outputs: With `mean` and `logvar`, `[batch, ...]`.

    Returns:
        `[batch]`.
    """
    mean, logvar = outputs.mean.float(), outputs.logvar.float()
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1)

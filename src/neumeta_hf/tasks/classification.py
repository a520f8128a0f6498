"""Image classification: cross-entropy and top-1 accuracy."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from transformers.image_processing_utils import BaseImageProcessor

from neumeta_hf.batches import OTHER_LABELS, OTHER_SHARES
from neumeta_hf.errors import DataError
from neumeta_hf.images import Interpolation
from neumeta_hf.scores import ACCURACY, Score
from neumeta_hf.targets import TargetFamily, build_image_processor
from neumeta_hf.tasks.base import Task, register_task
from neumeta_hf.tasks.losses import class_divergence
from neumeta_hf.tasks.pictures import check_label_names, image_grid, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@register_task
@dataclasses.dataclass(kw_only=True)
class ImageClassification(Task):
    """One class an image.

    Attributes:
        label_smoothing: How much of each label is spread over all classes (Szegedy et al. 2016, arXiv:1512.00567); 0.1
            is usual.
    """

    name = "image-classification"
    labels = ("class",)
    scores = (
        ACCURACY,
        Score(name="loss", label="loss", larger_is_better=False),
    )

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def loss(self, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        logits, smoothing = outputs.logits.float(), self.label_smoothing
        if OTHER_LABELS not in batch:
            return F.cross_entropy(logits, batch["labels"], label_smoothing=smoothing)
        own, other = (
            F.cross_entropy(logits, batch[labels], label_smoothing=smoothing, reduction="none")
            for labels in ("labels", OTHER_LABELS)
        )
        return own.lerp(other, batch[OTHER_SHARES].to(own.dtype)).mean()

    def distillation(self, outputs: Any, teacher_outputs: Any, *, temperature: float) -> Tensor:
        return class_divergence(outputs.logits, teacher_outputs.logits, temperature=temperature)

    def make_meter(self, family: TargetFamily, network: nn.Module, split_name: str) -> "ClassificationMeter":
        return ClassificationMeter(split_name)

    def draw(
        self,
        family: TargetFamily,
        networks: Mapping[str, nn.Module],
        batch: Mapping[str, Tensor],
        images: Tensor,
        label_names: Sequence[str],
    ) -> "Figure":
        check_label_names(label_names, int(batch["labels"].max()) + 1)
        figure, axes = image_grid(len(images), 1 + len(networks), images.shape[-2:])
        for row, (image, label) in enumerate(zip(images, batch["labels"], strict=True)):
            show(axes[row][0], image, title=label_names[int(label)])
        for column, (heading, network) in enumerate(networks.items(), start=1):
            with torch.inference_mode():
                probabilities = family.forward(network, batch).logits.float().softmax(-1)
            check_label_names(label_names, probabilities.shape[-1])
            for row, (image, label) in enumerate(zip(images, batch["labels"], strict=True)):
                best = int(probabilities[row].argmax())
                title = f"{label_names[best]} ({probabilities[row, best]:.0%})"
                above = f"{heading}\n" if row == 0 else ""
                show(axes[row][column], image, title=above + title, color="black" if best == label else "#c0392b")
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
        return build_image_processor(
            num_channels=num_channels,
            image_size=image_size,
            mean=mean,
            std=std,
            center_crop=center_crop,
            interpolation=interpolation,
        )


class ClassificationMeter:
    """Accuracy, and the mean cross-entropy in nats.

    Args:
        split_name: For messages.
    """

    def __init__(self, split_name: str):
        from neumeta_hf.tasks.accuracy import Accuracy

        self.split_name = split_name
        self.accuracy = Accuracy(keep_in_memory=True)
        self.loss = 0.0
        self.num_images = 0

    def add(self, outputs: Any, batch: Mapping[str, Tensor]) -> None:
        logits, labels = outputs.logits.float(), batch["labels"]
        if (largest := int(labels.max())) >= logits.shape[-1]:
            raise DataError(
                f"the {self.split_name} split holds class {largest}, and the model tells {logits.shape[-1]} classes "
                "apart (0 is the first): measure it on the data set that it was trained on."
            )
        self.loss += F.cross_entropy(logits, labels, reduction="sum").item()
        self.num_images += len(labels)
        self.accuracy.add_batch(predictions=logits.argmax(-1).cpu().numpy(), references=labels.cpu().numpy())

    def compute(self) -> dict[str, float]:
        scores = self.accuracy.compute()
        assert scores is not None
        return {"accuracy": scores["accuracy"], "loss": self.loss / self.num_images}

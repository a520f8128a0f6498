"""What every task is: losses of a batch, metrics of a split and a picture, behind one interface and one registry."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from transformers.image_processing_utils import BaseImageProcessor

from neumeta_hf.errors import RecipeError
from neumeta_hf.images import Interpolation
from neumeta_hf.scores import Score
from neumeta_hf.targets import TargetFamily

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Meter(Protocol):
    """Collects what a network puts out for the batches of a split."""

    def add(self, outputs: Any, batch: Mapping[str, Tensor]) -> None:
        """Take in one batch.

        Args:
            outputs: As from the family's `forward`.
            batch: What it was computed from.
        """
        ...

    def compute(self) -> dict[str, float]:
        """Metrics of all batches together, by the names of the task's scores and possibly more."""
        ...


@dataclasses.dataclass(kw_only=True)
class Task(abc.ABC):
    """What networks of some families do. The fields of a subclass are its options, as recipes give them.

    Attributes:
        name: What target families and results call it.
        modality: What its networks read, which decides how data is loaded: "image" or "text".
        labels: Which kinds of labels its batches may have, the first being the usual: of images "class", "mask" or
            "none"; of text "next_token", "masked_token" or "similarity".
        has_loss: Whether there is a loss beside the distance from a teacher.
        scores: What networks are compared by; the first selects, and is what is drawn against size.
    """

    name: ClassVar[str]
    modality: ClassVar[Literal["image", "text"]] = "image"
    labels: ClassVar[tuple[str, ...]]
    has_loss: ClassVar[bool] = True
    scores: ClassVar[tuple[Score, ...]]

    @property
    def has_classes(self) -> bool:
        """Whether its networks tell classes of the data apart."""
        return self.modality == "image" and "none" not in self.labels

    @abc.abstractmethod
    def loss(self, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Compute what training minimises, for one batch.

        Args:
            outputs: As from the family's `forward`.
            batch: What the network took, and "labels" where there are any.

        Returns:
            A scalar.
        """

    def predictions(self, outputs: Any, batch: Mapping[str, Tensor]) -> Any:
        """Choose the outputs that distillation compares; as they are, unless a task needs the batch for it.

        Args:
            outputs: As from the family's `forward`.
            batch: What they were computed from.

        Returns:
            What `distillation` takes.
        """
        return outputs

    @abc.abstractmethod
    def distillation(self, outputs: Any, teacher_outputs: Any, *, temperature: float) -> Tensor:
        """Compute how far a network is from its teacher, on one batch.

        Args:
            outputs: As from `predictions`.
            teacher_outputs: The teacher's, for the same batch.
            temperature: Temperature of distributions over classes, where there are any.

        Returns:
            A scalar.
        """

    @abc.abstractmethod
    def make_meter(self, family: TargetFamily, network: nn.Module, split_name: str) -> Meter:
        """Make a meter for one network on one split.

        Args:
            family: The network's family.
            network: In evaluation mode.
            split_name: For messages.

        Returns:
            An empty meter.
        """

    @abc.abstractmethod
    def draw(
        self,
        family: TargetFamily,
        networks: Mapping[str, nn.Module],
        batch: Mapping[str, Tensor],
        images: Any,
        label_names: Sequence[str],
    ) -> "Figure":
        """Draw what networks of several sizes make of a few images, side by side.

        Args:
            family: The networks' family.
            networks: Heading to network, in evaluation mode.
            batch: A few rows and their labels, where there are any.
            images: The same images as they look, `[batch, channels, height, width]` in [0, 1]; of text the tokenizer.
            label_names: Names of the classes, in order.

        Returns:
            A figure that holds nothing of matplotlib's global state.
        """

    @abc.abstractmethod
    def make_image_processor(
        self,
        *,
        num_channels: int,
        image_size: int | Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        center_crop: bool | int,
        interpolation: Interpolation,
    ) -> BaseImageProcessor | None:
        """Make the processor that turns images into a network's input outside of this library.

        Args:
            num_channels: Number of channels of an image.
            image_size: Height and width, or one number for both.
            mean: Per channel, of values in [0, 1].
            std: Per channel.
            center_crop: Whether the centre of a larger image is cropped; a number: of one with so many pixels on its
                shorter side.
            interpolation: How pixels are interpolated.

        Returns:
            A processor to save beside the weights, or None where the ecosystem has it in code.
        """


TaskClass = TypeVar("TaskClass", bound=Task)

_REGISTRY: dict[str, type[Task]] = {}


def register_task(cls: type[TaskClass]) -> type[TaskClass]:
    """Class decorator: makes a task known under its `name`.

    Returns:
        The class, unchanged.

    Raises:
        RecipeError: Another class holds the name.
    """
    if _REGISTRY.setdefault(cls.name, cls) is not cls:
        raise RecipeError(f"task {cls.name!r} is taken by {_REGISTRY[cls.name].__name__}: choose another name.")
    return cls


def list_tasks() -> list[str]:
    """List the names of the registered tasks."""
    return sorted(_REGISTRY)


def build_task(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """Build a task with options.

    Args:
        name: As target families name it.
        options: Options of the task; None: all at their defaults.

    Returns:
        The task.

    Raises:
        RecipeError: The task is unknown, has no such option, or an option is of the wrong kind.
    """
    cls = _find(name)
    known = [field.name for field in dataclasses.fields(cls)]
    if unknown := sorted(set(options or {}) - set(known)):
        raise RecipeError(f"task names {', '.join(unknown)}: {name} takes {', '.join(known) or 'no options'}.")
    try:
        return TypeAdapter(cls).validate_python(dict(options or {}))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RecipeError(f"task.{key}={first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}") from error


def _find(name: str) -> type[Task]:
    if name not in _REGISTRY:
        raise RecipeError(f"there is no task {name!r}: there is {', '.join(list_tasks())}.")
    return _REGISTRY[name]

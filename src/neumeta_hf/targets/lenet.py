"""LeNet of any width for small images.

After LeCun et al. 1998, "Gradient-based learning applied to document recognition". Differs from the paper: three
convolutions that keep the height and width, ReLU, max-pooling, and one linear layer on the mean over the final map.
"""

import copy
import dataclasses

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput

from neumeta_hf.axes import Axis, Size
from neumeta_hf.rules import Rule
from neumeta_hf.targets.image_processing import GrayscaleImageProcessor
from neumeta_hf.targets.registry import TargetFamily, register_target


@strict
class LeNetConfig(PreTrainedConfig):
    """Config of `LeNetForImageClassification`.

    Attributes:
        hidden_channels: Output channels of the three convolutions.
        kernel_size: Height and width of every kernel; odd.
        batch_norm: Whether a BatchNorm follows each convolution.
        num_input_channels: Channels of an image.
        image_size: Height and width of an image, in pixels.
    """

    model_type = "neumeta_lenet"

    hidden_channels: list[int] = dataclasses.field(default_factory=lambda: [32, 64, 128])
    kernel_size: int = 5
    batch_norm: bool = False
    num_input_channels: int = 1
    image_size: int = 28

    def validate_hidden_channels(self):
        """Three positive counts."""
        if len(self.hidden_channels) != 3 or min(self.hidden_channels) < 1:
            raise ValueError(
                f"hidden_channels={self.hidden_channels}: pass three counts from 1 up, one for each convolution."
            )

    def validate_kernel_size(self):
        """Odd, so that padding keeps the height and width."""
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={self.kernel_size}: pass an odd number such as 3 or 5.")


class LeNetForImageClassification(PreTrainedModel):
    """Three convolutions, the first two followed by 2x2 max-pooling, then the mean over the map and a linear layer."""

    config: LeNetConfig
    main_input_name = "pixel_values"

    def __init__(self, config: LeNetConfig):
        super().__init__(config)

        def convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
            return nn.Conv2d(in_channels, out_channels, config.kernel_size, padding=config.kernel_size // 2)

        def normalization(num_channels: int) -> nn.Module:
            return nn.BatchNorm2d(num_channels) if config.batch_norm else nn.Identity()

        first, second, third = config.hidden_channels
        self.conv1, self.bn1 = convolution(config.num_input_channels, first), normalization(first)
        self.conv2, self.bn2 = convolution(first, second), normalization(second)
        self.conv3, self.bn3 = convolution(second, third), normalization(third)
        self.linear = nn.Linear(third, config.num_labels)  # pyright: ignore[reportArgumentType]
        self.post_init()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ImageClassifierOutput:
        """Classify images.

        Args:
            pixel_values: `[batch, channels, height, width]`, normalised; any height and width.
            labels: Class of each image, `[batch]`; with it the output has the mean cross-entropy as `loss`.

        Returns:
            An output with `logits`, `[batch, num_labels]`.
        """
        # Rounding up keeps a map of one pixel as it is, so that no image is too small.
        hidden = F.max_pool2d(F.relu(self.bn1(self.conv1(pixel_values))), 2, ceil_mode=True)
        hidden = F.max_pool2d(F.relu(self.bn2(self.conv2(hidden))), 2, ceil_mode=True)
        hidden = F.relu(self.bn3(self.conv3(hidden)))
        logits = self.linear(hidden.mean(dim=(2, 3)))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # He initialisation by fan-in keeps the signal's scale from layer to layer, which nothing else does here
        # without BatchNorm; the default of transformers (0.02) lets it vanish.
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="linear")


@register_target
class LeNetFamily(TargetFamily):
    """Every convolution's output is a width group of its own."""

    name = "lenet"
    model_types = ("neumeta_lenet",)
    square_only = True

    def axes(self, config: LeNetConfig) -> list[Axis]:
        return [Axis(f"conv{number}", count) for number, count in enumerate(config.hidden_channels, start=1)]

    def rules(self, config: LeNetConfig) -> dict[str, Rule]:
        before: list[str | None] = [None, "conv1", "conv2"]
        rules: dict[str, Rule] = {"linear": (None, "conv3")}
        for number, input_axis in enumerate(before, start=1):
            rules |= {f"conv{number}": (f"conv{number}", input_axis), f"bn{number}": (f"conv{number}",)}
        return rules

    def config_at(self, config: LeNetConfig, size: Size) -> LeNetConfig:
        config = copy.deepcopy(config)
        config.hidden_channels = list(size.values())
        return config

    def fused_config(self, config: LeNetConfig) -> LeNetConfig:
        config = copy.deepcopy(config)
        config.batch_norm = False
        return config

    def image_shape(self, config: LeNetConfig) -> tuple[int, int, int]:
        return config.num_input_channels, config.image_size, config.image_size


AutoConfig.register(LeNetConfig.model_type, LeNetConfig)
AutoModelForImageClassification.register(LeNetConfig, LeNetForImageClassification)
AutoImageProcessor.register(LeNetConfig, image_processor_classes={"pil": GrayscaleImageProcessor})

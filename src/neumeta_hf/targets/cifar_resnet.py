"""ResNet for 32x32 images, at any width (He et al. 2016, arXiv:1512.03385, section 4.2).

Three stages of basic blocks; the second and third halve the image. Modules carry the names of the common CIFAR-10
checkpoints, which `load_cifar_checkpoint` reads. With `batch_norm=False` the convolutions have a bias instead.
"""

import copy
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput

from neumeta_hf.axes import Axis, Constraint, Depth, Size
from neumeta_hf.checkpoints import check_weights, limit_building, open_weights
from neumeta_hf.errors import CheckpointError
from neumeta_hf.rules import Rule
from neumeta_hf.targets.registry import TargetFamily, register_target
from neumeta_hf.targets.stages import inner_counts, stage_axes, stage_depths

NUM_STAGES = 3


def _as_wide_as_stage(num_blocks: list[int], stage_channels: list[int]) -> list[list[int]]:
    # Not strict: configs call this before they are validated.
    return [[width] * blocks for width, blocks in zip(stage_channels, num_blocks, strict=False)]


@strict
class CifarResNetConfig(PreTrainedConfig):
    """Config of `CifarResNetForImageClassification`.

    Attributes:
        num_blocks: Basic blocks in each of the three stages.
        stage_channels: Channels of each stage's residual stream; the stem has those of the first stage.
        inner_channels: Channels between the two convolutions of each block, by stage; None where all are as wide as
            their stage, and a list that says just that becomes None.
        shortcut: What joins two stages: "identity" takes every second pixel and pads with zero channels (option A of
            the paper), "projection" is a strided 1x1 convolution (option B).
        batch_norm: Whether a BatchNorm follows each convolution; if not, convolutions have a bias.
        num_input_channels: Channels of an image.
        image_size: Height and width of an image, in pixels.
    """

    model_type = "neumeta_cifar_resnet"

    num_blocks: list[int] = dataclasses.field(default_factory=lambda: [3, 3, 3])
    stage_channels: list[int] = dataclasses.field(default_factory=lambda: [16, 32, 64])
    inner_channels: list[list[int]] | None = None
    shortcut: str = "projection"
    batch_norm: bool = True
    num_input_channels: int = 3
    image_size: int = 32

    def __post_init__(self, **kwargs):
        if self.inner_channels == _as_wide_as_stage(self.num_blocks, self.stage_channels):
            self.inner_channels = None
        super().__post_init__(**kwargs)

    def validate_stages(self):
        """Three stages with blocks and channels, and inner channels for each block."""
        for name in ("num_blocks", "stage_channels"):
            if len(getattr(self, name)) != NUM_STAGES or min(getattr(self, name)) < 1:
                raise ValueError(
                    f"{name}={getattr(self, name)}: pass {NUM_STAGES} counts from 1 up, one for each stage."
                )
        inner = self.inner_channels
        if inner is not None and ([len(s) for s in inner] != self.num_blocks or min(map(min, inner)) < 1):
            raise ValueError(f"inner_channels={inner}: pass a count from 1 up for each of {self.num_blocks} blocks.")

    def validate_shortcut(self):
        """Check that the shortcut is one of the two kinds; "identity" cannot drop channels."""
        if self.shortcut not in ("identity", "projection"):
            raise ValueError(f'shortcut={self.shortcut!r}: pass "identity" or "projection".')
        if self.shortcut == "identity" and self.stage_channels != sorted(self.stage_channels):
            raise ValueError(
                f'stage_channels={self.stage_channels} shrink, and shortcut="identity" only adds channels: '
                'let them grow, or pass shortcut="projection".'
            )


def _inner_channels(config: CifarResNetConfig) -> list[list[int]]:
    return config.inner_channels or _as_wide_as_stage(config.num_blocks, config.stage_channels)


def _preset(num_blocks: int, num_labels: int, shortcut: str) -> CifarResNetConfig:
    config = CifarResNetConfig(num_blocks=[num_blocks] * NUM_STAGES, shortcut=shortcut)
    config.num_labels = num_labels
    return config


def cifar_resnet20(num_labels: int, *, shortcut: str = "projection") -> CifarResNetConfig:
    """20 layers: 3 blocks a stage."""
    return _preset(3, num_labels, shortcut)


def cifar_resnet32(num_labels: int, *, shortcut: str = "projection") -> CifarResNetConfig:
    """32 layers: 5 blocks a stage."""
    return _preset(5, num_labels, shortcut)


def cifar_resnet44(num_labels: int, *, shortcut: str = "projection") -> CifarResNetConfig:
    """44 layers: 7 blocks a stage."""
    return _preset(7, num_labels, shortcut)


def cifar_resnet56(num_labels: int, *, shortcut: str = "projection") -> CifarResNetConfig:
    """56 layers: 9 blocks a stage."""
    return _preset(9, num_labels, shortcut)


def cifar_resnet110(num_labels: int, *, shortcut: str = "projection") -> CifarResNetConfig:
    """110 layers: 18 blocks a stage."""
    return _preset(18, num_labels, shortcut)


def _conv_bn(
    config: CifarResNetConfig, in_channels: int, out_channels: int, kernel_size: int, stride: int
) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=not config.batch_norm
    )
    return convolution, nn.BatchNorm2d(out_channels) if config.batch_norm else nn.Identity()


class PaddedSubsample(nn.Module):
    """Option A: every second pixel, with zero channels below and above; no parameters."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        added = out_channels - in_channels
        self.below, self.above = added // 2, added - added // 2

    def forward(self, hidden: Tensor) -> Tensor:
        """Map `[batch, in, height, width]` to `[batch, out, height / 2, width / 2]`, halves rounded up."""
        return F.pad(hidden[:, :, ::2, ::2], (0, 0, 0, 0, self.below, self.above))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; a block that opens a stage halves the image."""

    def __init__(
        self, config: CifarResNetConfig, in_channels: int, inner_channels: int, out_channels: int, opens: bool
    ):
        super().__init__()
        stride = 2 if opens else 1
        self.conv1, self.bn1 = _conv_bn(config, in_channels, inner_channels, 3, stride)
        self.conv2, self.bn2 = _conv_bn(config, inner_channels, out_channels, 3, 1)
        # By position, never by equal counts: resizing must not make a weight appear or vanish.
        if not opens:
            self.downsample = nn.Identity()
        elif config.shortcut == "projection":
            self.downsample = nn.Sequential(*_conv_bn(config, in_channels, out_channels, 1, stride))
        else:
            self.downsample = PaddedSubsample(in_channels, out_channels)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map `[batch, in, height, width]` to `[batch, out, height, width]`, or half that height and width."""
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(hidden)))))
        return F.relu(residual + self.downsample(hidden))


class CifarResNetForImageClassification(PreTrainedModel):
    """A 3x3 stem, three stages of `BasicBlock`, the mean over the final map and a linear layer."""

    config: CifarResNetConfig
    main_input_name = "pixel_values"

    def __init__(self, config: CifarResNetConfig):
        super().__init__(config)
        in_channels = config.stage_channels[0]
        self.conv1, self.bn1 = _conv_bn(config, config.num_input_channels, in_channels, 3, 1)
        self.relu = nn.ReLU()  # a module, so that a static stem is one to the end (`StaticOutputs`)
        stages = []
        for stage, (out_channels, inner) in enumerate(zip(config.stage_channels, _inner_channels(config), strict=True)):
            blocks = []
            for block, inner_channels in enumerate(inner):
                blocks.append(
                    BasicBlock(config, in_channels, inner_channels, out_channels, opens=stage > 0 and block == 0)
                )
                in_channels = out_channels
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(in_channels, config.num_labels)  # pyright: ignore[reportArgumentType]
        self.post_init()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ImageClassifierOutput:
        """Classify images.

        Args:
            pixel_values: `[batch, channels, height, width]`, normalised; any height and width.
            labels: Class of each image, `[batch]`; with it the output has the mean cross-entropy as `loss`.

        Returns:
            An output with `logits`, `[batch, num_labels]`.
        """
        hidden = self.relu(self.bn1(self.conv1(pixel_values)))
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        logits = self.linear(hidden.mean(dim=(2, 3)))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="linear")


@register_target
class CifarResNetFamily(TargetFamily):
    """One width group for each stage's residual stream (the stem is on the first), and one inside every block."""

    name = "cifar_resnet"
    model_types = ("neumeta_cifar_resnet",)
    square_only = True

    def load(self, name: str, **options: Any) -> nn.Module:
        """Load a network of the target family, in evaluation mode; also from bare weights that were trained elsewhere.

        Args:
            name: A folder or Hub id, or a file of weights that ends in ".safetensors".
            **options: Options of its class's `from_pretrained`; for a file, `dtype` and those of
                `load_cifar_checkpoint`.

        Returns:
            As from `build`.

        Raises:
            CheckpointError: It cannot be read, is of another architecture, or lacks weights or has too many.
            MissingCheckpointError: There is no such folder or Hub id; also an OSError.
        """
        if name.endswith(".safetensors"):
            dtype = options.pop("dtype", None)
            network: nn.Module = load_cifar_checkpoint(name, **options)
            return network if dtype is None else network.to(dtype)
        return super().load(name, **options)

    def axes(self, config: CifarResNetConfig) -> list[Axis]:
        return stage_axes(config.stage_channels, _inner_channels(config))

    def rules(self, config: CifarResNetConfig) -> dict[str, Rule]:
        rules: dict[str, Rule] = {"conv1": ("stage1", None), "bn1": ("stage1",), "linear": (None, f"stage{NUM_STAGES}")}
        before = "stage1"
        for stage, num_blocks in enumerate(config.num_blocks, start=1):
            stream = f"stage{stage}"
            for block in range(num_blocks):
                path, inner = f"layer{stage}.{block}", f"{stream}.block{block + 1}"
                rules |= {
                    f"{path}.conv1": (inner, before),
                    f"{path}.bn1": (inner,),
                    f"{path}.conv2": (stream, inner),
                    f"{path}.bn2": (stream,),
                    f"{path}.downsample.0": (stream, before),
                    f"{path}.downsample.1": (stream,),
                }
                before = stream
        return rules

    def constraints(self, config: CifarResNetConfig) -> list[Constraint]:
        if config.shortcut != "identity":
            return []
        reason, way_out = 'shortcut="identity" only adds channels', ', or a reference with shortcut="projection"'
        return [
            Constraint(f"stage{stage + 1}", f"stage{stage}", "not below", reason, way_out)
            for stage in range(1, NUM_STAGES)
        ]

    def depths(self, config: CifarResNetConfig) -> list[Depth]:
        return stage_depths(config.num_blocks, lambda stage: f"layer{stage}")

    def config_at(self, config: CifarResNetConfig, size: Size) -> CifarResNetConfig:
        stages = [size[f"stage{stage}"] for stage in range(1, NUM_STAGES + 1)]
        inner = inner_counts(size, config.num_blocks)
        config = copy.deepcopy(config)
        config.num_blocks = [len(blocks) for blocks in inner]
        config.stage_channels = stages
        config.inner_channels = None if inner == _as_wide_as_stage(config.num_blocks, stages) else inner
        return config

    def fused_config(self, config: CifarResNetConfig) -> CifarResNetConfig:
        config = copy.deepcopy(config)
        config.batch_norm = False
        return config

    def image_shape(self, config: CifarResNetConfig) -> tuple[int, int, int]:
        return config.num_input_channels, config.image_size, config.image_size


def _own_name(key: str) -> str:
    return re.sub(r"^fc\.", "linear.", key).replace(".shortcut.", ".downsample.")


def _infer_config(path: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> CifarResNetConfig:
    def num_channels(key: str, axis: int = 0) -> int:
        if len(shapes.get(key, ())) <= axis:
            found = f"has shape {shapes[key]}" if key in shapes else "is missing"
            raise CheckpointError(f"{path} is no CIFAR ResNet: {key} {found}. Pass the file of such a network.")
        return shapes[key][axis]

    num_blocks = []
    for stage in range(1, NUM_STAGES + 1):
        blocks = [int(found[1]) for key in shapes if (found := re.match(rf"layer{stage}\.(\d+)\.", key))]
        num_blocks.append(max(blocks, default=0) + 1)
    inner_channels = [
        [num_channels(f"layer{stage}.{block}.conv1.weight") for block in range(blocks)]
        for stage, blocks in enumerate(num_blocks, start=1)
    ]
    try:
        config = CifarResNetConfig(
            num_blocks=num_blocks,
            stage_channels=[num_channels(f"layer{stage}.0.conv2.weight") for stage in range(1, NUM_STAGES + 1)],
            inner_channels=inner_channels,
            shortcut="projection" if any(".downsample." in key for key in shapes) else "identity",
            batch_norm="bn1.weight" in shapes,
            num_input_channels=num_channels("conv1.weight", axis=1),
        )
    except StrictDataclassError as error:
        raise CheckpointError(f"{path} is no CIFAR ResNet ({error}). Pass the file of such a network.") from error
    config.num_labels = num_channels("linear.weight")
    return config


def load_cifar_checkpoint(path: str | Path, *, image_size: int = 32) -> CifarResNetForImageClassification:
    """Read a CIFAR ResNet that was trained elsewhere; depth, widths, shortcut and classes are taken from the shapes.

    Keys may be those of akamaster's pytorch_resnet_cifar10 (`linear.*`, option A), of chenyaofo's pytorch-cifar-models
    (`fc.*`, `layer2.0.downsample.*`) or of this class. `module.` or `_orig_mod.` may stand in front.

    Args:
        path: A safetensors file.
        image_size: Height and width of the images that it was trained on, in pixels; no shape tells.

    Returns:
        The network, in eval mode and float32.

    Raises:
        CheckpointError: The file cannot be read, a key is missing, unexpected or of the wrong shape, or a weight is no
            number.
    """
    path, held = open_weights(path)
    names = {key: _own_name(key) for key in held.shapes}
    if len(set(names.values())) < len(names):
        raise CheckpointError(f"{path} has a weight under two names, such as fc.weight and linear.weight: keep one.")
    shapes = {names[key]: shape for key, shape in held.shapes.items()}
    config = _infer_config(path, shapes)
    config.image_size = image_size
    with torch.device("meta"), limit_building():  # what the shapes of single weights suggest may be of any size
        expected = {
            key: tuple(value.shape) for key, value in CifarResNetForImageClassification(config).state_dict().items()
        }
    problems = [
        f"{key} is missing" for key in expected if key not in shapes and not key.endswith("num_batches_tracked")
    ]
    problems += [f"{key} {shape} is unexpected" for key, shape in shapes.items() if key not in expected]
    problems += [
        f"{key} has shape {shape}, not {expected[key]}"
        for key, shape in shapes.items()
        if key in expected and shape != expected[key]
    ]
    if problems:
        raise CheckpointError(
            f"{path} is no CIFAR ResNet with num_blocks={config.num_blocks}, stage_channels={config.stage_channels} "
            f"and shortcut={config.shortcut!r}, which its shapes suggest: "
            f"{'; '.join(problems[:5])} ({len(problems)} in all). Pass the file of such a network."
        )
    weights = {names[key.removeprefix(held.prefix)]: value for key, value in load_file(path).items()}
    check_weights(weights, None, str(path))
    model = CifarResNetForImageClassification(config)
    model.load_state_dict(weights, strict=False)
    return model.eval()


AutoConfig.register(CifarResNetConfig.model_type, CifarResNetConfig)
AutoModelForImageClassification.register(CifarResNetConfig, CifarResNetForImageClassification)

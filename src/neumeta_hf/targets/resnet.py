"""The ResNet of transformers, at any width (He et al. 2016, arXiv:1512.03385).

`ResNetForImageClassification` has one width a stage; `NeuMetaResNetForImageClassification` has one for the inside of
each block, too, and so has `NeuMetaResNetBackbone`, on which other networks stand. A size that the stock class can
express keeps it: then only transformers is needed to load it.
"""

import copy
import itertools
from typing import Any

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoModelForImageClassification,
    PreTrainedConfig,
    ResNetBackbone,
    ResNetConfig,
    ResNetForImageClassification,
)

from neumeta_hf.axes import Axis, Constraint, Depth, Size
from neumeta_hf.errors import TargetError
from neumeta_hf.rules import Rule
from neumeta_hf.targets.registry import TargetFamily, register_target
from neumeta_hf.targets.stages import as_class, check_inner_sizes, inner_counts, stage_axes, stage_depths

# The stock class has no word for it in its config.
BOTTLENECK_REDUCTION = 4
DEFAULT_IMAGE_SIZE = 224


def _stage_sizes(config: ResNetConfig) -> list[int]:
    return list(config.hidden_sizes or ())


def _depths(config: ResNetConfig) -> list[int]:
    return list(config.depths or ())


def _stem_is_tied(config: ResNetConfig) -> bool:
    # The stock block has a 1x1 shortcut wherever it strides or changes the width.
    return not config.downsample_in_first_stage and config.embedding_size == _stage_sizes(config)[0]


def _stock_inner_sizes(config: ResNetConfig) -> list[list[int]]:
    reduction = BOTTLENECK_REDUCTION if config.layer_type == "bottleneck" else 1
    return [[width // reduction] * depth for width, depth in zip(_stage_sizes(config), _depths(config), strict=True)]


def _inner_sizes(config: ResNetConfig) -> list[list[int]]:
    return getattr(config, "inner_sizes", None) or _stock_inner_sizes(config)


@strict
class NeuMetaResNetConfig(ResNetConfig):
    """A `ResNetConfig` whose blocks may have any inner width.

    Attributes:
        inner_sizes: Channels inside each block, by stage: between the two convolutions of a basic block, before and
            after the 3x3 convolution of a bottleneck. None: as in `ResNetConfig`.
    """

    model_type = "neumeta_resnet"

    inner_sizes: list[list[int]] | None = None

    def validate_inner_sizes(self):
        """Check that every block has a positive count."""
        check_inner_sizes(self.inner_sizes, _depths(self))


def _resize_layer(layer: Any, in_channels: int, out_channels: int) -> None:
    old = layer.convolution
    layer.convolution = nn.Conv2d(in_channels, out_channels, old.kernel_size, old.stride, old.padding, bias=False)
    layer.normalization = nn.BatchNorm2d(out_channels)


def _resize_blocks(encoder: Any, config: NeuMetaResNetConfig) -> None:
    for stage, inner_sizes in zip(encoder.stages, _inner_sizes(config), strict=True):
        for block, inner in zip(stage.layers, inner_sizes, strict=True):
            first, *middle, last = block.layer
            _resize_layer(first, first.convolution.in_channels, inner)
            for layer in middle:
                _resize_layer(layer, inner, inner)
            _resize_layer(last, inner, last.convolution.out_channels)


class NeuMetaResNetForImageClassification(ResNetForImageClassification):
    """`ResNetForImageClassification` with its own width inside every block."""

    config: NeuMetaResNetConfig

    def __init__(self, config: NeuMetaResNetConfig):
        super().__init__(config)
        _resize_blocks(self.resnet.encoder, config)
        self.post_init()


class NeuMetaResNetBackbone(ResNetBackbone):
    """`ResNetBackbone` with its own width inside every block."""

    config: NeuMetaResNetConfig

    def __init__(self, config: NeuMetaResNetConfig):
        super().__init__(config)
        _resize_blocks(self.encoder, config)
        self.post_init()


def image_size_of(config: PreTrainedConfig) -> tuple[int, int] | None:
    """Height and width, in pixels, of the images that a config says its network is made for.

    Args:
        config: Its `image_size`, which transformers' ResNet has no field for, is one number or height and width.

    Returns:
        None where it does not say.

    Raises:
        TargetError: `image_size` is something else.
    """
    size = getattr(config, "image_size", None)
    if size is None:
        return None
    sides = size if isinstance(size, list | tuple) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise TargetError(f"image_size={size!r} is no size of an image: give one number of pixels, or [height, width].")
    return sides[0], sides[1]


def _layer(path: str, output_axis: str, input_axis: str | None) -> dict[str, Rule]:
    return {f"{path}.convolution": (output_axis, input_axis), f"{path}.normalization": (output_axis,)}


@register_target
class ResNetFamily(TargetFamily):
    """One width group for each stage's residual stream, one inside every block, and one for the stem where it is free.

    The stem is tied to the first stage where an identity shortcut joins the two.

    Attributes:
        prefix: What the names of the axes begin with, where the ResNet is a part of another network.
        path: Path of the module that has stem and stages.
    """

    name = "resnet"
    model_types = ("resnet", "neumeta_resnet")
    prefix = ""
    path = "resnet"

    def axes(self, config: ResNetConfig) -> list[Axis]:
        stem = [] if _stem_is_tied(config) else [Axis(f"{self.prefix}embedding", config.embedding_size)]
        return [*stem, *stage_axes(_stage_sizes(config), _inner_sizes(config), prefix=self.prefix)]

    def rules(self, config: ResNetConfig) -> dict[str, Rule]:
        path, last = self.path, f"{self.prefix}stage{len(_depths(config))}"
        before = f"{self.prefix}{'stage1' if _stem_is_tied(config) else 'embedding'}"
        rules: dict[str, Rule] = {"classifier.1": (None, last)}
        rules |= _layer(f"{path}.embedder.embedder", before, None)
        for stage, depth in enumerate(_depths(config), start=1):
            stream = f"{self.prefix}stage{stage}"
            for block in range(depth):
                name, inner = f"{path}.encoder.stages.{stage - 1}.layers.{block}", f"{stream}.block{block + 1}"
                insides = [inner, inner] if config.layer_type == "bottleneck" else [inner]
                rules |= _layer(f"{name}.shortcut", stream, before)
                for number, (source, target) in enumerate(itertools.pairwise([before, *insides, stream])):
                    rules |= _layer(f"{name}.layer.{number}", target, source)
                before = stream
        return rules

    def constraints(self, config: ResNetConfig) -> list[Constraint]:
        # The stock block has a 1x1 shortcut wherever it strides or changes the width.
        if config.downsample_in_first_stage or _stem_is_tied(config):
            return []
        stage, stem = f"{self.prefix}stage1", f"{self.prefix}embedding"
        return [Constraint(stage, stem, "differs", "the 1x1 convolution between the two would vanish")]

    def depths(self, config: ResNetConfig) -> list[Depth]:
        stages = f"{self.path}.encoder.stages"
        return stage_depths(_depths(config), lambda stage: f"{stages}.{stage - 1}.layers", prefix=self.prefix)

    def config_at(self, config: ResNetConfig, size: Size) -> ResNetConfig:
        counts = {axis.removeprefix(self.prefix): count for axis, count in size.items()}
        stages = [counts[f"stage{stage}"] for stage in range(1, len(_depths(config)) + 1)]
        inner = inner_counts(counts, _depths(config))
        resized = copy.deepcopy(config)
        resized.depths = [len(blocks) for blocks in inner]
        resized.hidden_sizes, resized.embedding_size = stages, counts.get("embedding", stages[0])
        is_stock = inner == _stock_inner_sizes(resized)
        return (
            as_class(resized, ResNetConfig) if is_stock else as_class(resized, NeuMetaResNetConfig, inner_sizes=inner)
        )

    def image_shape(self, config: ResNetConfig) -> tuple[int, int, int]:
        height, width = image_size_of(config) or (DEFAULT_IMAGE_SIZE, DEFAULT_IMAGE_SIZE)
        return config.num_channels, height, width


AutoConfig.register(NeuMetaResNetConfig.model_type, NeuMetaResNetConfig)
AutoModelForImageClassification.register(NeuMetaResNetConfig, NeuMetaResNetForImageClassification)
AutoBackbone.register(NeuMetaResNetConfig, NeuMetaResNetBackbone)

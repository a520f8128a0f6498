"""The ConvNeXt of transformers, at any width and depth (Liu et al. 2022, arXiv:2201.03545; v2 arXiv:2301.00808).

`ConvNextForImageClassification` has one width a stage, and four times as much inside of each block's MLP;
`NeuMetaConvNextForImageClassification` has a width of its own there. So it is with the classes of v2. A size that the
stock class can express keeps it: then only transformers is needed to load it.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
    PreTrainedConfig,
)
from transformers.models.convnextv2.modeling_convnextv2 import ConvNextV2GRN

from neumeta_hf.axes import Axis, Depth, Size
from neumeta_hf.errors import TargetError
from neumeta_hf.rules import Rule
from neumeta_hf.targets.registry import TargetFamily, register_target
from neumeta_hf.targets.resnet import DEFAULT_IMAGE_SIZE, image_size_of
from neumeta_hf.targets.stages import as_class, check_inner_sizes, inner_counts, stage_axes, stage_depths

# The stock classes have no word for it in their configs.
MLP_EXPANSION = 4

AnyConfig = ConvNextConfig | ConvNextV2Config


def _depths(config: AnyConfig) -> list[int]:
    depths, widths = list(config.depths or ()), list(config.hidden_sizes or ())
    if not len(depths) == len(widths) == config.num_stages or min([*depths, *widths], default=0) < 1:
        raise TargetError(
            f"num_stages={config.num_stages}, hidden_sizes={widths} and depths={depths} are no ConvNeXt: give a width "
            "and a number of blocks from 1 up for each stage."
        )
    return depths


def _stock_inner_sizes(config: AnyConfig) -> list[list[int]]:
    widths = config.hidden_sizes or ()
    return [[MLP_EXPANSION * width] * depth for width, depth in zip(widths, _depths(config), strict=True)]


def _inner_sizes(config: AnyConfig) -> list[list[int]]:
    return getattr(config, "inner_sizes", None) or _stock_inner_sizes(config)


@strict
class NeuMetaConvNextConfig(ConvNextConfig):
    """A `ConvNextConfig` whose blocks may have any inner width.

    Attributes:
        inner_sizes: Channels inside each block's MLP, by stage. None: as in `ConvNextConfig`.
    """

    model_type = "neumeta_convnext"

    inner_sizes: list[list[int]] | None = None

    def validate_inner_sizes(self):
        """Check that every block has a positive count."""
        check_inner_sizes(self.inner_sizes, list(self.depths or ()))


@strict
class NeuMetaConvNextV2Config(ConvNextV2Config):
    """A `ConvNextV2Config` whose blocks may have any inner width.

    Attributes:
        inner_sizes: Channels inside each block's MLP, by stage. None: as in `ConvNextV2Config`.
    """

    model_type = "neumeta_convnextv2"

    inner_sizes: list[list[int]] | None = None

    def validate_inner_sizes(self):
        """Check that every block has a positive count."""
        check_inner_sizes(self.inner_sizes, list(self.depths or ()))


def _resize_blocks(encoder: Any, config: AnyConfig) -> None:
    for stage, inner_sizes in zip(encoder.stages, _inner_sizes(config), strict=True):
        for block, inner in zip(stage.layers, inner_sizes, strict=True):
            stream = block.pwconv1.in_features
            block.pwconv1, block.pwconv2 = nn.Linear(stream, inner), nn.Linear(inner, stream)
            if hasattr(block, "grn"):
                block.grn = ConvNextV2GRN(inner)


class NeuMetaConvNextForImageClassification(ConvNextForImageClassification):
    """`ConvNextForImageClassification` with its own width inside every block."""

    config: NeuMetaConvNextConfig

    def __init__(self, config: NeuMetaConvNextConfig):
        super().__init__(config)
        _resize_blocks(self.convnext.encoder, config)
        self.post_init()


class NeuMetaConvNextV2ForImageClassification(ConvNextV2ForImageClassification):
    """`ConvNextV2ForImageClassification` with its own width inside every block."""

    config: NeuMetaConvNextV2Config

    def __init__(self, config: NeuMetaConvNextV2Config):
        super().__init__(config)
        _resize_blocks(self.convnextv2.encoder, config)
        self.post_init()


@register_target
class ConvNextFamily(TargetFamily):
    """One width group for each stage's residual stream, and one inside every block's MLP.

    The stem and the first stage are one stream; the layers between stages change it. Inner widths come in steps of
    four, so that one width for all groups is a size of the stock class.

    Attributes:
        path: Path of the module that has embeddings and stages.
        config_classes: The stock one, and ours.
    """

    name = "convnext"
    model_types = ("convnext", "neumeta_convnext")
    path: ClassVar[str] = "convnext"
    config_classes: ClassVar[tuple[type[AnyConfig], type[AnyConfig]]] = (ConvNextConfig, NeuMetaConvNextConfig)

    def make_config(
        self, fields: Mapping[str, Any], *, image_shape: tuple[int, int, int], label_names: Sequence[str]
    ) -> PreTrainedConfig:
        # What else there is to say of stages says how many there are.
        said = next((fields[name] for name in ("depths", "hidden_sizes") if isinstance(fields.get(name), list)), None)
        implied = {} if said is None else {"num_stages": len(said)}
        return super().make_config({**implied, **fields}, image_shape=image_shape, label_names=label_names)

    def axes(self, config: AnyConfig) -> list[Axis]:
        _depths(config)
        return stage_axes(list(config.hidden_sizes or ()), _inner_sizes(config), expansion=MLP_EXPANSION)

    def rules(self, config: AnyConfig) -> dict[str, Rule]:
        path, depths = self.path, _depths(config)
        last = f"stage{len(depths)}"
        rules: dict[str, Rule] = {
            f"{path}.embeddings.patch_embeddings": ("stage1", None),
            f"{path}.embeddings.layernorm": ("stage1",),
            f"{path}.layernorm": (last,),
            "classifier": (None, last),
        }
        for stage, depth in enumerate(depths, start=1):
            stream, stem = f"stage{stage}", f"{path}.encoder.stages.{stage - 1}"
            rules[f"{stem}.downsampling_layer.0"] = (f"stage{stage - 1}",)
            rules[f"{stem}.downsampling_layer.1"] = (stream, f"stage{stage - 1}")
            for block in range(depth):
                layer, inner = f"{stem}.layers.{block}", f"{stream}.block{block + 1}"
                rules |= {
                    layer: (stream,),  # its layer scale
                    f"{layer}.dwconv": (stream, None),
                    f"{layer}.layernorm": (stream,),
                    f"{layer}.pwconv1": (inner, stream),
                    f"{layer}.grn": (None, None, None, inner),
                    f"{layer}.pwconv2": (stream, inner),
                }
        return rules

    def depths(self, config: AnyConfig) -> list[Depth]:
        return stage_depths(_depths(config), lambda stage: f"{self.path}.encoder.stages.{stage - 1}.layers")

    def config_at(self, config: AnyConfig, size: Size) -> AnyConfig:
        stock, own = self.config_classes
        inner = inner_counts(size, _depths(config))
        resized = copy.deepcopy(config)
        resized.depths = [len(blocks) for blocks in inner]
        resized.hidden_sizes = [size[f"stage{stage}"] for stage in range(1, len(inner) + 1)]
        is_stock = inner == _stock_inner_sizes(resized)
        return as_class(resized, stock) if is_stock else as_class(resized, own, inner_sizes=inner)

    def image_shape(self, config: AnyConfig) -> tuple[int, int, int]:
        height, width = image_size_of(config) or (DEFAULT_IMAGE_SIZE, DEFAULT_IMAGE_SIZE)
        return config.num_channels, height, width


@register_target
class ConvNextV2Family(ConvNextFamily):
    """As `ConvNextFamily`; the global response normalisation of a block goes with the inside of its MLP."""

    name = "convnextv2"
    model_types = ("convnextv2", "neumeta_convnextv2")
    path = "convnextv2"
    config_classes = (ConvNextV2Config, NeuMetaConvNextV2Config)


AutoConfig.register(NeuMetaConvNextConfig.model_type, NeuMetaConvNextConfig)
AutoModelForImageClassification.register(NeuMetaConvNextConfig, NeuMetaConvNextForImageClassification)
AutoConfig.register(NeuMetaConvNextV2Config.model_type, NeuMetaConvNextV2Config)
AutoModelForImageClassification.register(NeuMetaConvNextV2Config, NeuMetaConvNextV2ForImageClassification)

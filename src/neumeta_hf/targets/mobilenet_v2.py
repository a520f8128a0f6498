"""The MobileNetV2 of transformers, at any width (Sandler et al. 2018, arXiv:1801.04381).

`MobileNetV2ForImageClassification` has one multiplier for all channels; `NeuMetaMobileNetV2ForImageClassification` has
a width of its own for each stage and inside of each block. A size that the stock class can express keeps it: then only
transformers is needed to load it.
"""

import copy
import dataclasses
import itertools
from typing import Any

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
)
from transformers.models.mobilenet_v2.modeling_mobilenet_v2 import (
    MobileNetV2InvertedResidual,
    apply_depth_multiplier,
    make_divisible,
)

from neumeta_hf.axes import Axis, Size, shortest_ratio
from neumeta_hf.errors import TargetError
from neumeta_hf.rules import Rule
from neumeta_hf.targets.registry import TargetFamily, register_target
from neumeta_hf.targets.resnet import DEFAULT_IMAGE_SIZE, image_size_of
from neumeta_hf.targets.stages import as_class

# The stock class has no words for them in its config: channels at multiplier 1, blocks of each stage, and how the first
# block of each stage strides. The first stage has no block beside the stem.
_STEM, _HEAD = 32, 1280
_STAGES = (16, 24, 32, 64, 96, 160, 320)
_NUM_BLOCKS = (0, 2, 3, 4, 3, 3, 1)
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_OWN_FIELDS = ("stem_channels", "stage_channels", "inner_channels", "head_channels")

_MOMENTUM = 0.1
"""Of statistics in training; torch's own."""


@dataclasses.dataclass(frozen=True)
class _Channels:
    """Of a network: what the stem expands to, the streams of stages, the insides of blocks by stage, and the head."""

    stem: int
    stages: list[int]
    inner: list[list[int]]
    head: int


def _stock_channels(config: MobileNetV2Config) -> _Channels:
    stages = [apply_depth_multiplier(config, count) for count in _STAGES]

    def inner(source: int) -> int:
        return make_divisible(int(round(source * config.expand_ratio)), config.depth_divisible_by, config.min_depth)

    keeps_head = config.finegrained_output and config.depth_multiplier < 1
    return _Channels(
        stem=apply_depth_multiplier(config, _STEM),
        stages=stages,
        inner=[
            [inner(stages[stage - 1] if block == 0 else stages[stage]) for block in range(num_blocks)]
            for stage, num_blocks in enumerate(_NUM_BLOCKS)
        ],
        head=_HEAD if keeps_head else apply_depth_multiplier(config, _HEAD),
    )


def _has_odd_shortcut(config: MobileNetV2Config, stages: list[int]) -> bool:
    """Whether the stock class has an identity shortcut between two stages, as where both happen to be equally wide."""
    stride = 2
    for (before, after), first in zip(itertools.pairwise(stages), _STRIDES[1:], strict=True):
        strides = stride < config.output_stride and first == 2
        stride *= 2 if strides else 1
        if not strides and before == after:
            return True
    return False


def _channels(config: MobileNetV2Config) -> _Channels:
    if isinstance(config, NeuMetaMobileNetV2Config):
        return config.channels
    found = _stock_channels(config)
    if _has_odd_shortcut(config, found.stages):
        raise TargetError(
            f"depth_multiplier={config.depth_multiplier} gives stages of {found.stages} channels. Neighbours of equal "
            "width have an identity shortcut, which no other size has: take a larger one."
        )
    return found


@strict
class NeuMetaMobileNetV2Config(MobileNetV2Config):
    """A `MobileNetV2Config` whose stages and blocks may have any width.

    Attributes:
        stem_channels: What the stem expands an image to. None of these four: as in `MobileNetV2Config`.
        stage_channels: Channels of the stream of each of the seven stages.
        inner_channels: Inside of each block, by stage: none in the first, then 2, 3, 4, 3, 3 and 1.
        head_channels: What is pooled.
    """

    model_type = "neumeta_mobilenet_v2"

    stem_channels: int | None = None
    stage_channels: list[int] | None = None
    inner_channels: list[list[int]] | None = None
    head_channels: int | None = None

    @property
    def channels(self) -> "_Channels":
        """What is said here, and what the stock class has otherwise."""
        stock = _stock_channels(self)
        own = (self.stem_channels, self.stage_channels, self.inner_channels, self.head_channels)
        usual = (stock.stem, stock.stages, stock.inner, stock.head)
        stem, stages, inner, head = (usual[n] if said is None else said for n, said in enumerate(own))
        return _Channels(stem, stages, inner, head)  # pyright: ignore[reportArgumentType]

    def validate_channels(self):
        """Check that every stage and block has a positive count."""
        found = self.channels
        counts = [found.stem, found.head, *found.stages, *itertools.chain(*found.inner)]
        if len(found.stages) != len(_STAGES) or [len(blocks) for blocks in found.inner] != list(_NUM_BLOCKS):
            raise ValueError(
                f"stage_channels={found.stages}, inner_channels={found.inner}: give a count for each of "
                f"{len(_STAGES)} stages and of {list(_NUM_BLOCKS)} blocks."
            )
        if min(counts) < 1:
            raise ValueError(f"channels of {counts}: pass counts from 1 up.")


def _resize_layer(layer: Any, in_channels: int, out_channels: int) -> None:
    old = layer.convolution
    groups = out_channels if old.groups > 1 else 1
    options = {"stride": old.stride, "padding": old.padding, "dilation": old.dilation, "bias": False}
    layer.convolution = nn.Conv2d(in_channels, out_channels, old.kernel_size, groups=groups, **options)
    norm = layer.normalization
    layer.normalization = nn.BatchNorm2d(out_channels, eps=norm.eps, momentum=norm.momentum)


class NeuMetaMobileNetV2ForImageClassification(MobileNetV2ForImageClassification):
    """`MobileNetV2ForImageClassification` with its own width in every stage and inside every block."""

    config: NeuMetaMobileNetV2Config

    def __init__(self, config: NeuMetaMobileNetV2Config):
        super().__init__(config)
        found, network = config.channels, self.mobilenet_v2
        stem: Any = network.conv_stem
        _resize_layer(stem.first_conv, config.num_channels, found.stem)
        if stem.expand_1x1 is not None:
            _resize_layer(stem.expand_1x1, found.stem, found.stem)
        _resize_layer(stem.conv_3x3, found.stem, found.stem)
        _resize_layer(stem.reduce_1x1, found.stem, found.stages[0])
        blocks, before = iter(network.layer), found.stages[0]
        for stream, inner_channels in zip(found.stages, found.inner, strict=True):
            for position, inner in enumerate(inner_channels):
                block: Any = next(blocks)
                # By position: two stages may happen to be equally wide.
                block.use_residual = position > 0
                _resize_layer(block.expand_1x1, before, inner)
                _resize_layer(block.conv_3x3, inner, inner)
                _resize_layer(block.reduce_1x1, inner, stream)
                before = stream
        _resize_layer(network.conv_1x1, before, found.head)
        if isinstance(self.classifier, nn.Linear):
            self.classifier = nn.Linear(found.head, self.classifier.out_features)
        self.post_init()


def _layer(path: str, output_axis: str, input_axis: str | None) -> dict[str, Rule]:
    return {f"{path}.convolution": (output_axis, input_axis), f"{path}.normalization": (output_axis,)}


@register_target
class MobileNetV2Family(TargetFamily):
    """One width group for the stem, each stage's stream, the inside of every block, and the head.

    The inside of a block follows the stream that the block reads. Counts come in the config's steps where the
    reference's do: `depth_divisible_by`, and `expand_ratio` times as much inside of blocks. One width for all groups is
    then a size of the stock class wherever rounding allows it.
    """

    name = "mobilenet_v2"
    model_types = ("mobilenet_v2", "neumeta_mobilenet_v2")

    def axes(self, config: MobileNetV2Config) -> list[Axis]:
        found, step = _channels(config), config.depth_divisible_by
        inner_step = int(step * config.expand_ratio)

        def axis(name: str, count: int, step: int = step, parent: str | None = None) -> Axis:
            return Axis(name, count, step if step > 0 and count % step == 0 else 1, parent)

        axes = [axis("stem", found.stem)]
        for stage, (width, counts) in enumerate(zip(found.stages, found.inner, strict=True), start=1):
            axes.append(axis(f"stage{stage}", width))
            for block, count in enumerate(counts, start=1):
                source = f"stage{stage - 1 if block == 1 else stage}"
                axes.append(axis(f"stage{stage}.block{block}", count, inner_step, source))
        return [*axes, axis("head", found.head)]

    def rules(self, config: MobileNetV2Config) -> dict[str, Rule]:
        path, stem = "mobilenet_v2", "mobilenet_v2.conv_stem"
        rules: dict[str, Rule] = {
            **_layer(f"{stem}.first_conv", "stem", None),
            **_layer(f"{stem}.expand_1x1", "stem", "stem"),
            **_layer(f"{stem}.conv_3x3", "stem", None),
            **_layer(f"{stem}.reduce_1x1", "stage1", "stem"),
            **_layer(f"{path}.conv_1x1", "head", f"stage{len(_STAGES)}"),
            "classifier": (None, "head"),
        }
        before, number = "stage1", 0
        for stage, num_blocks in enumerate(_NUM_BLOCKS, start=1):
            for block in range(1, num_blocks + 1):
                layer, stream, inner = f"{path}.layer.{number}", f"stage{stage}", f"stage{stage}.block{block}"
                rules |= _layer(f"{layer}.expand_1x1", inner, before)
                rules |= _layer(f"{layer}.conv_3x3", inner, None)
                rules |= _layer(f"{layer}.reduce_1x1", stream, inner)
                before, number = stream, number + 1
        return rules

    def config_at(self, config: MobileNetV2Config, size: Size) -> MobileNetV2Config:
        wanted = _Channels(
            stem=size["stem"],
            stages=[size[f"stage{stage}"] for stage in range(1, len(_STAGES) + 1)],
            inner=[
                [size[f"stage{stage}.block{block}"] for block in range(1, num_blocks + 1)]
                for stage, num_blocks in enumerate(_NUM_BLOCKS, start=1)
            ],
            head=size["head"],
        )
        resized = as_class(copy.deepcopy(config), MobileNetV2Config, dropped=_OWN_FIELDS)
        multipliers = [config.depth_multiplier, shortest_ratio(_STAGES[-1], wanted.stages[-1])]
        multipliers.append(shortest_ratio(_HEAD, wanted.head))
        for multiplier, keeps_head in itertools.product(multipliers, (config.finegrained_output, False)):
            resized.depth_multiplier, resized.finegrained_output = multiplier, keeps_head
            if _stock_channels(resized) == wanted and not _has_odd_shortcut(resized, wanted.stages):
                return resized
        own = dict(zip(_OWN_FIELDS, (wanted.stem, wanted.stages, wanted.inner, wanted.head), strict=True))
        return as_class(copy.deepcopy(config), NeuMetaMobileNetV2Config, dropped=_OWN_FIELDS, **own)

    def fresh(self, config: MobileNetV2Config) -> nn.Module:
        """As `build`, with blocks that begin as identities and statistics that average over batches.

        Through fifty normalised layers gradients grow a hundredfold, and it takes hundreds of steps until the loss
        falls at all; where a shortcut is, a last normalisation of zero takes its block out of the way at first (Goyal
        et al. 2017, arXiv:1706.02677). And the class gives torch TensorFlow's word for a slow average, 0.997, which
        torch takes for the share of the last batch.
        """
        network = self.build(config)
        for module in network.modules():
            if isinstance(module, MobileNetV2InvertedResidual) and module.use_residual:
                norm: Any = module.reduce_1x1.normalization
                nn.init.zeros_(norm.weight)
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = _MOMENTUM
        return network

    def image_shape(self, config: MobileNetV2Config) -> tuple[int, int, int]:
        height, width = image_size_of(config) or (DEFAULT_IMAGE_SIZE, DEFAULT_IMAGE_SIZE)
        return config.num_channels, height, width


AutoConfig.register(NeuMetaMobileNetV2Config.model_type, NeuMetaMobileNetV2Config)
AutoModelForImageClassification.register(NeuMetaMobileNetV2Config, NeuMetaMobileNetV2ForImageClassification)

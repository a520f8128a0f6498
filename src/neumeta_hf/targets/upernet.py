"""The UperNet of transformers on a ResNet, at any width: semantic segmentation (Xiao et al. 2018, arXiv:1807.10221).

The head reads what the stages of the backbone put out, all brought to one width, at several scales at once: where two
of its convolutions read concatenated feature maps, a size shortens each map by itself. Every morph is the stock
`UperNetForSemanticSegmentation`; only widths that the stock ResNet has no word for need this package to load.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import AutoModelForSemanticSegmentation, ResNetConfig, UperNetConfig

from neumeta_hf.axes import Axis, Constraint, Depth, Size
from neumeta_hf.errors import TargetError
from neumeta_hf.rules import Rule
from neumeta_hf.targets.loading import load_complete
from neumeta_hf.targets.registry import TargetFamily, register_target
from neumeta_hf.targets.resnet import ResNetFamily, image_size_of


class _BackboneFamily(ResNetFamily):
    # Not registered: a ResNet that stands alone is of the family that is.
    prefix = "backbone."
    path = "backbone"


_BACKBONE = _BackboneFamily()


def _backbone_config(config: UperNetConfig) -> Any:
    """The config of the ResNet, of a network that is one of the target family."""
    backbone: Any = config.backbone_config
    if not _BACKBONE.accepts(backbone):
        raise TargetError(
            f"backbone_config is of model type {backbone.model_type!r}, and the target family 'upernet' knows UperNets "
            f"on {' or '.join(map(repr, _BACKBONE.model_types))}: give a UperNetConfig whose backbone_config is a "
            "ResNetConfig."
        )
    if config.use_auxiliary_head:
        problem = "the auxiliary head only helps training and is no part of the target family 'upernet'."
        kept = "which then leaves the head's weights out; all others, and the logits, stay as they are."
        raise TargetError(
            f"use_auxiliary_head=True: {problem} Pass use_auxiliary_head=False to UperNetConfig, or to "
            f"from_pretrained, {kept}",
            command=f"use_auxiliary_head is true: {problem} Set it to false in the config, {kept}",
        )
    return backbone


def _maps(backbone: Any) -> list[str]:
    """The axis of each feature map that the head reads."""
    stem, *stages = backbone.stage_names
    # Where the stem is tied to the first stage, it is of that axis.
    names = {axis.name for axis in _BACKBONE.axes(backbone)}
    stem_axis = "backbone.embedding" if "backbone.embedding" in names else "backbone.stage1"
    axes = {stem: stem_axis, **{stage: f"backbone.{stage}" for stage in stages}}
    return [axes[stage] for stage in backbone.out_features]


@register_target
class UperNetFamily(TargetFamily):
    """The axes of the ResNet, named `backbone.stage1` and so on, and one for all feature maps of the head.

    Every method that takes a config raises TargetError where its backbone is no ResNet, or where it has an auxiliary
    head: `load` leaves that out.
    """

    name = "upernet"
    model_types = ("upernet",)
    task = "semantic-segmentation"

    def make_config(
        self, fields: Mapping[str, Any], *, image_shape: tuple[int, int, int], label_names: Sequence[str]
    ) -> UperNetConfig:
        """Make a config without an auxiliary head, whose backbone gives the head all of its stages.

        Raises:
            TargetError: There is no such field, or `backbone_config` is not a mapping of fields.
        """
        backbone = dict(fields.get("backbone_config") or {})
        backbone.setdefault("model_type", "resnet")
        backbone.setdefault("num_channels", image_shape[0])
        if "out_features" not in backbone:
            num_stages = len(backbone.get("depths", ResNetConfig().depths or ()))
            backbone["out_features"] = [f"stage{number}" for number in range(1, num_stages + 1)]
        fields = {"use_auxiliary_head": False, **fields, "backbone_config": backbone}
        return super().make_config(fields, image_shape=image_shape, label_names=label_names)  # pyright: ignore

    def build(self, config: UperNetConfig) -> nn.Module:
        _backbone_config(config)
        return AutoModelForSemanticSegmentation.from_config(copy.deepcopy(config))

    def load(self, name: str, **options: Any) -> nn.Module:
        self.refuse_bare_weights(name)
        # It helps in training alone, and has sizes of its own.
        options = {"use_auxiliary_head": False, "dropped": ("auxiliary_head.",), **options}
        return load_complete(AutoModelForSemanticSegmentation, name, build=self.build, **options)

    def axes(self, config: UperNetConfig) -> list[Axis]:
        return [*_BACKBONE.axes(_backbone_config(config)), Axis("head", config.hidden_size)]

    def rules(self, config: UperNetConfig) -> dict[str, Rule]:
        backbone = _backbone_config(config)
        maps, scales = _maps(backbone), len(config.pool_scales)
        convolutions: dict[str, Rule] = {
            **{f"psp_modules.{number}.1": ("head", maps[-1]) for number in range(scales)},
            # The last stage as it is, and pooled at each scale.
            "bottleneck": ("head", [maps[-1], *["head"] * scales]),
            **{f"lateral_convs.{number}": ("head", axis) for number, axis in enumerate(maps[:-1])},
            **{f"fpn_convs.{number}": ("head", "head") for number in range(len(maps) - 1)},
            "fpn_bottleneck": ("head", ["head"] * len(maps)),
        }
        rules = {**_BACKBONE.rules(backbone), "decode_head.classifier": (None, "head")}
        for name, rule in convolutions.items():
            rules |= {f"decode_head.{name}.conv": rule, f"decode_head.{name}.batch_norm": ("head",)}
        return rules

    def constraints(self, config: UperNetConfig) -> list[Constraint]:
        return _BACKBONE.constraints(_backbone_config(config))

    def depths(self, config: UperNetConfig) -> list[Depth]:
        return _BACKBONE.depths(_backbone_config(config))

    def config_at(self, config: UperNetConfig, size: Size) -> UperNetConfig:
        counts = dict(size)
        resized = copy.deepcopy(config)
        resized.hidden_size = counts.pop("head")
        resized.backbone_config = _BACKBONE.config_at(_backbone_config(config), Size(counts))
        return resized

    def image_shape(self, config: UperNetConfig) -> tuple[int, int, int]:
        channels, *size = _BACKBONE.image_shape(_backbone_config(config))
        height, width = image_size_of(config) or size
        return channels, height, width

"""A variational autoencoder of linear layers for small images, at any width (Kingma and Welling 2014, arXiv:1312.6114).

Differs from the usual one for MNIST: images lie in [-1, 1], where the last layer's tanh puts them.
"""

import copy
import dataclasses
import itertools
from typing import Any

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, PreTrainedConfig

from neumeta_hf.axes import Axis, Size
from neumeta_hf.rules import Rule
from neumeta_hf.targets.autoencoding import AutoencoderFamily
from neumeta_hf.targets.registry import register_target

_SIDES = ("encoder", "decoder")


@strict
class MlpVaeTargetConfig(PreTrainedConfig):
    """Config of `MlpVae`, which takes the same fields.

    Attributes:
        image_size: Height and width of an image, in pixels.
        num_channels: Channels of an image.
        encoder_hidden_channels: Outputs of each layer of the encoder but its last.
        decoder_hidden_channels: Outputs of each layer of the decoder but its last.
        latent_channels: How many latents an image has.
    """

    model_type = "neumeta_mlp_vae"

    image_size: int = 28
    num_channels: int = 1
    encoder_hidden_channels: list[int] = dataclasses.field(default_factory=lambda: [400])
    decoder_hidden_channels: list[int] = dataclasses.field(default_factory=lambda: [400])
    latent_channels: int = 20

    def validate_hidden_channels(self):
        """Positive counts."""
        for side in _SIDES:
            counts = getattr(self, f"{side}_hidden_channels")
            if min(counts, default=1) < 1:
                raise ValueError(f"{side}_hidden_channels={counts}: pass counts from 1 up.")


@register_target
class MlpVaeFamily(AutoencoderFamily):
    """Every hidden layer is a width group of its own; latents stay as many as they are."""

    name = "mlp_vae"
    model_types = ("neumeta_mlp_vae",)
    class_names = ("MlpVae",)
    square_only = True

    def network_classes(self) -> tuple[type, ...]:
        from neumeta_hf.targets.diffusers_networks import MlpVae

        return (MlpVae,)

    def wrap_config(self, fields: dict[str, Any]) -> MlpVaeTargetConfig:
        return MlpVaeTargetConfig(**fields)

    def build(self, config: MlpVaeTargetConfig) -> nn.Module:
        from neumeta_hf.targets.diffusers_networks import MlpVae

        return MlpVae(
            image_size=config.image_size,
            num_channels=config.num_channels,
            encoder_hidden_channels=tuple(config.encoder_hidden_channels),
            decoder_hidden_channels=tuple(config.decoder_hidden_channels),
            latent_channels=config.latent_channels,
        )

    def axes(self, config: MlpVaeTargetConfig) -> list[Axis]:
        return [
            Axis(f"{side}.hidden{number}", count)
            for side in _SIDES
            for number, count in enumerate(getattr(config, f"{side}_hidden_channels"), start=1)
        ]

    def rules(self, config: MlpVaeTargetConfig) -> dict[str, Rule]:
        rules: dict[str, Rule] = {}
        for side in _SIDES:
            hidden = [axis.name for axis in self.axes(config) if axis.name.startswith(side)]
            for number, (source, target) in enumerate(itertools.pairwise([None, *hidden, None])):
                rules[f"{side}.{2 * number}"] = (target, source)  # an activation lies between two layers
        return rules

    def config_at(self, config: MlpVaeTargetConfig, size: Size) -> MlpVaeTargetConfig:
        config = copy.deepcopy(config)
        for side in _SIDES:
            setattr(config, f"{side}_hidden_channels", [count for axis, count in size.items() if axis.startswith(side)])
        return config

    def image_shape(self, config: MlpVaeTargetConfig) -> tuple[int, int, int]:
        return config.num_channels, config.image_size, config.image_size

    def latent_shape(self, config: MlpVaeTargetConfig) -> tuple[int, int, int]:
        return config.latent_channels, 1, 1


AutoConfig.register(MlpVaeTargetConfig.model_type, MlpVaeTargetConfig)

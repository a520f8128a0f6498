"""diffusers' `AutoencoderTiny`, at any width: what TAESD is (github.com/madebyollin/taesd).

Its blocks add to a stream, and a convolution leads from one stage to the next. `AutoencoderTiny` has one width for all
stages of the encoder and one for all of the decoder; `NeuMetaAutoencoderTiny` has one for each stage, and one for the
inside of each block. A size that the stock class can express keeps it: then only diffusers is needed to load it.
"""

import copy
import dataclasses
import inspect
import json
from collections.abc import Mapping
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, PreTrainedConfig

from neumeta_hf.axes import Axis, Size
from neumeta_hf.batches import Inputs
from neumeta_hf.errors import TargetError
from neumeta_hf.images import height_and_width
from neumeta_hf.kinds import Kind, list_of, mapping_of, whole_number
from neumeta_hf.rules import Rule
from neumeta_hf.targets.autoencoding import AutoencoderFamily, AutoencoderOutput
from neumeta_hf.targets.registry import register_target
from neumeta_hf.targets.stages import stage_axes

Side = Literal["encoder", "decoder"]

_SIDES: tuple[Side, Side] = ("encoder", "decoder")
_DEFAULT_IMAGE_SIZE = 64
_COUNT = whole_number(1)
_COUNTS = list_of(_COUNT)
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("in_channels", "out_channels", "latent_channels", "upsampling_scaling_factor"), _COUNT),
    **{f"{side}_block_out_channels": _COUNTS for side in _SIDES},
    **{f"num_{side}_blocks": _COUNTS for side in _SIDES},
    "inner_channels": mapping_of(_COUNT, most=1000).or_none(),
}


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A convolution or a block of one side.

    Attributes:
        path: In the network.
        source: Stage, from 1, whose stream it reads; None: images or latents.
        target: Stage whose stream it writes, likewise.
        block: Number of the block in its stage, from 1; None: a convolution.
    """

    path: str
    source: int | None
    target: int | None
    block: int | None = None

    @property
    def inner_axis(self) -> str:
        """The axis inside of a block."""
        return f"{self.path.partition('.')[0]}.stage{self.target}.block{self.block}"


def _layers(side: Side, vae: Mapping[str, Any]) -> list[_Layer]:
    """The layers of a side that have weights, in data-flow order, which is that of their numbers in the network."""
    num_blocks = vae[f"num_{side}_blocks"]
    last, position = len(num_blocks), 0
    found: list[_Layer] = []
    for stage, count in enumerate(num_blocks, start=1):
        found.append(_Layer(f"{side}.layers.{position}", stage - 1 or None, stage))
        position += 2 if side == "decoder" and stage == 1 else 1  # the decoder's first convolution has an activation
        for block in range(1, count + 1):
            found.append(_Layer(f"{side}.layers.{position}", stage, stage, block))
            position += 1
        position += 1 if side == "decoder" and stage < last else 0  # where it enlarges
    return [*found, _Layer(f"{side}.layers.{position}", last, None)]


def _inner(vae: Mapping[str, Any], side: Side) -> list[list[int]]:
    """Channels inside of each block, by stage."""
    streams, named = vae[f"{side}_block_out_channels"], vae.get("inner_channels") or {}
    inner: list[list[int]] = [[] for _ in streams]
    for layer in _layers(side, vae):
        if layer.block is not None and layer.target is not None:
            inner[layer.target - 1].append(named.get(layer.path, streams[layer.target - 1]))
    return inner


def _completed(vae: Mapping[str, Any], num_channels: int | None) -> dict[str, Any]:
    """All arguments of the network as plain JSON values; those of our own class only where they say something."""
    from neumeta_hf.targets.diffusers_networks import NeuMetaAutoencoderTiny

    parameters = inspect.signature(NeuMetaAutoencoderTiny.__init__).parameters
    arguments = {name: argument.default for name, argument in parameters.items() if name != "self"}
    if unknown := sorted(set(vae) - set(arguments)):
        raise TargetError(f"vae has {', '.join(unknown)}: AutoencoderTiny takes {', '.join(arguments)}.")
    if num_channels is not None:
        arguments |= {"in_channels": num_channels, "out_channels": num_channels}
    completed = json.loads(json.dumps({**arguments, **vae}))
    for name, kind in _KINDS.items():
        if not kind.holds(completed[name]):
            raise TargetError(f"{name}={completed[name]!r}: it must be {kind.rule}.")
    for side in _SIDES:
        widths, blocks = completed[f"{side}_block_out_channels"], completed[f"num_{side}_blocks"]
        if len(widths) != len(blocks) or not widths:
            raise TargetError(
                f"{side}_block_out_channels={widths} and num_{side}_blocks={blocks}: give a number for each stage."
            )
    if completed["in_channels"] != completed["out_channels"]:
        raise TargetError(
            f"in_channels={completed['in_channels']} and out_channels={completed['out_channels']}: an autoencoder puts "
            "out images like those that it takes, so they must agree."
        )
    if _shrinks(completed, "encoder") != _shrinks(completed, "decoder"):
        raise TargetError(
            f"the encoder makes images {_shrinks(completed, 'encoder')} times smaller and the decoder latents "
            f"{_shrinks(completed, 'decoder')} times larger: give both as many stages, and upsampling_scaling_factor=2."
        )
    return _stated(completed)


def _shrinks(vae: Mapping[str, Any], side: Side) -> int:
    """How many times an image is as high as its latents."""
    factor = 2 if side == "encoder" else vae["upsampling_scaling_factor"]
    return factor ** (len(vae[f"num_{side}_blocks"]) - 1)


def _stated(vae: Mapping[str, Any]) -> dict[str, Any]:
    """`vae` with the insides of blocks named only where the stock class has others."""
    inner = vae.get("inner_channels") or {}
    stated = {name: value for name, value in vae.items() if name != "inner_channels"}
    streams = {
        layer.path: vae[f"{side}_block_out_channels"][layer.target - 1]
        for side in _SIDES
        for layer in _layers(side, vae)
        if layer.block is not None and layer.target is not None
    }
    if unknown := sorted(set(inner) - set(streams)):
        raise TargetError(f"inner_channels names {unknown[0]!r}, which is unknown: there is {', '.join(streams)}.")
    if own := {path: inner[path] for path, stream in streams.items() if inner.get(path, stream) != stream}:
        stated["inner_channels"] = own
    return stated


@strict
class AutoencoderTinyTargetConfig(PreTrainedConfig):
    """What `AutoencoderTiny` and `NeuMetaAutoencoderTiny` are built from, as a config of transformers.

    Attributes:
        image_size: Height and width of an image, in pixels; one number for both. The weights are for any size.
        num_channels: Channels of an image, read and put out. None: as `vae` says, or 3.
        vae: Arguments of the network's class, as plain JSON values; those that are not given have their defaults. All
            are filled in.

    Raises:
        TargetError: `vae` is no `AutoencoderTiny`, or contradicts the other fields.
    """

    model_type = "neumeta_autoencoder_tiny"

    image_size: int | list[int] = _DEFAULT_IMAGE_SIZE
    num_channels: int | None = None
    vae: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.vae = _completed(self.vae, self.num_channels)
        if self.num_channels is None:
            self.num_channels = self.vae["in_channels"]
        self._check_agreement()

    def _check_agreement(self) -> None:
        if self.num_channels != self.vae["in_channels"]:
            raise TargetError(
                f"num_channels={self.num_channels}, but vae has in_channels={self.vae['in_channels']}: give one of "
                "them, or make them agree."
            )
        shrinks, sides = _shrinks(self.vae, "encoder"), self.image_size
        sides = [sides, sides] if isinstance(sides, int) else sides
        if len(sides) != 2 or not _COUNTS.holds(sides) or any(side % shrinks for side in sides):
            raise TargetError(
                f"image_size={self.image_size!r}: the encoder makes images {shrinks} times smaller, so give one number "
                f"of pixels or [height, width], each a multiple of {shrinks}."
            )

    def validate_vae(self):
        """Fields that still agree when the config is saved."""
        self._check_agreement()


@register_target
class AutoencoderTinyFamily(AutoencoderFamily):
    """One width group for the stream of each stage, encoder and decoder apart, and one inside every block.

    Stages are numbered in data-flow order: the decoder's first is the one next to the latents. Latents and images stay
    as they are. The networks put out latents themselves, and no distribution of them.
    """

    name = "autoencoder_tiny"
    model_types = ("neumeta_autoencoder_tiny",)
    class_names = ("AutoencoderTiny", "NeuMetaAutoencoderTiny")
    task = "image-reconstruction"
    # Of ours, and in no signature: the stock class keeps what it does not know in its config.
    size_field = "sample_size"

    def network_classes(self) -> tuple[type, ...]:
        from neumeta_hf.targets.diffusers_networks import AutoencoderTiny, NeuMetaAutoencoderTiny

        return AutoencoderTiny, NeuMetaAutoencoderTiny

    def wrap_config(self, fields: dict[str, Any]) -> AutoencoderTinyTargetConfig:
        vae = dict(fields)
        image_size = vae.pop(self.size_field, _DEFAULT_IMAGE_SIZE)
        if not (_COUNT.holds(image_size) or _COUNTS.holds(image_size)):
            raise TargetError(f"{self.size_field}={image_size!r}: give one number of pixels, or [height, width].")
        return AutoencoderTinyTargetConfig(image_size=image_size, vae=vae)

    def build(self, config: AutoencoderTinyTargetConfig) -> nn.Module:
        from neumeta_hf.targets.diffusers_networks import AutoencoderTiny, NeuMetaAutoencoderTiny

        widths = [set(config.vae[f"{side}_block_out_channels"]) for side in _SIDES]
        is_stock = max(map(len, widths)) == 1 and "inner_channels" not in config.vae
        network_class: Any = AutoencoderTiny if is_stock else NeuMetaAutoencoderTiny
        network = network_class(**copy.deepcopy(config.vae))
        network.register_to_config(**{self.size_field: config.image_size})
        return network

    def forward(self, network: nn.Module, batch: Inputs, *, seed: int | None = None) -> AutoencoderOutput:
        """Encode images and decode their latents, which are not rounded to bytes in between.

        Args:
            network: The network, or a skeleton of it whose tensors another module has put in place.
            batch: With "pixel_values", images in [-1, 1], `[batch, channels, height, width]`; or these alone.
            seed: Passed over: nothing is random.

        Returns:
            The images again, and their latents as `mean`.

        Raises:
            TargetError: The batch has no images.
        """
        autoencoder: Any = network
        latents = autoencoder.encode(self.inputs_of(batch)["pixel_values"]).latents
        return AutoencoderOutput(sample=self.decode(network, latents), mean=latents)

    def axes(self, config: AutoencoderTinyTargetConfig) -> list[Axis]:
        return [
            axis
            for side in _SIDES
            for axis in stage_axes(
                config.vae[f"{side}_block_out_channels"], _inner(config.vae, side), prefix=f"{side}."
            )
        ]

    def rules(self, config: AutoencoderTinyTargetConfig) -> dict[str, Rule]:
        rules: dict[str, Rule] = {}
        for side in _SIDES:
            for layer in _layers(side, config.vae):
                source, target = (
                    None if stage is None else f"{side}.stage{stage}" for stage in (layer.source, layer.target)
                )
                if layer.block is None:
                    rules[layer.path] = (target, source)
                    continue
                inner = layer.inner_axis
                for number, rule in enumerate(((inner, source), (inner, inner), (target, inner))):
                    rules[f"{layer.path}.conv.{2 * number}"] = rule  # an activation lies between two layers
        return rules

    def config_at(self, config: AutoencoderTinyTargetConfig, size: Size) -> AutoencoderTinyTargetConfig:
        resized = copy.deepcopy(config)
        vae = {**resized.vae, "inner_channels": {}}
        for side in _SIDES:
            stages = range(1, len(vae[f"num_{side}_blocks"]) + 1)
            vae[f"{side}_block_out_channels"] = [size[f"{side}.stage{stage}"] for stage in stages]
            blocks = [layer for layer in _layers(side, vae) if layer.block is not None]
            vae["inner_channels"] |= {layer.path: size[layer.inner_axis] for layer in blocks}
        resized.vae = _stated(vae)
        return resized

    def image_shape(self, config: AutoencoderTinyTargetConfig) -> tuple[int, int, int]:
        return config.vae["in_channels"], *height_and_width(config.image_size)

    def latent_shape(self, config: AutoencoderTinyTargetConfig) -> tuple[int, int, int]:
        shrinks = _shrinks(config.vae, "encoder")
        height, width = height_and_width(config.image_size)
        return config.vae["latent_channels"], height // shrinks, width // shrinks


AutoConfig.register(AutoencoderTinyTargetConfig.model_type, AutoencoderTinyTargetConfig)

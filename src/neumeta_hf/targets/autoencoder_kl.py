"""diffusers' `AutoencoderKL`, at any width (Rombach et al. 2022, arXiv:2112.10752).

Its resnets add to a stream, and have a 1x1 shortcut where they change the stream's width: blocks of equal width are one
width group. `AutoencoderKL` has one width a block, the same in encoder and decoder; `NeuMetaAutoencoderKL` has one for
the inside of each resnet and a decoder of its own, too. A size that the stock class can express keeps it: then only
diffusers is needed to load it.
"""

import copy
import dataclasses
import inspect
import itertools
import json
from collections.abc import Mapping
from typing import Any

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, PreTrainedConfig

from neumeta_hf.axes import Axis, Constraint, Size
from neumeta_hf.errors import TargetError
from neumeta_hf.rules import Rule
from neumeta_hf.targets.autoencoding import AutoencoderFamily
from neumeta_hf.targets.registry import register_target

_BLOCK_TYPES = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}


@dataclasses.dataclass(frozen=True)
class _Resnet:
    """A resnet of the network: its width group, its path, and the block (from 0, in data-flow order) it belongs to."""

    group: str
    path: str
    block: int


def _streams(vae: Mapping[str, Any]) -> dict[str, list[int]]:
    """Channels of the blocks of encoder and decoder, in data-flow order."""
    encoder = vae["block_out_channels"]
    decoder = vae.get("decoder_block_out_channels") or encoder
    return {"encoder": list(encoder), "decoder": list(reversed(decoder))}


def _stream_groups(side: str, stream: list[int]) -> list[str]:
    """The width group of each block's stream: that of the block before it where an identity shortcut joins the two."""
    groups = []
    for block, count in enumerate(stream):
        tied = block > 0 and count == stream[block - 1]
        groups.append(groups[-1] if tied else f"{side}.block{block + 1}")
    return groups


def _resnets(side: str, vae: Mapping[str, Any]) -> list[_Resnet]:
    """The resnets of the encoder or the decoder, in data-flow order."""
    num_blocks, layers = len(vae["block_out_channels"]), vae["layers_per_block"]
    is_encoder = side == "encoder"
    deepest = num_blocks - 1 if is_encoder else 0
    middle = [_Resnet(f"{side}.mid.resnet{n + 1}", f"{side}.mid_block.resnets.{n}", deepest) for n in range(2)]
    blocks = [
        _Resnet(
            f"{side}.block{block + 1}.resnet{n + 1}",
            f"{side}.{'down' if is_encoder else 'up'}_blocks.{block}.resnets.{n}",
            block,
        )
        for block in range(num_blocks)
        for n in range(layers if is_encoder else layers + 1)
    ]
    return blocks + middle if is_encoder else middle + blocks


def _completed(vae: Mapping[str, Any], image_size: int | None, num_channels: int | None) -> dict[str, Any]:
    """All arguments of the network as plain JSON values; those of our own class only where they say something."""
    from neumeta_hf.targets.diffusers_networks import NeuMetaAutoencoderKL

    arguments = {
        name: argument.default
        for name, argument in inspect.signature(NeuMetaAutoencoderKL.__init__).parameters.items()
        if name != "self"
    }
    if unknown := sorted(set(vae) - set(arguments)):
        raise TargetError(f"vae has {', '.join(unknown)}: AutoencoderKL takes {', '.join(arguments)}.")
    for name in (*_BLOCK_TYPES, "block_out_channels"):
        if name in vae and not (isinstance(vae[name], list | tuple) and vae[name]):
            raise TargetError(f"{name}={vae[name]!r}: pass a list with an entry for each block.")
    if num_channels is None:
        num_channels = vae.get("in_channels", vae.get("out_channels"))
    num_blocks = len(vae.get("block_out_channels", arguments["block_out_channels"]))
    implied = {"sample_size": image_size, "in_channels": num_channels, "out_channels": num_channels}
    arguments |= {name: value for name, value in implied.items() if value is not None}
    arguments |= {name: [block_type] * num_blocks for name, block_type in _BLOCK_TYPES.items()}
    completed = json.loads(json.dumps({**arguments, **vae}))
    _check(completed)
    decoder, inner = completed.pop("decoder_block_out_channels"), completed.pop("inner_channels")
    return _stated(completed, decoder or completed["block_out_channels"], inner or {})


def _stated(vae: dict[str, Any], decoder: list[int], inner: Mapping[str, int]) -> dict[str, Any]:
    """`vae` with the decoder's blocks and the insides of resnets, named only where the stock class has other ones."""
    stated = {key: value for key, value in vae.items() if key not in ("decoder_block_out_channels", "inner_channels")}
    if decoder != stated["block_out_channels"]:
        stated["decoder_block_out_channels"] = decoder
    streams = _streams(stated)
    stock = {resnet.path: streams[side][resnet.block] for side in streams for resnet in _resnets(side, stated)}
    if own := {path: inner[path] for path in stock if inner.get(path, stock[path]) != stock[path]}:
        stated["inner_channels"] = own
    return stated


def _check(vae: Mapping[str, Any]) -> None:
    """Refuse what is no network, and what is none whose sizes are known."""
    blocks, decoder = vae["block_out_channels"], vae["decoder_block_out_channels"]
    for name, known in _BLOCK_TYPES.items():
        if others := [block_type for block_type in vae[name] if block_type != known]:
            raise TargetError(
                f"{name} has {others[0]!r}: only {known} can have other sizes. Take a VAE that is built of it alone."
            )
    for name in (*_BLOCK_TYPES, "decoder_block_out_channels"):
        if vae[name] is not None and len(vae[name]) != len(blocks):
            raise TargetError(
                f"{name}={vae[name]} has {len(vae[name])} entries, but block_out_channels={blocks} has {len(blocks)}: "
                "give one for each block."
            )
    for name in ("layers_per_block", "norm_num_groups", "in_channels", "out_channels", "latent_channels"):
        if not _is_count(vae[name]):
            raise TargetError(f"{name}={vae[name]!r}: pass an integer from 1 up.")
    counts = [("block_out_channels", count) for count in blocks]
    counts += [("decoder_block_out_channels", count) for count in decoder or ()]
    inner = vae["inner_channels"] or {}
    counts += [(f"inner_channels[{path!r}]", count) for path, count in inner.items()]
    for name, count in counts:
        if not _is_count(count) or count % vae["norm_num_groups"]:
            raise TargetError(
                f"{name} has {count!r} channels: they are normalised in norm_num_groups={vae['norm_num_groups']} "
                "groups, so a count is a multiple of that."
            )
    paths = [resnet.path for side in ("encoder", "decoder") for resnet in _resnets(side, vae)]
    if unknown := sorted(set(inner) - set(paths)):
        raise TargetError(f"inner_channels names {unknown[0]!r}, which is unknown: there is {', '.join(paths)}.")
    if vae["in_channels"] != vae["out_channels"]:
        raise TargetError(
            f"in_channels={vae['in_channels']} and out_channels={vae['out_channels']}: a VAE puts out images like "
            "those that it takes, so they must agree."
        )
    shrinks = 2 ** (len(blocks) - 1)
    if not _is_count(vae["sample_size"]) or vae["sample_size"] % shrinks:
        raise TargetError(
            f"sample_size={vae['sample_size']!r}: {len(blocks)} blocks halve the image {len(blocks) - 1} times, so it "
            f"must be a multiple of {shrinks} pixels."
        )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


@strict
class AutoencoderKLTargetConfig(PreTrainedConfig):
    """What `AutoencoderKL` and `NeuMetaAutoencoderKL` are built from, as a config of transformers.

    Attributes:
        image_size: Height and width of an image, in pixels: `sample_size` of the network. None: as `vae` says, or 32.
        num_channels: Channels of an image, read and put out. None: as `vae` says, or 3.
        vae: Arguments of the network's class, as plain JSON values; those that are not given have their defaults,
            `down_block_types` and `up_block_types` as many as there are `block_out_channels`. All are filled in.

    Raises:
        TargetError: `vae` is no `AutoencoderKL`, has blocks with attention or counts that its normalisation cannot
            have, or contradicts the other fields.
    """

    model_type = "neumeta_autoencoder_kl"

    image_size: int | None = None
    num_channels: int | None = None
    vae: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.vae = _completed(self.vae, self.image_size, self.num_channels)
        if self.image_size is None:
            self.image_size = self.vae["sample_size"]
        if self.num_channels is None:
            self.num_channels = self.vae["in_channels"]
        self._check_agreement()

    def _check_agreement(self) -> None:
        for field, key in (("image_size", "sample_size"), ("num_channels", "in_channels")):
            ours, theirs = getattr(self, field), self.vae[key]
            if ours != theirs:
                raise TargetError(f"{field}={ours}, but vae has {key}={theirs}: give one of them, or make them agree.")

    def validate_vae(self):
        """Fields that still agree when the config is saved."""
        self._check_agreement()


@register_target
class AutoencoderKLFamily(AutoencoderFamily):
    """One width group for each block's stream, encoder and decoder apart, and one inside every resnet.

    Blocks of equal width are one group, and the middle goes with the deepest block. Groups are numbered in data-flow
    order, so that the deepest block is the encoder's last and the decoder's first. Every count is a multiple of
    `norm_num_groups`; latents and images stay as they are.
    """

    name = "autoencoder_kl"
    model_types = ("neumeta_autoencoder_kl",)
    class_names = ("AutoencoderKL", "NeuMetaAutoencoderKL")
    size_field = "sample_size"
    square_only = True

    def network_classes(self) -> tuple[type, ...]:
        from neumeta_hf.targets.diffusers_networks import AutoencoderKL, NeuMetaAutoencoderKL

        return AutoencoderKL, NeuMetaAutoencoderKL

    def wrap_config(self, fields: dict[str, Any]) -> AutoencoderKLTargetConfig:
        return AutoencoderKLTargetConfig(vae=fields)

    def build(self, config: AutoencoderKLTargetConfig) -> nn.Module:
        from neumeta_hf.targets.diffusers_networks import AutoencoderKL, NeuMetaAutoencoderKL

        is_stock = not {"decoder_block_out_channels", "inner_channels"} & set(config.vae)
        network_class: Any = AutoencoderKL if is_stock else NeuMetaAutoencoderKL
        return network_class.from_config(copy.deepcopy(config.vae))

    def axes(self, config: AutoencoderKLTargetConfig) -> list[Axis]:
        inner, step = config.vae.get("inner_channels", {}), config.vae["norm_num_groups"]
        axes: dict[str, Axis] = {}
        for side, stream in _streams(config.vae).items():
            groups = _stream_groups(side, stream)
            for resnet in _resnets(side, config.vae):
                group, count = groups[resnet.block], stream[resnet.block]
                axes[group] = Axis(group, count, step)
                axes[resnet.group] = Axis(resnet.group, inner.get(resnet.path, count), step, parent=group)
        return list(axes.values())

    def rules(self, config: AutoencoderKLTargetConfig) -> dict[str, Rule]:
        num_groups = config.vae["norm_num_groups"]

        def normalised(axis: str) -> tuple[str, int]:
            """Channels that GroupNorm sees: each of its groups is shortened by itself."""
            return axis, num_groups

        rules: dict[str, Rule] = {}
        for side, stream in _streams(config.vae).items():
            groups = [normalised(group) for group in _stream_groups(side, stream)]
            before = groups[0]
            rules[f"{side}.conv_in"] = (before, None)
            for resnet in _resnets(side, config.vae):
                path, inner, after = resnet.path, normalised(resnet.group), groups[resnet.block]
                rules |= {
                    f"{path}.norm1": (before,),
                    f"{path}.conv1": (inner, before),
                    f"{path}.norm2": (inner,),
                    f"{path}.conv2": (after, inner),
                    f"{path}.conv_shortcut": (after, before),
                }
                before = after
            for block, group in enumerate(groups):
                rules[f"{side}.down_blocks.{block}.downsamplers.0.conv"] = (group, group)
                rules[f"{side}.up_blocks.{block}.upsamplers.0.conv"] = (group, group)
            deepest = groups[-1] if side == "encoder" else groups[0]
            attention, heads = f"{side}.mid_block.attentions.0", deepest[0]
            rules[f"{attention}.group_norm"] = (deepest,)
            rules |= {f"{attention}.{name}": (heads, deepest) for name in ("to_q", "to_k", "to_v")}
            rules[f"{attention}.to_out.0"] = (deepest, heads)
            rules[f"{side}.conv_norm_out"] = (before,)
            rules[f"{side}.conv_out"] = (None, before)
        return rules

    def constraints(self, config: AutoencoderKLTargetConfig) -> list[Constraint]:
        reason = "the 1x1 convolution between the two would vanish"
        return [
            Constraint(group, before, "differs", reason)
            for side, stream in _streams(config.vae).items()
            for before, group in itertools.pairwise(dict.fromkeys(_stream_groups(side, stream)))
        ]

    def config_at(self, config: AutoencoderKLTargetConfig, size: Size) -> AutoencoderKLTargetConfig:
        streams = {
            side: [size[group] for group in _stream_groups(side, stream)]
            for side, stream in _streams(config.vae).items()
        }
        inner = {resnet.path: size[resnet.group] for side in streams for resnet in _resnets(side, config.vae)}
        resized = copy.deepcopy(config)
        vae = {**resized.vae, "block_out_channels": streams["encoder"]}
        resized.vae = _stated(vae, streams["decoder"][::-1], inner)
        return resized

    def image_shape(self, config: AutoencoderKLTargetConfig) -> tuple[int, int, int]:
        return config.vae["in_channels"], config.vae["sample_size"], config.vae["sample_size"]

    def latent_shape(self, config: AutoencoderKLTargetConfig) -> tuple[int, int, int]:
        size = config.vae["sample_size"] // 2 ** (len(config.vae["block_out_channels"]) - 1)
        return config.vae["latent_channels"], size, size


AutoConfig.register(AutoencoderKLTargetConfig.model_type, AutoencoderKLTargetConfig)

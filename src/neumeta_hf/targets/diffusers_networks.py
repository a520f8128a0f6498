"""The networks that are written with diffusers.

Apart from their target families, because diffusers takes a second or more to import, and imports transformers' Auto
classes on the way: only who uses such a network pays for it, and `import neumeta_hf.targets` cannot meet itself half
way.
"""

from typing import Any

import torch
from torch import Tensor, nn

# In a `try`, because these files also travel as remote code, for which transformers demands every package that is
# imported outside of one: classifiers need no diffusers.
try:
    from diffusers.configuration_utils import ConfigMixin, register_to_config
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    from diffusers.models.autoencoders.vae import Decoder, DecoderOutput, DiagonalGaussianDistribution
    from diffusers.models.modeling_outputs import AutoencoderKLOutput
    from diffusers.models.modeling_utils import ModelMixin
    from diffusers.models.resnet import ResnetBlock2D
except ImportError as error:
    raise ImportError("autoencoders need diffusers: pip install diffusers") from error


class NeuMetaAutoencoderKL(AutoencoderKL):
    """An `AutoencoderKL` whose decoder and whose resnets' insides may have widths of their own.

    Tensors have the names that they have in `AutoencoderKL`, and so do all arguments but the last two.

    Args:
        decoder_block_out_channels: `block_out_channels` of the decoder, in the same order: the deepest block last.
            None: as in the encoder.
        inner_channels: Channels between the two convolutions of a resnet, by its path in the network, such as
            `encoder.mid_block.resnets.0`. Those not named have as many as they put out.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",),
        up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",),
        block_out_channels: tuple[int, ...] = (64,),
        layers_per_block: int = 1,
        act_fn: str = "silu",
        latent_channels: int = 4,
        norm_num_groups: int = 32,
        sample_size: int = 32,
        scaling_factor: float = 0.18215,
        shift_factor: float | None = None,
        latents_mean: tuple[float] | None = None,
        latents_std: tuple[float] | None = None,
        force_upcast: bool = True,
        use_quant_conv: bool = True,
        use_post_quant_conv: bool = True,
        mid_block_add_attention: bool = True,
        decoder_block_out_channels: tuple[int, ...] | None = None,
        inner_channels: dict[str, int] | None = None,
    ):
        arguments: dict[str, Any] = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "down_block_types": down_block_types,
            "up_block_types": up_block_types,
            "block_out_channels": block_out_channels,
            "layers_per_block": layers_per_block,
            "act_fn": act_fn,
            "latent_channels": latent_channels,
            "norm_num_groups": norm_num_groups,
            "sample_size": sample_size,
            "scaling_factor": scaling_factor,
            "shift_factor": shift_factor,
            "latents_mean": latents_mean,
            "latents_std": latents_std,
            "force_upcast": force_upcast,
            "use_quant_conv": use_quant_conv,
            "use_post_quant_conv": use_post_quant_conv,
            "mid_block_add_attention": mid_block_add_attention,
        }
        super().__init__(**arguments)
        if decoder_block_out_channels is not None:
            self.decoder = Decoder(
                in_channels=latent_channels,
                out_channels=out_channels,
                up_block_types=up_block_types,
                block_out_channels=decoder_block_out_channels,
                layers_per_block=layers_per_block,
                norm_num_groups=norm_num_groups,
                act_fn=act_fn,
                mid_block_add_attention=mid_block_add_attention,
            )
        for path, inner in (inner_channels or {}).items():
            stock: Any = self.get_submodule(path)
            resnet = ResnetBlock2D(
                in_channels=stock.in_channels,
                out_channels=inner,
                conv_2d_out_channels=stock.conv2.out_channels,
                temb_channels=None,  # pyright: ignore[reportArgumentType]
                groups=norm_num_groups,
                eps=1e-6,
                non_linearity=act_fn,
            )
            self.set_submodule(path, resnet)


class NeuMetaAutoencoderTiny(AutoencoderTiny):
    """An `AutoencoderTiny` whose stages and whose blocks' insides may have widths of their own.

    Tensors have the names that they have in `AutoencoderTiny`, and so do all arguments but the last; the numbers of
    `encoder_block_out_channels` and of `decoder_block_out_channels` need not be equal.

    Args:
        inner_channels: Channels between the three convolutions of a block, by its path in the network, such as
            `decoder.layers.2`. Those not named have as many as they put out.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        encoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64),
        decoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64),
        act_fn: str = "relu",
        upsample_fn: str = "nearest",
        latent_channels: int = 4,
        upsampling_scaling_factor: int = 2,
        num_encoder_blocks: tuple[int, ...] = (1, 3, 3, 3),
        num_decoder_blocks: tuple[int, ...] = (3, 3, 3, 1),
        latent_magnitude: int = 3,
        latent_shift: float = 0.5,
        force_upcast: bool = False,
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
        inner_channels: dict[str, int] | None = None,
    ):
        arguments: dict[str, Any] = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "encoder_block_out_channels": encoder_block_out_channels,
            "decoder_block_out_channels": decoder_block_out_channels,
            "act_fn": act_fn,
            "upsample_fn": upsample_fn,
            "latent_channels": latent_channels,
            "upsampling_scaling_factor": upsampling_scaling_factor,
            "num_encoder_blocks": num_encoder_blocks,
            "num_decoder_blocks": num_decoder_blocks,
            "latent_magnitude": latent_magnitude,
            "latent_shift": latent_shift,
            "force_upcast": force_upcast,
            "scaling_factor": scaling_factor,
            "shift_factor": shift_factor,
        }
        super().__init__(**arguments)
        _join_stages(self.encoder.layers, encoder_block_out_channels)
        _join_stages(self.decoder.layers, decoder_block_out_channels)
        for path, inner in (inner_channels or {}).items():
            convolutions: Any = self.get_submodule(f"{path}.conv")
            stream = convolutions[0].in_channels
            for position, (source, target) in {0: (stream, inner), 2: (inner, inner), 4: (inner, stream)}.items():
                convolutions[position] = nn.Conv2d(source, target, kernel_size=3, padding=1)


def _join_stages(layers: nn.Sequential, streams: tuple[int, ...]) -> None:
    """Let the convolution between two stages lead from the width of one to that of the other."""
    convolutions = [(position, layer) for position, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    for (position, stock), source, target in zip(convolutions[1:-1], streams[:-1], streams[1:], strict=True):
        layers[position] = nn.Conv2d(source, target, kernel_size=3, padding=1, stride=stock.stride, bias=False)  # pyright: ignore[reportArgumentType]


class MlpVae(ModelMixin, ConfigMixin):
    """A variational autoencoder of linear layers, used as `AutoencoderKL` is.

    Args:
        image_size: Height and width of an image, in pixels.
        num_channels: Channels of an image.
        encoder_hidden_channels: Outputs of each layer of the encoder but its last.
        decoder_hidden_channels: Outputs of each layer of the decoder but its last.
        latent_channels: How many latents an image has.
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 28,
        num_channels: int = 1,
        encoder_hidden_channels: tuple[int, ...] = (400,),
        decoder_hidden_channels: tuple[int, ...] = (400,),
        latent_channels: int = 20,
    ):
        super().__init__()
        num_values = num_channels * image_size**2
        self.flatten = nn.Flatten()  # a module, so that a static encoder is one from the start (`StaticOutputs`)
        self.encoder = _mlp(num_values, *encoder_hidden_channels, 2 * latent_channels)
        self.decoder = _mlp(latent_channels, *decoder_hidden_channels, num_values).append(nn.Tanh())
        self._image_shape = (num_channels, image_size, image_size)

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """Encode images as a distribution of latents.

        Args:
            x: Images in [-1, 1], `[batch, num_channels, image_size, image_size]`.
            return_dict: Whether to return an output instead of a tuple.

        Returns:
            An output with `latent_dist`, whose mean and log variance are `[batch, latent_channels, 1, 1]`.
        """
        posterior = DiagonalGaussianDistribution(self.encoder(self.flatten(x))[:, :, None, None])
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(
        self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> DecoderOutput | tuple[Tensor]:
        """Decode latents to images.

        Args:
            z: Latents, `[batch, latent_channels, 1, 1]`.
            return_dict: Whether to return an output instead of a tuple.
            generator: Passed over, as `AutoencoderKL` does; pipelines give one.

        Returns:
            An output with `sample`, `[batch, num_channels, image_size, image_size]` in [-1, 1].
        """
        sample = self.decoder(z.flatten(1)).unflatten(1, self._image_shape)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(
        self,
        sample: Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """Images again, after encoding and decoding them.

        Args:
            sample: Images in [-1, 1], `[batch, num_channels, image_size, image_size]`.
            sample_posterior: Whether to draw the latents instead of taking their mean.
            return_dict: Whether to return an output instead of a tuple.
            generator: Generator of the latents that are drawn.

        Returns:
            As from `decode`.
        """
        encoded: Any = self.encode(sample)
        posterior = encoded.latent_dist
        latents = posterior.sample(generator=generator) if sample_posterior else posterior.mode()
        return self.decode(latents, return_dict=return_dict)


def _mlp(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = [nn.Linear(sizes[0], sizes[1])]
    for num_inputs, num_outputs in zip(sizes[1:], sizes[2:], strict=False):
        layers += [nn.ReLU(), nn.Linear(num_inputs, num_outputs)]
    return nn.Sequential(*layers)

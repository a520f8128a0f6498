"""What the target families of autoencoders share: networks of diffusers that encode images and decode latents."""

import abc
import dataclasses
import inspect
import json
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.utils.generic import ModelOutput

from neumeta_hf.batches import Inputs
from neumeta_hf.checkpoints import open_checkpoint
from neumeta_hf.errors import TargetError
from neumeta_hf.targets.loading import load_complete
from neumeta_hf.targets.registry import TargetFamily


@dataclasses.dataclass
class AutoencoderOutput(ModelOutput):
    """What an autoencoder makes of images.

    Attributes:
        sample: The images again, `[batch, channels, height, width]`.
        mean: Mean of the latents, given the image: `[batch, latent_channels, height, width]`, smaller.
        logvar: Log variance of the latents, likewise; None where an image has one latent and no distribution of them.
    """

    sample: Tensor | None = None
    mean: Tensor | None = None
    logvar: Tensor | None = None


class AutoencoderFamily(TargetFamily):
    """A target family of networks with `encode` and `decode` as diffusers' `AutoencoderKL` has them.

    diffusers has no `PreTrainedConfig`: each target family wraps what it calls a config in one.

    Attributes:
        size_field: What the networks' configs call the size of an image.
    """

    task = "image-generation"
    size_field: ClassVar[str] = "image_size"

    @abc.abstractmethod
    def network_classes(self) -> tuple[type, ...]:
        """List the classes of the target family's networks; those of diffusers are imported here, not before."""

    @abc.abstractmethod
    def wrap_config(self, fields: dict[str, Any]) -> PreTrainedConfig:
        """Translate a config of diffusers into one of this library.

        Args:
            fields: Arguments of a network's class, as plain JSON values.

        Raises:
            TargetError: The target family has no such network.
        """

    def config_of(self, network: nn.Module) -> PreTrainedConfig | None:
        """Find the config of a network; None where the network is not of this target family.

        Raises:
            TargetError: It is of a class of this target family, but built in a way that the target family does not
                know.
        """
        fields = getattr(network, "config", None)
        # Configs of diffusers are dicts, so that no other network costs the import of diffusers: a second or more.
        if not isinstance(fields, dict) or not isinstance(network, self.network_classes()):
            return None
        # What is left out is bookkeeping, or was in a config file and is passed over by diffusers itself.
        arguments = inspect.signature(type(network).__init__).parameters
        plain = json.dumps({name: fields[name] for name in {**arguments, self.size_field: None} if name in fields})
        return self.wrap_config(json.loads(plain))

    def load(self, name: str, **options: Any) -> nn.Module:
        """Load a network of the target family, in evaluation mode; of the class that its config.json names.

        Args:
            name: A folder or Hub id; for one part of a pipeline with `subfolder`.
            **options: Options of diffusers' `from_pretrained`, and `dtype`, which is called `torch_dtype` there.

        Returns:
            As from `build`.

        Raises:
            CheckpointError: It cannot be read, or lacks weights or has too many.
            MissingCheckpointError: There is no such network; also an OSError.
            TargetError: It is a file of bare weights, or the folder holds a network of another target family.
        """
        self.refuse_bare_weights(name)
        precision = {"torch_dtype": options.pop("dtype")} if "dtype" in options else {}
        known: dict[str, Any] = {cls.__name__: cls for cls in self.network_classes()}
        class_name = open_checkpoint(name, dict(options)).config.get("_class_name")
        if not isinstance(class_name, str) or class_name not in known:
            raise TargetError(
                f"{name!r} holds a {class_name or 'network that is not of diffusers'}, but the target family "
                f"{self.name!r} takes {' and '.join(known)}: give a folder or Hub id with one of them, and "
                "subfolder=... if it is part of a pipeline."
            )
        return load_complete(known[class_name], name, **precision, **options)

    def forward(self, network: nn.Module, batch: Inputs, *, seed: int | None = None) -> AutoencoderOutput:
        """Encode images and decode their latents.

        Args:
            network: The network, or a skeleton of it whose tensors another module has put in place.
            batch: With "pixel_values", images in [-1, 1], `[batch, channels, height, width]`; or these alone.
            seed: Seed of the noise that the latents are drawn with, the same for each device and precision. None: they
                are the mean.

        Returns:
            The images again, and the distribution of their latents.

        Raises:
            TargetError: The batch has no images.
        """
        autoencoder: Any = network
        pixel_values = self.inputs_of(batch)["pixel_values"]
        posterior = autoencoder.encode(pixel_values).latent_dist
        latents = posterior.mean
        if seed is not None:
            generator = torch.Generator("cpu").manual_seed(seed)
            noise = torch.randn(latents.shape, generator=generator, device="cpu")
            latents = latents + posterior.std * noise.to(pixel_values.device, latents.dtype)
        sample = self.decode(network, latents)
        return AutoencoderOutput(sample=sample, mean=posterior.mean, logvar=posterior.logvar)

    def decode(self, network: nn.Module, latents: Tensor) -> Tensor:
        """Images of latents; of standard normal noise, images drawn from the prior.

        Args:
            network: As for `forward`.
            latents: `[batch, *latent_shape]`.

        Returns:
            Images, nominally in [-1, 1]: `[batch, channels, height, width]`.
        """
        autoencoder: Any = network
        return autoencoder.decode(latents).sample

    def set_image_size(self, network: nn.Module, image_size: int | Sequence[int]) -> None:
        self.check_image_size(image_size)
        autoencoder: Any = network
        autoencoder.register_to_config(**{self.size_field: image_size})

    @abc.abstractmethod
    def latent_shape(self, config: PreTrainedConfig) -> tuple[int, int, int]:
        """Channels, height and width of the latents of one image; no size changes them."""

"""Tiny networks and families of every registered target, with weights and statistics that are all different."""

import copy
import dataclasses
import os
from collections.abc import Callable
from typing import Any

# Before huggingface_hub is imported, which reads it once: no test waits for a network that may not be there.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedConfig, PreTrainedModel, ResNetConfig, UperNetConfig

from neumeta_hf.modeling_neumeta import NeuMetaForImageClassification
from neumeta_hf.preparation import fuse_batch_norm
from neumeta_hf.targets import (
    AutoencoderKLTargetConfig,
    CifarResNetConfig,
    LeNetConfig,
    MlpVaeTargetConfig,
    find_target,
)

INR = {"type": "inr", "hidden_size": 16, "num_hidden_layers": 3, "num_frequencies": 4}
WIDTHS = [0.5, 0.75, 1.0]


def lenet(**options) -> LeNetConfig:
    return LeNetConfig(**{"hidden_channels": [4, 6, 8], "kernel_size": 3, "image_size": 8, "num_labels": 3, **options})


def cifar_resnet(**options) -> CifarResNetConfig:
    sizes = {"num_blocks": [1, 1, 2], "stage_channels": [4, 6, 8], "image_size": 8, "num_labels": 3}
    return CifarResNetConfig(**{**sizes, **options})


def stock_resnet(**options) -> ResNetConfig:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic", "num_labels": 3}
    return ResNetConfig(**{**sizes, "image_size": 32, **options})


def upernet(**options) -> UperNetConfig:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 12, 16], "depths": [1, 1, 2], "layer_type": "basic"}
    backbone = ResNetConfig(**sizes, out_features=["stage1", "stage2", "stage3"])
    fields = {"hidden_size": 8, "pool_scales": [1, 2], "image_size": [32, 48], "num_labels": 3}
    return UperNetConfig(**{**fields, "backbone_config": backbone, "use_auxiliary_head": False, **options})


def autoencoder_kl() -> AutoencoderKLTargetConfig:
    vae = {"block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 2}
    return AutoencoderKLTargetConfig(image_size=8, num_channels=1, vae=vae)


def mlp_vae() -> MlpVaeTargetConfig:
    sizes = {"encoder_hidden_channels": [16], "decoder_hidden_channels": [16], "latent_channels": 3}
    return MlpVaeTargetConfig(image_size=8, num_channels=1, **sizes)


TARGETS: dict[str, Callable[[], PreTrainedConfig]] = {
    "lenet": lenet,
    "lenet_batch_norm": lambda: lenet(batch_norm=True),
    "cifar_resnet": cifar_resnet,
    "cifar_resnet_identity": lambda: cifar_resnet(shortcut="identity"),
    "resnet": stock_resnet,
    "resnet_bottleneck": lambda: stock_resnet(hidden_sizes=[16, 32], layer_type="bottleneck"),
    "upernet": upernet,
    "autoencoder_kl": autoencoder_kl,
    "mlp_vae": mlp_vae,
}


def make_network(config: PreTrainedConfig, seed: int = 0) -> Any:
    """A network as training leaves it: no affine parameter is 1 or 0, and running statistics are of a run."""
    model = find_target(config).build(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * (2 / fan_in) ** 0.5)
                if module.bias is not None:
                    module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)
            if isinstance(module, _BatchNorm):
                for tensor, low, high in (
                    (module.weight, 0.5, 1.5),
                    (module.bias, -0.5, 0.5),
                    (module.running_mean, -0.5, 0.5),
                    (module.running_var, 0.5, 2.0),
                ):
                    tensor.uniform_(low, high, generator=generator)
                module.num_batches_tracked.fill_(7)
    return model.eval()


@dataclasses.dataclass(frozen=True)
class Case:
    """A target with one of the two normalisations."""

    name: str
    normalization: str
    reference: PreTrainedModel
    families: dict[str, NeuMetaForImageClassification] = dataclasses.field(default_factory=dict)

    @property
    def config(self) -> PreTrainedConfig:
        return self.reference.config

    @property
    def keeps(self) -> bool:
        return self.normalization == "keep"

    def images(self, batch_size: int = 4) -> torch.Tensor:
        return find_target(self.config).example_batch(self.config, batch_size)["pixel_values"]

    def family(self, *, statistics: list[float] | None = None, **fields) -> NeuMetaForImageClassification:
        """A family of the reference; with statistics at the trained widths where BatchNorm is kept."""
        key = repr((statistics, sorted(fields.items())))
        if key not in self.families:
            torch.manual_seed(0)
            options = {"normalization": self.normalization, "trained_widths": list(WIDTHS), "hypernetwork": INR}
            model = NeuMetaForImageClassification.from_reference(self.reference, **{**options, **fields}).eval()
            if self.keeps and model.statistic_names:
                model.calibrate([self.images(8)], WIDTHS if statistics is None else statistics)
            self.families[key] = model
        # Skeletons hold no weights and are slow to make: copies share them.
        skeletons = self.families[key]._skeletons
        return copy.deepcopy(self.families[key], {id(skeletons): dict(skeletons)})


@pytest.fixture(scope="session")
def make_case():
    cases: dict[tuple[str, str], Case] = {}

    def make(name: str, normalization: str = "fuse") -> Case:
        if (name, normalization) not in cases:
            config = TARGETS[name]()
            reference = make_network(config)
            if normalization == "fuse":
                reference = fuse_batch_norm(reference, find_target(config).example_batch(config)).eval()
            cases[name, normalization] = Case(name, normalization, reference)
        return cases[name, normalization]

    return make


CASES = [
    ("lenet", "fuse"),
    ("lenet_batch_norm", "keep"),
    ("cifar_resnet", "fuse"),
    ("cifar_resnet", "keep"),
    ("cifar_resnet_identity", "fuse"),
    ("resnet", "fuse"),
    ("resnet", "keep"),
    ("resnet_bottleneck", "keep"),
]


@pytest.fixture(params=CASES, ids="-".join)
def case(request, make_case) -> Case:
    """Every registered target, with BatchNorm fused and kept; the reference is shared, so tests must not change it."""
    return make_case(*request.param)


@pytest.fixture
def lenet_case(make_case) -> Case:
    return make_case("lenet")


@pytest.fixture(scope="session")
def networks() -> dict[str, Any]:
    """A network of each family that is no classifier; shared, so tests must not change it."""
    return {name: make_network(TARGETS[name]()) for name in ("upernet", "autoencoder_kl", "mlp_vae")}


@pytest.fixture(scope="session")
def target_configs() -> dict[str, PreTrainedConfig]:
    return {name: make() for name, make in TARGETS.items()}

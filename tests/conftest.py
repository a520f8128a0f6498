"""Tiny networks and families of every registered target, with weights and statistics that are all different."""

import copy
import dataclasses
import logging
import os
from typing import Any

# Before huggingface_hub is imported, which reads it once: no test waits for a network that may not be there.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from forks import ForkServer
from neumeta_hf.modeling_tasks import NeuMetaForImageClassification
from neumeta_hf.preparation import fuse_batch_norm
from neumeta_hf.targets import find_target
from tiny_targets import TARGETS, make_network

INR = {"type": "inr", "hidden_size": 16, "num_hidden_layers": 3, "num_frequencies": 4}
WIDTHS = [0.5, 0.75, 1.0]


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
    ("convnext", "fuse"),
    ("mobilenet_v2", "fuse"),
]


@pytest.fixture(params=CASES, ids="-".join)
def case(request, make_case) -> Case:
    """Every registered target, with BatchNorm fused and kept; the reference is shared, so tests must not change it."""
    return make_case(*request.param)


@pytest.fixture
def lenet_case(make_case) -> Case:
    return make_case("lenet")


@pytest.fixture(autouse=True)
def logger_as_it_was():
    """The command sets up the package's logger; the next test is to find it as this one did."""
    logger = logging.getLogger("neumeta_hf")
    level, handlers, propagate = logger.level, list(logger.handlers), logger.propagate
    yield
    logger.setLevel(level)
    logger.handlers, logger.propagate = handlers, propagate


@pytest.fixture(scope="session")
def fork():
    """Programs in processes of their own."""
    server = ForkServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def networks() -> dict[str, Any]:
    """A network of each family that is no classifier; shared, so tests must not change it."""
    return {
        name: make_network(TARGETS[name]()) for name in ("upernet", "autoencoder_kl", "autoencoder_tiny", "mlp_vae")
    }


@pytest.fixture(scope="session")
def target_configs() -> dict[str, PreTrainedConfig]:
    return {name: make() for name, make in TARGETS.items()}

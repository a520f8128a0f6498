import copy

import pytest
import torch

from neumeta_hf import calibrate
from neumeta_hf.training import synthesize_images
from neumeta_hf.training.synthesis import statistics_distance


@pytest.fixture
def networks(make_case):
    """Networks of two sizes that hold the statistics of the same images."""
    case = make_case("cifar_resnet", "keep")
    images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1)).clamp(-3, 3) + 0.5
    return [calibrate(case.family().morph(width), [images]) for width in (1.0, 0.5)], images


def make(networks, *, steps, **options):
    return synthesize_images(networks, (3, 8, 8), num_images=32, steps=steps, **options)


def distance(networks, images):
    with torch.no_grad():
        return sum(statistics_distance(network, images).item() for network in networks)


def test_the_images_that_were_measured_are_at_no_distance(networks):
    networks, images = networks
    assert distance(networks, images) < 1e-3
    assert distance(networks, images + 1) > 0.1


def test_images_come_near_the_statistics_of_all_networks(networks):
    networks, _ = networks
    before, after = (make(networks, steps=steps) for steps in (0, 150))
    assert after.shape == (32, 3, 8, 8)
    assert after.abs().max() < 4
    assert not after.requires_grad
    for network in networks:
        assert distance([network], after) < 0.1 * distance([network], before)


def test_nothing_of_the_networks_changes(networks):
    networks, _ = networks
    before = copy.deepcopy([network.state_dict() for network in networks])
    make(networks, steps=2)
    for network, tensors in zip(networks, before, strict=True):
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in network.state_dict().items())
        assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
        assert not any(module._forward_pre_hooks for module in network.modules())
        assert not network.training


def test_images_are_a_function_of_the_seed(networks):
    networks, _ = networks
    first, second, third = (make(networks, steps=3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)

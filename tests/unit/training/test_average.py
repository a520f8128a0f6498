"""The moving average of weights."""

import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import nn

from neumeta_hf.training.average import WeightAverage


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((7, 5), (33,), ())]


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_it_is_that_of_diffusers_to_the_bit(decay):
    weights = parameters()
    ours, theirs = WeightAverage(weights, decay=decay), EMAModel(weights, decay=decay, foreach=True)
    for _ in range(25):
        with torch.no_grad():
            for weight in weights:
                weight += torch.randn(weight.shape)
        ours.step(weights)
        theirs.step(weights)
        assert all(map(torch.equal, ours.tensors, theirs.shadow_params))
    state = theirs.state_dict()
    assert ours.numbers() == {name: state[name] for name in ours.numbers()}


def test_it_follows_the_weights_without_changing_them_and_is_put_in_place_as_a_copy():
    weights = parameters()
    average = WeightAverage(weights, decay=0.9)
    with torch.no_grad():
        for weight in weights:
            weight.fill_(3.0)
    average.step(weights)
    assert all((weight == 3.0).all() for weight in weights)
    assert all(torch.allclose(tensor, torch.tensor(3.0), atol=1e-6) for tensor in average.tensors)
    with torch.no_grad():
        for weight in weights:
            weight.zero_()
    average.step(weights)
    average.copy_to(weights)
    assert all(map(torch.equal, weights, average.tensors))
    weights[0].data.zero_()
    assert average.tensors[0].all()

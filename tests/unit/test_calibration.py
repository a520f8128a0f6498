import pytest
import torch
from torch import nn

from neumeta_hf.calibration import calibrate, interpolate_statistics
from neumeta_hf.errors import CheckpointError


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5)
    )
    for module in layers.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(9.0)
            module.running_var.fill_(4.0)
            module.momentum = 0.3
    return layers.eval()


@pytest.fixture
def batches():
    torch.manual_seed(1)
    return [torch.randn(6, 3, 5, 5) * 2 + 1, torch.randn(3, 3, 5, 5), torch.randn(6, 3, 5, 5) - 1]


def statistics(network):
    return {name: buffer.clone() for name, buffer in network.named_buffers()}


def test_statistics_are_the_plain_average_over_batches(network, batches):
    means, variances, later_means = [], [], []
    with torch.no_grad():
        for batch in batches:
            hidden = network[0](batch)
            mean, variance = hidden.mean((0, 2, 3)), hidden.var((0, 2, 3))
            means.append(mean)
            variances.append(variance)
            # The next layer sees what this one normalises by its batch, without dropout.
            scale = (hidden.var((0, 2, 3), correction=0) + network[1].eps).sqrt()
            hidden = (hidden - mean[:, None, None]) / scale[:, None, None]
            later_means.append(network[4](hidden.relu()).mean((0, 2, 3)))
    assert calibrate(network, iter(batches)) is network
    assert torch.allclose(network[1].running_mean, torch.stack(means).mean(0), atol=1e-5)
    assert torch.allclose(network[1].running_var, torch.stack(variances).mean(0), atol=1e-4)
    assert torch.allclose(network[5].running_mean, torch.stack(later_means).mean(0), atol=1e-5)
    assert network[1].num_batches_tracked == 3


def test_what_was_measured_before_does_not_matter(network, batches):
    first = statistics(calibrate(network, batches))
    calibrate(network, [batch * 5 for batch in batches])
    again = statistics(calibrate(network, batches))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_weights_modes_and_momenta_come_back(network, batches):
    network[3].train()
    network[5].train()
    modes = [module.training for module in network.modules()]
    weights = [parameter.clone() for parameter in network.parameters()]
    calibrate(network, batches)
    assert [module.training for module in network.modules()] == modes
    assert [network[1].momentum, network[5].momentum] == [0.3, 0.3]
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), weights, strict=True))
    assert all(parameter.grad is None for parameter in network.parameters())


def test_modes_and_momenta_come_back_after_an_error(network, batches):
    with pytest.raises(RuntimeError):
        calibrate(network, [batches[0], torch.zeros(1, 7, 5, 5)])
    assert not any(module.training for module in network.modules())
    assert [network[1].momentum, network[5].momentum] == [0.3, 0.3]


def test_without_a_batch_nothing_changes(network):
    before = statistics(network)
    with pytest.raises(CheckpointError, match="no batch"):
        calibrate(network, iter([]))
    assert all(torch.equal(before[name], buffer) for name, buffer in network.named_buffers())


def test_modules_that_are_not_named_keep_their_statistics(network, batches):
    before = statistics(network)
    calibrate(network, batches, modules=["5"])
    changed = {name for name, buffer in network.named_buffers() if not torch.equal(before[name], buffer)}
    assert changed == {"5.running_mean", "5.running_var", "5.num_batches_tracked"}


def test_images_are_brought_to_the_networks_precision(network, batches):
    calibrate(network.double(), batches)
    assert network[1].running_mean.dtype == torch.float64


SMALLER = {
    "norm.running_mean": torch.tensor([0.0, 4.0]),
    "fixed.running_mean": torch.tensor([1.0]),
    "norm.num_batches_tracked": torch.tensor(3),
}
LARGER = {
    "norm.running_mean": torch.tensor([8.0, 8.0, 1.0, 2.0, 3.0, 4.0]),
    "fixed.running_mean": torch.tensor([2.0]),
    "norm.num_batches_tracked": torch.tensor(5),
}


@pytest.mark.parametrize(
    ("are_nested", "low", "high"),
    [
        (True, [0.0, 4.0, 1.0], [8.0, 8.0, 1.0]),  # the larger network's where it alone has the channel
        (False, [0.0, 2.0, 4.0], [8.0, 1.5, 3.5]),  # both at the middle of each third
    ],
)
def test_statistics_between_two_sizes(are_nested, low, high):
    num_channels = {"norm.running_mean": 3, "fixed.running_mean": 1}
    found = interpolate_statistics(SMALLER, LARGER, num_channels, amount=0.75, are_nested=are_nested)
    assert found["norm.num_batches_tracked"] == 5
    expected = 0.75 * torch.tensor(low) + 0.25 * torch.tensor(high)  # 3 channels are a quarter of the way from 2 to 6
    assert torch.allclose(found["norm.running_mean"], expected, atol=1e-6)
    assert found["fixed.running_mean"].tolist() == [1.75]  # as many in all: the size as a whole says how far
    assert SMALLER["norm.running_mean"].tolist() == [0.0, 4.0]
    assert LARGER["norm.running_mean"].tolist() == [8.0, 8.0, 1.0, 2.0, 3.0, 4.0]

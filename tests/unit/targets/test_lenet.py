import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError

from neumeta_hf.targets import LeNetConfig, LeNetForImageClassification


def test_forward_is_three_convolutions_two_pools_and_a_mean():
    model = LeNetForImageClassification(LeNetConfig(num_labels=10)).eval()
    images = torch.randn(2, 1, 28, 28)
    hidden = F.max_pool2d(F.conv2d(images, model.conv1.weight, model.conv1.bias, padding=2).relu(), 2)
    hidden = F.max_pool2d(F.conv2d(hidden, model.conv2.weight, model.conv2.bias, padding=2).relu(), 2)
    hidden = F.conv2d(hidden, model.conv3.weight, model.conv3.bias, padding=2).relu()
    assert hidden.shape == (2, 128, 7, 7)
    expected = F.linear(hidden.flatten(2).mean(2), model.linear.weight, model.linear.bias)
    assert torch.allclose(model(images).logits, expected, atol=1e-5)


def test_every_cell_of_the_final_map_reaches_the_logits():
    model = LeNetForImageClassification(LeNetConfig(hidden_channels=[2, 2, 2], num_labels=2)).eval()
    images = torch.randn(1, 1, 28, 28, requires_grad=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()  # no ReLU is ever off, so that each reached pixel shows
    model(images.abs()).logits.sum().backward()
    corners = images.grad[0, 0][[0, 0, -1, -1], [0, -1, 0, -1]]
    edges_reached = images.grad[0, 0].reshape(7, 4, 7, 4).abs().amax((1, 3))
    assert (edges_reached > 0).all(), corners


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_tiny_images_pass(size):
    model = LeNetForImageClassification(LeNetConfig(hidden_channels=[2, 3, 4], image_size=size, num_labels=5)).eval()
    assert model(torch.randn(1, 1, size, size)).logits.shape == (1, 5)


def test_labels_give_the_cross_entropy():
    model = LeNetForImageClassification(LeNetConfig(hidden_channels=[2, 3, 4], num_labels=5)).eval()
    images, labels = torch.randn(4, 1, 28, 28), torch.tensor([0, 4, 2, 2])
    output = model(images, labels=labels)
    assert torch.equal(output.loss, F.cross_entropy(model(images).logits, labels))
    assert model(images).loss is None


@pytest.mark.parametrize(
    "options",
    [{"hidden_channels": [8, 16]}, {"hidden_channels": [8, 0, 8]}, {"hidden_channels": "8"}, {"kernel_size": 4}],
)
def test_impossible_configs_are_refused(options):
    with pytest.raises(StrictDataclassError):
        LeNetConfig(**options)

"""Convolutions that a CPU is slow at, or hangs or crashes in, in channels-last layout."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from neumeta_hf.training import CpuConvolutions, to_channels_last
from neumeta_hf.training.layout import suited_to


def strides_in(output):
    """The strides of all convolutions that a backward pass from here would run."""
    found, waiting, seen = [], [output.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if "Convolution" in node.name():
            found.append(tuple(node._saved_stride))
        waiting.extend(following for following, _ in node.next_functions)
    return found


@pytest.mark.parametrize("stride", [2, (2, 2), (2, 1), (1, 3)])
@pytest.mark.parametrize("num_in", [1, 4, 15])
def test_a_sliced_convolution_has_the_same_output_and_gradients(stride, num_in):
    torch.manual_seed(0)
    images = torch.randn(2, num_in, 7, 8, dtype=torch.float64, requires_grad=True)
    layer = nn.Conv2d(num_in, 5, 1, stride=stride).double()
    wanted = layer(images)
    with CpuConvolutions():
        output = layer(to_channels_last(images))
    assert strides_in(output) == [(1, 1)]
    torch.testing.assert_close(output, wanted)
    leaves = (images, layer.weight, layer.bias)
    factors = torch.randn_like(wanted)
    for got, expected in zip(
        torch.autograd.grad(output, leaves, factors), torch.autograd.grad(wanted, leaves, factors), strict=True
    ):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("shape", "options", "stride"),
    [
        ((2, 16, 1, 1), {"stride": 2}, (2, 2)),  # enough channels
        ((2, 4, 3, 3), {"stride": 2, "groups": 4}, (2, 2)),  # no 1x1 kernel
        ((2, 4, 1, 1), {"stride": 2, "groups": 4, "padding": 1}, (2, 2)),  # padded
        ((2, 4, 1, 1), {"groups": 4}, (1, 1)),
    ],
)
def test_all_other_convolutions_are_left_as_they_are(shape, options, stride):
    images, weight = torch.randn(1, 16, 8, 8), torch.randn(shape[0] * options.get("groups", 1), *shape[1:])
    weight.requires_grad_()
    with CpuConvolutions():
        output = F.conv2d(images, weight, **options)
    plain = F.conv2d(images, weight, **options)
    assert strides_in(output) == strides_in(plain) == [stride]
    assert torch.equal(output, plain)


def test_other_devices_have_no_such_fault():
    layer = nn.Conv2d(4, 8, 1, stride=2, device="meta")
    with CpuConvolutions():
        assert strides_in(layer(torch.empty(1, 4, 8, 8, device="meta"))) == [(2, 2)]


def is_channels_last(images):
    return images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels", [[16, 32], [16, 48, 16]])
def test_channels_that_fill_whole_vectors_stay_channels_last(channels):
    layers = [nn.Conv2d(*pair, 3) for pair in zip([3, *channels], channels, strict=False)]
    with CpuConvolutions():
        assert is_channels_last(nn.Sequential(*layers)(to_channels_last(torch.randn(2, 3, 9, 9))))


@pytest.mark.parametrize("channels", [[11], [8, 16], [16, 20, 16]])
def test_other_channels_are_contiguous_from_there_on(channels):
    torch.manual_seed(0)
    network = nn.Sequential(*[nn.Conv2d(*pair, 3) for pair in zip([3, *channels], channels, strict=False)])
    images = torch.randn(2, 3, 9, 9)
    with CpuConvolutions():
        output = network(to_channels_last(images))
    assert output.is_contiguous()
    torch.testing.assert_close(output, network(images))


def test_bfloat16_stays_channels_last():
    with torch.autocast("cpu", torch.bfloat16), CpuConvolutions():
        assert is_channels_last(nn.Conv2d(3, 11, 3)(to_channels_last(torch.randn(2, 3, 9, 9))))


def test_only_on_cpus_every_call_goes_through_a_mode():
    assert isinstance(suited_to(torch.device("cpu")), CpuConvolutions)
    for device in ("cuda", "mps", "xpu"):
        assert not isinstance(suited_to(torch.device(device)), TorchFunctionMode)

import copy

import preparation_networks as networks
import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from neumeta_hf.errors import PreparationError, TargetError
from neumeta_hf.preparation import fuse_batch_norm, fuse_conv_bn, fuse_modules
from neumeta_hf.targets import find_target

CONVOLUTIONS = {
    "1d": (nn.Conv1d, nn.BatchNorm1d, {}, (9,)),
    "2d": (nn.Conv2d, nn.BatchNorm2d, {"padding": 1, "stride": 2}, (9, 9)),
    "3d": (nn.Conv3d, nn.BatchNorm3d, {"padding": 1}, (5, 5, 5)),
    "grouped": (nn.Conv2d, nn.BatchNorm2d, {"groups": 2, "padding": 1}, (9, 9)),
    "dilated": (nn.Conv2d, nn.BatchNorm2d, {"dilation": 2, "padding": 2}, (9, 9)),
    "circular": (nn.Conv2d, nn.BatchNorm2d, {"padding": 1, "padding_mode": "circular"}, (9, 9)),
    "reflect": (nn.Conv1d, nn.BatchNorm1d, {"padding": 1, "padding_mode": "reflect"}, (9,)),
    "same": (nn.Conv2d, nn.BatchNorm2d, {"padding": "same"}, (9, 9)),
    "grouped dilated reflect": (
        nn.Conv2d,
        nn.BatchNorm2d,
        {"groups": 2, "dilation": 2, "padding": 2, "padding_mode": "reflect"},
        (9, 9),
    ),
    "transposed 1d": (nn.ConvTranspose1d, nn.BatchNorm1d, {"stride": 2, "output_padding": 1}, (5,)),
    "transposed 2d": (nn.ConvTranspose2d, nn.BatchNorm2d, {"stride": 2, "padding": 1}, (5, 5)),
    "transposed 3d": (nn.ConvTranspose3d, nn.BatchNorm3d, {}, (3, 3, 3)),
    "transposed grouped": (
        nn.ConvTranspose2d,
        nn.BatchNorm2d,
        {"groups": 2, "stride": 2, "output_padding": 1, "dilation": 2},
        (5, 5),
    ),
}


def fused_pair(conv: nn.Module, bn: nn.Module) -> nn.Module:
    """A network with this pair in it, for what only a run can show."""
    network = nn.Sequential()
    network.add_module("conv", conv)
    network.add_module("bn", bn)
    return network


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_one_convolution_computes_what_the_pair_did(kind, bias, affine):
    # Groups, dilation and padding mode were once dropped on the way.
    conv_class, bn_class, options, size = CONVOLUTIONS[kind]
    pair = nn.Sequential(conv_class(4, 6, 3, bias=bias, **options), bn_class(6, eps=0.1, affine=affine)).double()
    conv, bn = networks.randomise(pair, seed=3)
    before = copy.deepcopy(pair.state_dict())
    fused = fuse_conv_bn(conv, bn)
    inputs = torch.randn(2, 4, *size, dtype=torch.float64)
    torch.testing.assert_close(fused(inputs), bn(conv(inputs)), rtol=1e-12, atol=1e-12)
    assert type(fused) is conv_class
    for name in ("stride", "padding", "output_padding", "dilation", "groups", "padding_mode"):
        assert getattr(fused, name) == getattr(conv, name)
    for name, tensor in pair.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_dtype_and_requires_grad_are_those_of_the_convolution():
    conv = nn.Conv2d(2, 3, 1, bias=False).to(torch.bfloat16).requires_grad_(False)
    fused = fuse_conv_bn(conv, nn.BatchNorm2d(3))
    assert fused.weight.dtype == fused.bias.dtype == torch.bfloat16
    assert not fused.weight.requires_grad
    assert not fused.bias.requires_grad


def test_what_cannot_be_one_convolution_is_refused():
    with pytest.raises(PreparationError, match=r'without running statistics.*normalization="keep"'):
        fuse_conv_bn(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, track_running_stats=False))
    with pytest.raises(PreparationError, match="3 output channels and a BatchNorm of 4"):
        fuse_conv_bn(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(4))
    with pytest.raises(PreparationError, match="a Linear and a BatchNorm1d"):
        fuse_conv_bn(nn.Linear(2, 3), nn.BatchNorm1d(3))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "network", [networks.Plain, networks.Residual, networks.Depthwise, networks.Decoder, networks.Volume]
)
def test_any_network_computes_the_same_without_its_batch_norm(network, seed):
    model, inputs = networks.make(network, seed)
    before = copy.deepcopy(model.state_dict())
    fused = fuse_modules(model.train(), inputs)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in fused.modules())
    assert not any(module.training for module in fused.modules())
    torch.testing.assert_close(fused(inputs), model.eval()(inputs), rtol=1e-5, atol=1e-5)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


class TwoReaders(nn.Module):
    def __init__(self, returns_both: bool):
        super().__init__()
        self.conv, self.bn, self.returns_both = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), returns_both

    def forward(self, x):
        x = self.conv(x)
        return (x, self.bn(x)) if self.returns_both else x + self.bn(x)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.bn(self.conv(self.bn(self.conv(x))))


class Idle(networks.Plain):
    def __init__(self):
        super().__init__()
        self.idle = nn.BatchNorm2d(3)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (networks.Concatenation(), "'norm' is not fed by a convolution"),
        (fused_pair(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)), "'conv' is not fed by a convolution"),
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3)), "'2' is not fed by a convolution"),
        (TwoReaders(returns_both=False), "'conv' feeds something besides 'bn'"),
        (TwoReaders(returns_both=True), "'conv' feeds something besides 'bn'"),
        (Twice(), "'conv' runs 2 times"),
        (Idle(), "'idle' did not run"),
        (fused_pair(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)), "'conv' and 'bn'"),
    ],
)
def test_a_batch_norm_that_no_convolution_can_take_over_is_named(model, message):
    with pytest.raises(PreparationError, match=message) as caught:
        fuse_modules(model, torch.randn(2, 3, 8, 8))
    assert 'normalization="keep"' in str(caught.value)


def stock_resnet(layer_type: str, seed: int = 0) -> ResNetForImageClassification:
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12, 16], depths=[2, 1, 1], layer_type=layer_type, num_labels=5
    )
    return networks.randomise(ResNetForImageClassification(config), seed)


@pytest.mark.parametrize("layer_type", ["basic", "bottleneck"])
def test_a_stock_resnet_stays_one(layer_type, tmp_path):
    model, inputs = stock_resnet(layer_type), torch.randn(2, 3, 32, 32)
    random_state = torch.get_rng_state()
    fused = fuse_batch_norm(model, inputs)
    assert torch.equal(torch.get_rng_state(), random_state)
    expected = model(inputs).logits
    torch.testing.assert_close(fused(inputs).logits, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    for module in fused.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert not module.running_mean.any()
            assert (module.running_var == 1).all()
            torch.testing.assert_close(module.weight, torch.full_like(module.weight, (1 + module.eps) ** 0.5))
    fused.save_pretrained(tmp_path)
    loaded = ResNetForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(inputs).logits, fused(inputs).logits)


def test_an_unregistered_family_is_refused():
    model = stock_resnet("basic")
    model.config.model_type = "unheard_of"
    with pytest.raises(TargetError, match="unheard_of"):
        fuse_batch_norm(model, torch.randn(2, 3, 32, 32))


def test_a_family_whose_fused_config_does_not_fit_is_told_which_weight(monkeypatch):
    model = stock_resnet("basic")
    other = stock_resnet("basic").config
    other.num_labels = 7
    monkeypatch.setattr(type(find_target("resnet")), "fused_config", lambda self, config: other)
    with pytest.raises(PreparationError, match=r"'classifier.1.bias' has shape \(5,\).*\(7,\)"):
        fuse_batch_norm(model, torch.randn(2, 3, 32, 32))

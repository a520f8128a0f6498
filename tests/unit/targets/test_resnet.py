import re

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoBackbone, ResNetBackbone, ResNetConfig, ResNetForImageClassification

from neumeta_hf.errors import SizeError, TargetError
from neumeta_hf.targets import (
    NeuMetaResNetBackbone,
    NeuMetaResNetConfig,
    NeuMetaResNetForImageClassification,
    find_target,
    resize,
)
from target_axes import num_channels, with_num_channels

RESNET18 = ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic")
RESNET34 = ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[3, 4, 6, 3], layer_type="basic")
RESNET50 = ResNetConfig()
TINY = ResNetConfig(embedding_size=4, hidden_sizes=[16, 32], depths=[1, 2], num_labels=3)
FAMILY = find_target("resnet")


def build(config):
    with torch.device("meta"):
        return FAMILY.build(config)


@pytest.mark.parametrize("config", [RESNET18, RESNET34, RESNET50], ids=["18", "34", "50"])
def test_common_depths_have_the_groups_that_are_free(config):
    counts = num_channels(FAMILY, config)
    streams = [group for group in counts if "." not in group]
    assert streams == (["embedding"] if config is RESNET50 else []) + ["stage1", "stage2", "stage3", "stage4"]
    assert len(counts) - len(streams) == sum(config.depths)
    assert with_num_channels(FAMILY, config, counts).to_dict() == config.to_dict()


@pytest.mark.parametrize("config", [RESNET18, RESNET50], ids=["18", "50"])
@pytest.mark.parametrize("width", [0.25, 0.5, 0.75, 1.5])
def test_uniform_widths_keep_the_stock_class(config, width):
    resized = resize(config, width)
    assert type(resized) is ResNetConfig
    assert type(build(resized)) is ResNetForImageClassification
    assert resized.embedding_size == 64 * width


def test_a_tied_stem_follows_the_first_stage():
    assert "embedding" not in num_channels(FAMILY, RESNET18)
    assert resize(RESNET18, {"stage1": 0.5}).embedding_size == 32
    strided = ResNetConfig(hidden_sizes=[64, 128], depths=[1, 1], layer_type="basic", downsample_in_first_stage=True)
    assert resize(strided, {"stage1": 0.5}).embedding_size == 64
    assert resize(strided, {"embedding": 0.5}).hidden_sizes == [64, 128]


def test_one_inner_width_needs_the_own_class_and_going_back_does_not():
    narrow = resize(TINY, {"stage2.block1": 0.5})
    assert type(narrow) is NeuMetaResNetConfig
    assert narrow.inner_sizes == [[4], [4, 8]]
    assert (narrow.num_labels, narrow.depths) == (3, [1, 2])
    model = build(narrow)
    assert type(model) is NeuMetaResNetForImageClassification
    shapes = [tuple(layer.convolution.weight.shape) for layer in model.resnet.encoder.stages[1].layers[0].layer]
    assert shapes == [(4, 16, 1, 1), (4, 4, 3, 3), (32, 4, 1, 1)]
    back = with_num_channels(FAMILY, narrow, num_channels(FAMILY, TINY))
    assert back.to_dict() == TINY.to_dict()


@pytest.mark.parametrize("in_bottleneck", [False, True])
@pytest.mark.parametrize("in_first_stage", [False, True])
@pytest.mark.parametrize("layer_type", ["basic", "bottleneck"])
def test_own_class_computes_what_the_stock_class_does(layer_type, in_first_stage, in_bottleneck):
    stock_config = ResNetConfig(
        embedding_size=4, hidden_sizes=[8, 16], depths=[2, 1], layer_type=layer_type,
        downsample_in_first_stage=in_first_stage, downsample_in_bottleneck=in_bottleneck,
    )  # fmt: skip
    own_config = NeuMetaResNetConfig(
        **{key: value for key, value in stock_config.to_dict().items() if key != "model_type"},
        inner_sizes=[[2, 2], [4]] if layer_type == "bottleneck" else [[8, 8], [16]],
    )
    stock = ResNetForImageClassification(stock_config).eval()
    own = NeuMetaResNetForImageClassification(own_config).eval()
    own.load_state_dict(stock.state_dict(), strict=True)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(own(images).logits, stock(images).logits)


def test_own_backbone_puts_out_what_the_classifier_of_the_same_config_reads(tmp_path):
    config = NeuMetaResNetConfig(
        embedding_size=4, hidden_sizes=[16, 32], depths=[1, 2], inner_sizes=[[6], [4, 10]], out_features=["stage2"]
    )
    torch.manual_seed(0)
    classifier, images = NeuMetaResNetForImageClassification(config).eval(), torch.randn(2, 3, 32, 32)
    backbone = AutoBackbone.from_config(config).eval()
    assert type(backbone) is NeuMetaResNetBackbone
    backbone.load_state_dict(classifier.resnet.state_dict(), strict=True)
    backbone.save_pretrained(tmp_path)
    for network in (backbone, NeuMetaResNetBackbone.from_pretrained(tmp_path)):
        (features,) = network(images).feature_maps
        torch.testing.assert_close(features, classifier.resnet(images).last_hidden_state)


def test_own_backbone_has_the_stock_layers_and_fresh_weights_of_the_same_scale():
    options = {"embedding_size": 4, "hidden_sizes": [8, 64], "depths": [1, 1], "layer_type": "basic"}
    torch.manual_seed(0)
    own = NeuMetaResNetBackbone(NeuMetaResNetConfig(**options)).state_dict()
    stock = ResNetBackbone(ResNetConfig(**options)).state_dict()
    assert {name: value.shape for name, value in own.items()} == {name: value.shape for name, value in stock.items()}
    name = "encoder.stages.1.layers.0.layer.1.convolution.weight"
    assert own[name].std() == pytest.approx(stock[name].std().item(), rel=0.05)


def test_own_class_without_inner_sizes_is_the_stock_network():
    own = NeuMetaResNetForImageClassification(NeuMetaResNetConfig(hidden_sizes=[8, 16], depths=[1, 1]))
    stock = ResNetForImageClassification(ResNetConfig(hidden_sizes=[8, 16], depths=[1, 1]))
    assert {n: v.shape for n, v in own.state_dict().items()} == {n: v.shape for n, v in stock.state_dict().items()}


def test_a_shortcut_that_would_vanish_is_refused_and_the_advice_works():
    with pytest.raises(SizeError, match="'stage1' cannot have 4 channels while 'embedding' has as many") as error:
        resize(TINY, {"stage1": 0.25})
    choices = re.findall(r"(\d+) \(a ratio of ([\d.]+)\)", str(error.value))
    assert [int(count) for count, _ in choices] == [3, 5]
    for count, ratio in choices:
        assert resize(TINY, {"stage1": float(ratio)}).hidden_sizes[0] == int(count)


@pytest.mark.parametrize("inner_sizes", [[[4]], [[4], [4]], [[4], [4, 0]], [[4], [4, 8.0]]])
def test_inner_sizes_must_fit_the_blocks(inner_sizes):
    with pytest.raises(StrictDataclassError):
        NeuMetaResNetConfig(hidden_sizes=[16, 32], depths=[1, 2], inner_sizes=inner_sizes)


def test_image_size_is_that_of_imagenet_unless_the_config_says():
    assert FAMILY.image_shape(RESNET18) == (3, 224, 224)
    assert FAMILY.image_shape(ResNetConfig(num_channels=1, image_size=32)) == (1, 32, 32)
    assert FAMILY.image_shape(ResNetConfig(image_size=[32, 48])) == (3, 32, 48)


@pytest.mark.parametrize("image_size", ["32", 0, 32.0, [32], [32, 48, 3], [32, -1]])
def test_an_image_size_that_is_none_is_refused(image_size):
    with pytest.raises(TargetError, match=f"image_size={re.escape(repr(image_size))} .*height, width"):
        FAMILY.image_shape(ResNetConfig(image_size=image_size))

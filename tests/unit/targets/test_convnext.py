import re

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
)

from neumeta_hf import NeuMetaModel, prepare
from neumeta_hf.axes import scale_channels
from neumeta_hf.errors import TargetError
from neumeta_hf.targets import (
    NeuMetaConvNextConfig,
    NeuMetaConvNextForImageClassification,
    NeuMetaConvNextV2Config,
    NeuMetaConvNextV2ForImageClassification,
    find_target,
    resize,
)
from target_axes import num_channels, with_num_channels

SIZES = {"hidden_sizes": [8, 12], "depths": [1, 2], "num_stages": 2, "patch_size": 2, "image_size": 16, "num_labels": 3}
VERSIONS = {
    "v1": (
        ConvNextConfig,
        ConvNextForImageClassification,
        NeuMetaConvNextConfig,
        NeuMetaConvNextForImageClassification,
    ),
    "v2": (
        *(ConvNextV2Config, ConvNextV2ForImageClassification),
        *(NeuMetaConvNextV2Config, NeuMetaConvNextV2ForImageClassification),
    ),
}


@pytest.fixture(params=VERSIONS)
def version(request):
    return VERSIONS[request.param]


def build(config):
    with torch.device("meta"):
        return find_target(config).build(config)


@pytest.mark.parametrize("width", [0.25, 0.37, 0.5, 0.61, 1.5])
def test_uniform_widths_of_a_published_network_keep_the_stock_class(version, width):
    stock_config, stock_class, _, _ = version
    resized = resize(stock_config(), width)
    assert type(resized) is stock_config
    assert resized.hidden_sizes == [scale_channels(count, width) for count in (96, 192, 384, 768)]
    assert type(build(resized)) is stock_class


def test_so_do_widths_of_their_own_by_stage_and_any_depth(version):
    stock_config, stock_class, _, _ = version
    family, config = find_target(stock_config()), stock_config()
    resized = resize(config, {"stage2": 0.3, "stage4": 0.6})
    assert (type(resized), resized.hidden_sizes) == (stock_config, [96, 58, 384, 461])
    shallow = family.config_at(config, family.space(config).size(0.5, depth={"stage3": 2}))
    assert (type(shallow), shallow.depths, shallow.num_stages) == (stock_config, [3, 3, 2, 3], 4)
    assert type(build(shallow)) is stock_class


def test_one_inner_width_needs_the_own_class_and_going_back_does_not(version):
    stock_config, _, own_config, own_class = version
    config = stock_config(**SIZES)
    family = find_target(config)
    narrow = resize(config, {"stage2.block1": 0.5})
    assert type(narrow) is own_config
    assert narrow.inner_sizes == [[32], [24, 48]]
    model = build(narrow)
    assert type(model) is own_class
    block = getattr(model, family.path).encoder.stages[1].layers[0]
    assert (block.pwconv1.weight.shape, block.pwconv2.weight.shape) == ((24, 12), (12, 24))
    back = with_num_channels(family, narrow, num_channels(family, config))
    assert back.to_dict() == config.to_dict()


def test_the_own_class_computes_and_starts_as_the_stock_class_does(version):
    stock_config, stock_class, own_config, own_class = version
    torch.manual_seed(0)
    stock = stock_class(stock_config(**SIZES, initializer_range=0.2)).eval()
    own = own_class(own_config(**SIZES, initializer_range=0.2, inner_sizes=[[32], [48, 48]])).eval()
    std = own.state_dict()[f"{own.base_model_prefix}.encoder.stages.1.layers.0.pwconv2.weight"].std().item()
    assert std == pytest.approx(0.2, rel=0.2)
    state = {name: torch.randn(tensor.shape) for name, tensor in stock.state_dict().items()}
    stock.load_state_dict(state)
    own.load_state_dict(state)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(own(images).logits, stock(images).logits)


def test_a_family_has_the_references_outputs_and_a_morph_is_stock():
    torch.manual_seed(0)
    network = ConvNextForImageClassification(ConvNextConfig(**SIZES, layer_scale_init_value=0.5)).eval()
    prepared, _ = prepare(network, normalization="keep", order="importance")
    options = {
        "hypernetwork": {"type": "grid", "positions": "absolute", "levels": 2},
        "normalization": "keep",
        "trained_widths": [0.5, 1.0],
    }
    family = NeuMetaModel.from_reference(prepared, **options)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(family.morph(1.0)(images).logits, network(images).logits, atol=1e-5, rtol=1e-4)
    half = family.morph(0.5, depth={"stage2": 1})
    assert type(half) is ConvNextForImageClassification
    assert (half.config.hidden_sizes, half.config.depths) == ([4, 6], [1, 1])
    # Slices of the reference: depthwise kernels, layer scale and LayerNorm follow their channels.
    block, source = half.convnext.encoder.stages[1].layers[0], prepared.convnext.encoder.stages[1].layers[0]
    assert (block.dwconv.groups, tuple(block.dwconv.weight.shape)) == (6, (6, 1, 7, 7))
    torch.testing.assert_close(block.dwconv.weight, source.dwconv.weight[:6])
    torch.testing.assert_close(block.layer_scale_parameter, source.layer_scale_parameter[:6])
    torch.testing.assert_close(block.layernorm.weight, source.layernorm.weight[:6])


@pytest.mark.parametrize("inner_sizes", [[[32]], [[32], [48]], [[32], [48, 0]]])
def test_inner_sizes_that_do_not_fit_are_refused(version, inner_sizes):
    _, _, own_config, _ = version
    with pytest.raises(StrictDataclassError, match=re.escape(str(inner_sizes))):
        own_config(**SIZES, inner_sizes=inner_sizes)


@pytest.mark.parametrize(
    "fields", [{"num_stages": 3}, {"depths": [1, 2, 1]}, {"depths": [0, 1]}, {"hidden_sizes": [8]}]
)
def test_stages_that_do_not_agree_are_refused_by_name(version, fields):
    stock_config, _, _, _ = version
    config = stock_config(**SIZES | fields)
    with pytest.raises(TargetError, match="num_stages=.*hidden_sizes=.*depths="):
        find_target(config).axes(config)


def test_a_recipe_need_not_say_how_many_stages_there_are():
    family = find_target("convnext")
    fields = {"hidden_sizes": [8, 12], "depths": [1, 2], "patch_size": 2}
    config = family.make_config(fields, image_shape=(1, 16, 12), label_names=["a", "b"])
    assert (config.num_stages, config.num_channels, config.image_size, config.num_labels) == (2, 1, [16, 12], 2)
    assert family.build(config)(torch.zeros(1, 1, 16, 12)).logits.shape == (1, 2)

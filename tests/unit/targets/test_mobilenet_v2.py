import itertools

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

from neumeta_hf import NeuMetaModel, prepare
from neumeta_hf.errors import TargetError
from neumeta_hf.targets import (
    NeuMetaMobileNetV2Config,
    NeuMetaMobileNetV2ForImageClassification,
    find_target,
    resize,
)
from target_axes import num_channels, with_num_channels

FAMILY = find_target("mobilenet_v2")
TINY = {
    **{"depth_multiplier": 0.25, "depth_divisible_by": 1, "min_depth": 1, "expand_ratio": 2.0, "image_size": 32},
    **{"finegrained_output": False, "num_labels": 3, "classifier_dropout_prob": 0.0},
}

NUM_BLOCKS = (2, 3, 4, 3, 3, 1)


def build(config):
    with torch.device("meta"):
        return FAMILY.build(config)


def randomised(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                if tensor.ndim > 1:
                    tensor.normal_(std=(2 * len(tensor) / tensor.numel()) ** 0.5, generator=generator)
                else:
                    low, high = (0.5, 1.5) if name.endswith(("weight", "running_var")) else (-0.3, 0.3)
                    tensor.uniform_(low, high, generator=generator)
    return network.eval()


@pytest.mark.parametrize("config", [MobileNetV2Config(**TINY), NeuMetaMobileNetV2Config(**TINY, head_channels=7)])
def test_a_fresh_network_begins_with_blocks_that_do_nothing_and_averages_its_statistics(config):
    network = FAMILY.fresh(config)
    states = network.mobilenet_v2(torch.randn(4, 3, 32, 32), output_hidden_states=True).hidden_states
    kept = [torch.equal(before, after) for before, after in itertools.pairwise(states) if before.shape == after.shape]
    assert kept == [True] * (sum(NUM_BLOCKS) - len(NUM_BLOCKS))
    assert all(norm.momentum == 0.1 for norm in network.modules() if isinstance(norm, torch.nn.BatchNorm2d))


def test_the_default_is_the_papers_network():
    counts = num_channels(FAMILY, MobileNetV2Config())
    assert [counts[f"stage{stage}"] for stage in range(1, 8)] == [16, 24, 32, 64, 96, 160, 320]
    assert (counts["stem"], counts["head"], counts["stage2.block1"], counts["stage7.block1"]) == (32, 1280, 96, 960)
    assert sum("block" in axis for axis in counts) == 16


@pytest.mark.parametrize("width", [0.5, 1.0, 1.5])
def test_one_width_for_all_groups_is_a_multiplier_of_the_stock_class(width):
    resized = resize(MobileNetV2Config(), width)
    assert type(resized) is MobileNetV2Config
    assert resized.depth_multiplier == pytest.approx(width)
    assert type(build(resized)) is MobileNetV2ForImageClassification


def test_a_narrow_network_may_keep_its_wide_head_as_published_ones_do():
    axes = num_channels(FAMILY, MobileNetV2Config())
    resized = resize(MobileNetV2Config(), {**dict.fromkeys(axes, 0.5), "head": 1.0})
    assert (type(resized), resized.depth_multiplier, resized.finegrained_output) == (MobileNetV2Config, 0.5, True)


def test_a_width_that_no_multiplier_rounds_to_needs_the_own_class():
    # Of 24 channels three quarters are 18: the nearest multiple of 8 is 16, and the stock class takes 24.
    resized = resize(MobileNetV2Config(), 0.75)
    assert (type(resized), resized.stage_channels[1]) == (NeuMetaMobileNetV2Config, 16)


def test_other_sizes_need_the_own_class_and_going_back_does_not():
    config = MobileNetV2Config(**TINY)
    narrow = resize(config, {"stage2": 0.5})
    assert type(narrow) is NeuMetaMobileNetV2Config
    assert narrow.stage_channels[1] == 3
    # The first block of a stage reads the stage before.
    assert (narrow.inner_channels[1], narrow.inner_channels[2][:2]) == ([8, 6], [6, 16])
    assert type(build(narrow)) is NeuMetaMobileNetV2ForImageClassification
    back = with_num_channels(FAMILY, narrow, num_channels(FAMILY, config))
    assert back.to_dict() == config.to_dict()


@pytest.mark.parametrize("tf_padding", [True, False])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_the_own_class_computes_what_the_stock_class_does(tf_padding, output_stride):
    options = {**TINY, "tf_padding": tf_padding, "output_stride": output_stride}
    stock = randomised(MobileNetV2ForImageClassification(MobileNetV2Config(**options)))
    own = NeuMetaMobileNetV2ForImageClassification(NeuMetaMobileNetV2Config(**options)).eval()
    own.load_state_dict(stock.state_dict(), strict=True)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(own(images).logits, stock(images).logits)


def test_stages_that_happen_to_be_equally_wide_have_no_shortcut():
    config = MobileNetV2Config(**TINY)
    even = with_num_channels(FAMILY, config, {**num_channels(FAMILY, config), "stage5": 16})
    assert type(even) is NeuMetaMobileNetV2Config
    shortcuts = [layer.use_residual for layer in build(even).mobilenet_v2.layer]
    assert shortcuts == [layer.use_residual for layer in build(config).mobilenet_v2.layer]
    with pytest.raises(TargetError, match="depth_multiplier=0.05.*shortcut"):
        FAMILY.axes(MobileNetV2Config(depth_multiplier=0.05))


@pytest.mark.parametrize("normalization", ["fuse", "keep"])
def test_a_family_begins_as_the_reference_with_batch_norm_kept_or_fused(normalization):
    network = randomised(MobileNetV2ForImageClassification(MobileNetV2Config(**TINY)))
    images = torch.randn(4, 3, 32, 32)
    prepared, report = prepare(network, normalization=normalization, order="importance")
    assert len(report.cliques) == 7 + 16 + 2
    options = {"hypernetwork": {"type": "grid", "positions": "absolute", "levels": 2}, "trained_widths": [0.5, 1.0]}
    family = NeuMetaModel.from_reference(prepared, normalization=normalization, **options)
    calibration = {"calibration": [images]} if normalization == "keep" else {}
    half = family.morph(0.5, **calibration)
    assert type(half) is MobileNetV2ForImageClassification
    block, source = (model.mobilenet_v2.layer[3].conv_3x3.convolution for model in (half, prepared))
    assert block.groups == len(block.weight) == len(source.weight) // 2
    torch.testing.assert_close(block.weight, source.weight[: len(block.weight)])
    with torch.no_grad():
        assert half(images).logits.isfinite().all()
        if normalization == "fuse":
            torch.testing.assert_close(family.morph(1.0)(images).logits, network(images).logits, atol=1e-4, rtol=1e-4)
        else:
            full = family.morph(1.0, calibration=[images]).state_dict()
            for name, tensor in prepared.named_parameters():
                torch.testing.assert_close(full[name], tensor)


@pytest.mark.parametrize(
    "fields",
    [
        {"stage_channels": [4] * 6},
        {"inner_channels": [[4]] * 7},
        {"stage_channels": [4] * 6 + [0]},
        {"head_channels": 0},
    ],
)
def test_channels_that_do_not_fit_are_refused(fields):
    with pytest.raises(StrictDataclassError, match=r"channels"):
        NeuMetaMobileNetV2Config(**TINY, **fields)


def test_a_recipe_can_say_every_size_by_the_type_of_its_config():
    narrow = resize(MobileNetV2Config(**TINY), {"stage3": 0.5, "stage5.block1": 0.5})
    options = {"image_shape": (3, 32, 32), "label_names": ["a", "b", "c"]}
    said = {*TINY, "model_type", "stage_channels", "inner_channels"} - {"num_labels"}
    fields = {name: value for name, value in narrow.to_dict().items() if name in said}
    made = FAMILY.make_config(fields, **options)
    assert type(made) is NeuMetaMobileNetV2Config
    assert num_channels(FAMILY, made) == num_channels(FAMILY, narrow)
    with pytest.raises(TargetError, match="stage_channels"):
        FAMILY.make_config({**fields, "model_type": "mobilenet_v2"}, **options)
    with pytest.raises(
        TargetError, match="model_type='resnet': the target family mobilenet_v2 takes mobilenet_v2 or neumeta"
    ):
        FAMILY.make_config({**fields, "model_type": "resnet"}, **options)

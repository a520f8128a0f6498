"""Sizes are asked for by width, by channels, per group and by pattern, and are the same everywhere."""

import json
import warnings

import numpy as np
import pytest
import torch
from family_checks import assert_same, images_of, tensors_of
from transformers import (
    ResNetConfig,
)

from neumeta_hf.configuration_neumeta import MorphConfig, NeuMetaConfig
from neumeta_hf.errors import SizeError, TargetError
from neumeta_hf.family_sizes import SizeWarning
from neumeta_hf.modeling_tasks import NeuMetaForImageClassification
from neumeta_hf.targets import find_target
from neumeta_hf.targets.lenet import LeNetConfig
from target_axes import num_channels


def test_a_width_that_training_never_drew_still_runs(family):
    width = 0.6
    assert width not in family.config.trained_widths
    images = images_of(family)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SizeWarning)
        morph = family.morph(width, calibration=[images] if family.statistic_names else None)
    assert morph(images).logits.isfinite().all()


@pytest.mark.parametrize("width", [0.25, 1.5])
def test_a_size_outside_the_trained_range_warns_and_says_the_range(family, width):
    images = images_of(family)
    calibration = [images] if family.statistic_names else None
    with pytest.warns(SizeWarning, match=r"outside the trained range: training drew widths 0\.5 to 1") as caught:
        morph = family.morph(width, calibration=calibration)
    channels = num_channels(family.target_family, morph.config)
    assert f"{family.width_groups[0]}={channels[family.width_groups[0]]}" in str(caught[0].message)
    assert morph(images).logits.isfinite().all()
    assert not family.is_in_trained_range(family.size_at(width))


def test_one_group_outside_the_range_warns(lenet_family):
    with pytest.warns(SizeWarning, match="conv2=2"):
        lenet_family.morph({"conv2": 0.3})


def test_a_family_that_was_never_trained_says_so(lenet_case):
    family = lenet_case.family(trained_widths=[])
    with pytest.warns(SizeWarning, match="training drew no size yet"):
        family.morph(1.0)


def test_sizes_are_divided_by_the_widest_axis_that_varies(make_case):
    torch.manual_seed(0)
    config = LeNetConfig(hidden_channels=[4, 6, 8], kernel_size=3, image_size=8, num_labels=100)
    family = NeuMetaForImageClassification.from_reference(find_target(config).build(config).eval())
    assert family.coordinate_scale == family.config.coordinate_scale == 8
    with_none = NeuMetaForImageClassification(NeuMetaConfig(target_config=config))  # as an earlier checkpoint says it
    assert with_none.coordinate_scale == 100


def test_clamping_holds_size_coordinates_outside_the_range_alone(lenet_case):
    for clamp in (True, False):
        family = lenet_case.family(clamp_sizes=clamp)
        coordinates = family.coordinates_at(family.size_at(0.25))["conv2.weight"]
        sizes = (coordinates.out_size * family.coordinate_scale, coordinates.in_size * family.coordinate_scale)
        assert sizes == ((3, 2) if clamp else (2, 1))
        inside = family.coordinates_at(family.size_at(0.75))["conv2.weight"]
        assert inside.out_size * family.coordinate_scale == 5


@pytest.mark.parametrize(
    ("width", "says"),
    [
        (0, "must lie in"),
        (-0.5, "must lie in"),
        (float("nan"), "must lie in"),
        (True, "must be a number"),
        ("0.5", "must be a number"),
        (6, "For 6 channels pass width=0.8"),
        (0.05, "smallest possible ratio is"),
        ({"conv9": 0.5}, "choose among conv1, conv2, conv3"),
        ({"conv1": 9}, "must lie in"),
    ],
)
def test_impossible_sizes_are_refused_and_say_what_is_possible(lenet_family, width, says):
    for use in (lenet_family.morph, lenet_family.generate, lenet_family.size_at):
        with pytest.raises(SizeError, match=says):
            use(width)
    with pytest.raises(SizeError, match=says):
        lenet_family(images_of(lenet_family), width=width)


def test_widths_per_group(lenet_family):
    morph = lenet_family.morph({"conv2": 0.5, "conv3": 0.75})
    assert morph.config.hidden_channels == [4, 3, 6]
    assert morph.conv3.weight.shape == (6, 3, 3, 3)


def test_inner_groups_follow_their_stage_unless_named(make_case):
    family = make_case("cifar_resnet").family()
    channels = num_channels(family.target_family, family.morph({"stage3": 0.5}).config)
    assert (channels["stage3"], channels["stage3.block1"], channels["stage2"]) == (4, 4, 6)
    channels = num_channels(family.target_family, family.morph({"stage3": 0.5, "stage3.block1": 1.0}).config)
    assert (channels["stage3"], channels["stage3.block1"], channels["stage3.block2"]) == (4, 8, 4)


def test_counts_are_a_size(family):
    half = family.size_at(0.5)
    counts = {group: half[group] for group in family.width_groups}
    assert_same(tensors_of(family.morph(size=counts)), tensors_of(family.morph(0.5)))
    assert family.size_at(counts=counts) == half
    with pytest.raises(SizeError, match="give one of them"):
        family.morph(0.5, size=counts)
    with pytest.raises(SizeError, match="a count is an integer from 1 up"):
        family.morph(size={family.width_groups[0]: 0.5})


@pytest.mark.parametrize("name", ["cifar_resnet", "cifar_resnet_identity", "resnet", "resnet_bottleneck"])
@pytest.mark.parametrize("normalization", ["fuse", "keep"])
def test_a_morph_of_fewer_blocks_is_what_training_runs_and_an_ordinary_checkpoint(
    make_case, name, normalization, tmp_path
):
    family = make_case(name, normalization).family(trained_depths=[0.5, 1.0])
    (stack,) = family.space.depths.values()
    images = images_of(family)
    calibration = [images] if family.statistic_names else None
    with warnings.catch_warnings():
        warnings.simplefilter("error", SizeWarning)
        morph = family.morph(0.5, depth={stack.name: 1}, calibration=calibration)
    size = family.size_at(0.5, depth={stack.name: 1})
    assert len(morph.state_dict()) < len(family.morph(0.5, calibration=calibration).state_dict())
    generated = family.generate(size)
    for tensor, value in generated.items():
        assert torch.equal(morph.state_dict()[tensor], value), tensor
    if not family.statistic_names:
        with torch.no_grad():
            assert torch.equal(family.run(size, generated, images).logits, morph(images).logits)
    morph.save_pretrained(tmp_path)
    again = type(morph).from_pretrained(tmp_path).eval()
    assert torch.equal(again(images).logits, morph(images).logits)
    assert morph.morph_origin.depths == {stack.name: (1, stack.full)}


def test_blocks_are_left_out_in_the_order_of_their_ranking(make_case):
    case = make_case("cifar_resnet", "fuse")
    family = case.family(hypernetwork={"type": "grid"}, block_ranking={"stage3": [1]})
    assert family.size_at(depth={"stage3": 1})["stage3.block2"] == 0
    with pytest.raises(TargetError, match="rank the blocks"):
        case.family(block_ranking={"stage3": [7]})
    with pytest.raises(TargetError, match="block_ranking names 'nowhere'"):
        case.family(block_ranking={"nowhere": [1]})


def test_a_depth_that_was_not_trained_warns(make_case):
    family = make_case("cifar_resnet", "fuse").family()
    with pytest.warns(SizeWarning, match="stage3=1 blocks"):
        family.morph(depth=0.5)


def test_patterns_name_groups(make_case):
    family = make_case("cifar_resnet").family()
    assert family.size_at({"stage*.block*": 0.5}) == family.size_at(
        {group: 0.5 for group in family.width_groups if "block" in group}
    )
    named = family.size_at({"stage3.block1": 1.0, "stage3*": 0.5})
    assert (named["stage3"], named["stage3.block1"], named["stage3.block2"]) == (4, 8, 4)


def test_a_config_of_the_family_is_a_width_and_deprecated(family):
    config = family.target_config_at(0.5)
    with pytest.warns(FutureWarning, match="morph\\(size="):
        morph = family.morph(config)
    assert_same(tensors_of(morph), tensors_of(family.morph(0.5)))


def test_a_stock_config_is_a_width(make_case):
    family = make_case("resnet").family()
    config = ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 2], layer_type="basic", num_labels=3, image_size=32
    )
    with pytest.warns(FutureWarning):
        morph = family.morph(config)
    assert_same(tensors_of(morph), tensors_of(family.morph(0.5)))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_config_that_differs_in_more_than_size_is_refused(make_case):
    family = make_case("cifar_resnet").family()
    config = family.target_config_at(0.5)
    config.num_blocks = [1, 1, 1]
    with pytest.raises(SizeError, match="only the number of channels may differ"):
        family.morph(config)
    with pytest.raises(SizeError, match="is not a size of a reference of"):
        family.morph(make_case("lenet").config)


def test_a_morph_config_holds_all_arguments(lenet_family):
    config = MorphConfig(width={"conv2": 0.5}, num_samples=2, noise=0.5, seed=3)
    expected = lenet_family.morph({"conv2": 0.5}, num_samples=2, noise=0.5, seed=3)
    assert_same(tensors_of(lenet_family.morph(config)), tensors_of(expected))
    assert MorphConfig(**config.to_dict()) == config


@pytest.mark.parametrize("extra", [{"num_samples": 2}, {"noise": 1.0}, {"seed": 1}])
def test_a_morph_config_beside_other_arguments_is_refused(lenet_family, extra):
    with pytest.raises(SizeError, match="in the MorphConfig alone"):
        lenet_family.morph(MorphConfig(width=0.5), **extra)


@pytest.mark.parametrize("num_samples", [0, -1, 1.5, True, "2"])
def test_a_number_of_samples_that_is_none_is_refused(lenet_family, num_samples):
    with pytest.raises(SizeError, match="num_samples=.*at least 1"):
        lenet_family.morph(0.5, num_samples=num_samples)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1),
        ("seed", 2**63),
        ("seed", 1.0),
        ("seed", float("nan")),
        ("seed", True),
        ("seed", "1"),
        ("num_samples", 10**9),
        ("num_samples", float("inf")),
        ("noise", float("nan")),
        ("noise", float("inf")),
        ("noise", -0.5),
        ("noise", 1e30),
        ("noise", "1"),
        ("noise", True),
    ],
)
def test_numbers_that_are_none_are_refused_wherever_a_network_is_generated(lenet_family, name, value):
    with pytest.raises(SizeError, match=f"^{name}="):
        lenet_family.morph(0.5, **{name: value})
    with pytest.raises(SizeError, match=f"^{name}="):
        lenet_family.generate(0.5, **{name: value})
    with pytest.raises(SizeError, match=f"^{name}="):
        MorphConfig(width=0.5, **{name: value})
    if name != "num_samples":
        with pytest.raises(SizeError, match=f"^{name}="):
            lenet_family(images_of(lenet_family), width=0.5, **{name: value})


@pytest.mark.parametrize("width", [float("nan"), float("inf"), -0.5, 0, 1e30, "0.5", True, None])
def test_widths_that_are_none_are_refused_wherever_a_network_is_generated(lenet_family, width):
    for use in (
        lambda asked: lenet_family.morph(asked),
        lambda asked: lenet_family.generate(asked),
        lambda asked: lenet_family(images_of(lenet_family), width=asked),
        lambda asked: MorphConfig(width=asked),
    ):
        for asked in (width, {"conv1": width}):
            with pytest.raises(SizeError, match="width"):
                use(asked)


def test_numbers_of_numpy_are_numbers(lenet_family):
    expected = tensors_of(lenet_family.morph(0.5, noise=0.5, num_samples=2, seed=3))
    found = lenet_family.morph(np.float32(0.5), noise=np.float64(0.5), num_samples=np.int64(2), seed=np.int32(3))
    assert_same(tensors_of(found), expected)
    assert json.dumps([found.morph_origin.seed, found.morph_origin.num_samples]) == "[3, 2]"

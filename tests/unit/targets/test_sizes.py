import math
import re

import numpy as np
import pytest

from neumeta_hf.axes import scale_channels, shortest_ratio
from neumeta_hf.errors import SizeError
from neumeta_hf.targets import (
    CifarResNetConfig,
    LeNetConfig,
    cifar_resnet20,
    cifar_resnet32,
    find_target,
    ratios,
    resize,
)
from target_axes import num_channels

LENET = LeNetConfig(hidden_channels=[16, 32, 64], num_labels=10)
RESNET = cifar_resnet20(10)


def channels(config):
    return num_channels(find_target(config), config)


@pytest.mark.parametrize(
    ("num_channels", "ratio", "expected"),
    [
        (64, 0.5, 32),
        (5, 0.5, 3),  # halves go up, also where Python's round() goes to the even neighbour
        (15, 0.3, 5),
        (100, 1.005, 101),  # 100.49999999999999 in binary
        (3, 1 / 6, 1),  # a half that no decimal says
        (10, 0.349, 3),
        (64, 0.0078125, 1),
        (64, 0.0078124, 0),
        (2048, 4.0, 8192),
    ],
)
def test_halves_are_rounded_up(num_channels, ratio, expected):
    assert scale_channels(num_channels, ratio) == expected


def test_rounding_is_monotone_and_inverts_every_count():
    for full in (1, 3, 7, 64, 2048):
        counts = [scale_channels(full, step / 1000) for step in range(0, 2000)]
        assert counts == sorted(counts)
        assert all(scale_channels(full, count / full) == count for count in range(1, 3 * full))


def test_shortest_ratio_gives_the_count_it_promises():
    for full in (1, 7, 24, 64, 2048):
        assert all(scale_channels(full, shortest_ratio(full, n)) == n for n in range(1, 2 * full))
    assert shortest_ratio(24, 10) == 0.4


def test_a_number_scales_all_groups_and_a_mapping_the_named_ones():
    assert channels(resize(LENET, 0.5)) == {"conv1": 8, "conv2": 16, "conv3": 32}
    assert channels(resize(LENET, np.float64(0.5))) == {"conv1": 8, "conv2": 16, "conv3": 32}
    assert channels(resize(LENET, {"conv2": 0.25})) == {"conv1": 16, "conv2": 8, "conv3": 64}
    assert channels(resize(LENET, 0.5, groups=["conv3"])) == {"conv1": 16, "conv2": 32, "conv3": 32}
    assert channels(resize(LENET, {})) == channels(LENET)


def test_a_child_follows_its_named_parent_only_where_it_may_change():
    width = {"stage3": 0.5}
    follows = channels(resize(RESNET, width))
    assert [follows[f"stage3.block{block}"] for block in (1, 2, 3)] == [32, 32, 32]
    some = channels(resize(RESNET, width, groups=["stage3", "stage3.block2"]))
    assert [some[f"stage3.block{block}"] for block in (1, 2, 3)] == [64, 32, 64]


@pytest.mark.parametrize("ratio", [0, -0.5, 4.01, 32, math.nan, math.inf, -math.inf])
def test_what_lies_outside_the_range_is_no_ratio(ratio):
    with pytest.raises(SizeError, match=re.escape(f"width={ratio} is no ratio: it must lie in (0, 4]")):
        resize(LENET, ratio)
    with pytest.raises(SizeError, match=re.escape(f"width['conv2']={ratio} is no ratio")):
        resize(LENET, {"conv2": ratio})


@pytest.mark.parametrize("ratio", [True, "0.5", None, [0.5], 1j])
def test_what_is_no_number_is_no_ratio(ratio):
    with pytest.raises(SizeError, match="is no ratio: it must be a number"):
        resize(LENET, ratio)


def test_a_channel_count_is_answered_with_the_ratio_that_gives_it():
    with pytest.raises(SizeError) as error:
        resize(LENET, 32)
    assert str(error.value) == (
        "width=32 is no ratio: it must lie in (0, 4], where 1.0 is the reference (64 channels). "
        "For 32 channels pass width=0.5."
    )
    with pytest.raises(SizeError) as error:
        resize(LENET, {"conv2": 9.0})
    advice = re.search(r"For 9 channels pass width=(\{.*\})\.$", str(error.value))[1]
    assert channels(resize(LENET, eval(advice)))["conv2"] == 9


def test_the_smallest_ratio_that_a_message_names_works():
    for width in (0.001, {"conv1": 0.03, "conv2": 0.001}):
        with pytest.raises(SizeError, match=r"leaves no channel of the (16|32) in") as error:
            resize(LENET, width)
        group, smallest = re.search(r"in '(\w+)'.* ratio is ([\d.e-]+)\.$", str(error.value)).groups()
        assert channels(resize(LENET, {group: float(smallest)}))[group] == 1
        with pytest.raises(SizeError):
            resize(LENET, {group: float(smallest) * 0.999})
    with pytest.raises(SizeError) as error:
        resize(LENET, 0.001)
    assert min(channels(resize(LENET, float(str(error.value).split()[-1][:-1]))).values()) == 1


def test_a_group_that_is_unknown_or_may_not_change_lists_the_others():
    with pytest.raises(SizeError, match="'conv4', which cannot change here: choose among conv1, conv2, conv3"):
        resize(LENET, {"conv4": 0.5})
    with pytest.raises(SizeError, match="'conv1', which cannot change here: choose among conv2, conv3"):
        resize(LENET, {"conv1": 0.5}, groups=["conv2", "conv3"])
    with pytest.raises(SizeError, match=r"'conv9', which is unknown: 'lenet' has conv1, conv2, conv3"):
        resize(LENET, 0.5, groups=["conv9"])


def test_ratios_are_relative_to_the_reference():
    resized = resize(RESNET, {"stage3": 0.5, "stage3.block2": 0.25})
    assert ratios(resized, RESNET) == dict.fromkeys(channels(RESNET), 1.0) | {
        "stage3": 0.5, "stage3.block1": 0.5, "stage3.block2": 0.25, "stage3.block3": 0.5
    }  # fmt: skip


def test_ratios_ignore_what_saving_writes(tmp_path):
    find_target(RESNET).build(resize(RESNET, 0.5)).save_pretrained(tmp_path)
    reloaded = CifarResNetConfig.from_pretrained(tmp_path)
    assert set(ratios(reloaded, RESNET).values()) == {0.5}


def other(**changes):
    config = resize(RESNET, 0.5)
    for name, value in changes.items():
        setattr(config, name, value)
    return config


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (LENET, "neumeta_lenet"),
        (cifar_resnet32(10), "stage1.block5"),
        (cifar_resnet20(100), "id2label"),
        (other(shortcut="identity"), "shortcut='identity', the reference has 'projection'"),
        (other(image_size=64), "image_size=64, the reference has 32"),
    ],
)
def test_networks_that_differ_in_more_than_size_have_no_ratios(config, said):
    with pytest.raises(SizeError, match=said):
        ratios(config, RESNET)

"""Statistics are found by width and depth: a size gets its own, or those between two widths of its own depth."""

import pytest
import torch

from neumeta_hf.errors import CheckpointError


@pytest.fixture
def family(make_case):
    """Of a network whose last stage has two blocks, the second of which a size may leave out."""
    return make_case("cifar_resnet", "keep").family()


@pytest.fixture
def images():
    torch.manual_seed(0)
    return [torch.randn(16, 3, 8, 8)]


def same(mine, theirs):
    states = mine.state_dict(), theirs.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][key], states[1][key]) for key in states[0]
    )


def test_a_stored_width_and_depth_needs_no_images(family, images, tmp_path):
    family.calibrate(images, [0.5, 1.0], [0.5, 1.0])
    family.save_pretrained(tmp_path)
    reloaded = type(family).from_pretrained(tmp_path)
    for width in (0.5, 1.0):
        for depth in (0.5, 1.0):
            expected = family.morph(width, depth=depth, calibration=images)
            assert same(family.morph(width, depth=depth), expected)
            assert same(reloaded.morph(width, depth=depth), expected)


def test_widths_lie_between_those_of_their_own_depth(family, images):
    near = [1.0, 15 / 16]
    family.calibrate(images, near, [1.0])
    size = family.size_at(0.95)
    assert family.statistics.covers(size)
    assert not family.statistics.covers(family.size_at(0.95, depth=0.5))
    with pytest.raises(CheckpointError, match="depths: 1"):
        family.morph(0.95, depth=0.5)


def test_statistics_of_a_depth_do_not_reach_another(family, images):
    family.calibrate(images, [1.0], [0.5])
    assert family.statistics.covers(family.size_at(1.0, depth=0.5))
    assert not family.statistics.covers(family.space.full)


def test_what_is_stored_stays_when_a_depth_cannot_be(family, images):
    family.calibrate(images, [0.5, 1.0], [1.0])
    before = family.morph(0.5)
    with pytest.raises(Exception, match="depth"):
        family.calibrate(images, depths=[1.0, 3.0])
    assert same(family.morph(0.5), before)
    assert list(family.config.statistics_depths) == [1.0]

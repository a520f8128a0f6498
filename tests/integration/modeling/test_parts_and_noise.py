"""A part of a network is generated and the rest is static; noise moves coordinates and nothing else."""

import copy

import pytest
import torch
from family_checks import INR, assert_same, images_of, tensors_of

from neumeta_hf.configuration_neumeta import MorphConfig
from neumeta_hf.coordinates import add_noise
from neumeta_hf.errors import SizeError, TargetError
from neumeta_hf.modeling_tasks import NeuMetaForImageClassification
from neumeta_hf.targets import find_target, resize
from target_axes import num_channels

# ------------------------------------------------------------------------------------------------ noise


def test_the_mean_of_samples_is_the_mean_of_single_ones(family):
    exact = family.coordinates_at(family.size_at(0.75))
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        singles = [
            family.hypernetwork(
                list(add_noise(exact, 1.0, scale=family.coordinate_scale, generator=generator).values())
            )
            for _ in range(4)
        ]
        mean = family.generate(0.75, noise=1.0, num_samples=4, seed=11)
    for index, (name, tensor) in enumerate(mean.items()):
        assert torch.allclose(tensor, torch.stack([single[index] for single in singles]).mean(0), atol=1e-6), name
    assert not torch.allclose(singles[0][0], singles[1][0])


def test_samples_are_a_function_of_the_seed(lenet_family):
    state = torch.get_rng_state()
    first, again, other = (tensors_of(lenet_family.morph(0.5, num_samples=3, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(first, again)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_one_sample_is_exact_and_without_noise_samples_do_not_matter(lenet_family):
    exact = lenet_family.generate(0.5)
    assert_same(lenet_family.generate(0.5, num_samples=5, noise=0.0, seed=3), exact)
    morph = tensors_of(lenet_family.morph(0.5, seed=9))
    for name, tensor in exact.items():
        assert torch.equal(morph[name], tensor)


def test_one_sample_with_noise_is_one_noisy_generation(lenet_family):
    noisy = lenet_family.generate(0.5, noise=1.0, seed=3)
    for morph in (
        lenet_family.morph(0.5, noise=1.0, seed=3),
        lenet_family.morph(MorphConfig(width=0.5, noise=1.0, seed=3)),
    ):
        tensors = tensors_of(morph)
        assert_same({name: tensors[name] for name in noisy}, noisy)
    assert not torch.equal(noisy["conv1.weight"], lenet_family.generate(0.5)["conv1.weight"])


def test_samples_of_a_morph_use_the_noise_of_training(lenet_case):
    family = lenet_case.family(coordinate_noise=0.25)
    assert_same(tensors_of(family.morph(0.5, num_samples=2)), tensors_of(family.morph(0.5, num_samples=2, noise=0.25)))


# ------------------------------------------------------------------------------------------------ parts of a network


@pytest.fixture(params=["fuse", "keep"])
def last_block(request, make_case):
    case = make_case("cifar_resnet", request.param)
    return case, case.family(generated=["layer3.1"])


def test_only_named_layers_are_generated(last_block):
    case, family = last_block
    assert family.generated_names
    assert all(name.startswith("layer3.1.") for name in family.generated_names)
    assert family.width_groups == ["stage3.block2"]
    assert family.config.width_groups == ["stage3.block2"]
    reference = case.reference.state_dict()
    for width in (1.0, 0.5):
        morph = family.morph(width)
        for name, tensor in morph.state_dict().items():
            if not name.startswith("layer3.1."):
                assert torch.equal(tensor, reference[name]), name
        assert morph.layer3[1].conv1.weight.shape == (round(8 * width), 8, 3, 3)
        assert num_channels(family.target_family, morph.config)["stage3.block1"] == 8


def test_static_batch_norm_keeps_its_statistics_whatever_is_measured(last_block):
    case, family = last_block
    images = images_of(family)
    reference = case.reference.state_dict()
    family.train()
    family(images, width=0.5)
    family.eval()
    if case.keeps:
        morph = family.morph(0.5, calibration=[images * 3 + 1])
        for name, tensor in morph.state_dict().items():
            if not name.startswith("layer3.1."):
                assert torch.equal(tensor, reference[name]), name
        assert not torch.equal(morph.layer3[1].bn2.running_mean, reference["layer3.1.bn2.running_mean"])
    for name, tensor in family.static.tensors().items():
        assert torch.equal(tensor, reference[name]), name


def test_a_part_of_a_network_reloads(last_block, tmp_path):
    _, family = last_block
    family.save_pretrained(tmp_path)
    reloaded = NeuMetaForImageClassification.from_pretrained(tmp_path)
    assert reloaded.width_groups == family.width_groups
    assert_same(tensors_of(reloaded.morph(0.5)), tensors_of(family.morph(0.5)))


def test_groups_that_are_held_fixed_cannot_be_asked_for(last_block):
    _, family = last_block
    with pytest.raises(SizeError, match=r"choose among stage3\.block2"):
        family.morph({"stage2": 0.5})
    config = resize(family.reference_config, {"stage2": 0.5})
    with pytest.raises(SizeError, match=r"changes stage2, .*holds fixed: only stage3\.block2 may differ"):
        family.morph(config)


def test_a_static_tensor_that_would_change_its_shape_is_refused(make_case):
    case = make_case("cifar_resnet")
    with pytest.raises(TargetError, match=r"'stage3' changes the shape of .*linear\.weight.*generate these too"):
        case.family(generated=["layer3"], width_groups=["stage3"])
    with pytest.raises(TargetError, match="leaves no width group free"):
        case.family(generated=["linear"])


def test_patterns_and_groups_that_match_nothing_are_refused(lenet_case):
    with pytest.raises(TargetError, match=r"generated='layer9' matches no parameter of lenet.*conv1\.weight"):
        lenet_case.family(generated=["*", "layer9"])
    with pytest.raises(
        TargetError, match=r"width_groups names \['conv7'\], which is unknown: lenet has conv1, conv2, conv3"
    ):
        lenet_case.family(width_groups=["conv7"])


def test_a_prefix_ends_at_a_dot(make_case):
    family = make_case("lenet").family(generated=["conv1", "conv2", "conv3", "linear"])
    assert len(family.generated_names) == 8
    with pytest.raises(TargetError, match="generated='conv' matches no parameter"):
        make_case("lenet").family(generated=["conv"])


def test_width_groups_can_be_a_part_of_what_is_free(lenet_case):
    family = lenet_case.family(width_groups=["conv2"])
    assert family.morph(0.5).config.hidden_channels == [4, 3, 8]


def test_groups_that_cannot_shrink_alone_are_found(make_case):
    case = make_case("cifar_resnet_identity")
    config = copy.deepcopy(case.config)
    config.stage_channels = [6, 6, 8]
    reference = find_target(config).build(config)
    family = NeuMetaForImageClassification.from_reference(reference, trained_widths=[0.5, 1.0], hypernetwork=INR)
    assert {"stage1", "stage2", "stage3"} <= set(family.width_groups)
    assert family.morph(0.5).config.stage_channels == [3, 3, 4]
